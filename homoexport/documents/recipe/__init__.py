"""Recipes: one YAML file that says everything about a run, parsed strictly.

An unknown key is refused with the nearest known one. Algorithms never see a recipe: each stage gets its own section,
and leaves get plain values.
"""

from homoexport.documents.recipe.parsing import load_recipe, parse_as, parse_recipe, read_recipe_tree, with_target
from homoexport.documents.recipe.run import FinetuneRecipe, PlanRecipe, Recipe
from homoexport.documents.recipe.sections import (
    GLUE_TASKS,
    SEED_STUDENTS,
    AttentionKind,
    DistillSettings,
    ExportSettings,
    FinetuneSettings,
    Importance,
    JudgedTask,
    LossWeights,
    MeasureSettings,
    Method,
    Objective,
    PruneGroup,
    QualitySettings,
    Schedule,
    StudentShape,
    TextSettings,
    TextSource,
)

__all__ = [
    "GLUE_TASKS",
    "SEED_STUDENTS",
    "AttentionKind",
    "DistillSettings",
    "ExportSettings",
    "FinetuneRecipe",
    "FinetuneSettings",
    "Importance",
    "JudgedTask",
    "LossWeights",
    "MeasureSettings",
    "Method",
    "Objective",
    "PlanRecipe",
    "PruneGroup",
    "QualitySettings",
    "Recipe",
    "Schedule",
    "StudentShape",
    "TextSettings",
    "TextSource",
    "load_recipe",
    "parse_as",
    "parse_recipe",
    "read_recipe_tree",
    "with_target",
]
