"""Running packages without torch: inference on texts, and the worker process that is measured."""
