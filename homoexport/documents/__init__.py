"""What is kept and passed on: artifacts, budgets, recipes and figures, each with one reader and one writer."""
