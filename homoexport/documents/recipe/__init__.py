"""Recipes: one YAML file that says everything about a run, parsed strictly.

An unknown key is refused with the nearest known one. Algorithms never see a recipe: each stage gets its own section,
and leaves get plain values.
"""

from homoexport.documents.recipe.finetuning import FinetuneSettings, LabelledFiles, TeacherSettings
from homoexport.documents.recipe.parsing import load_recipe, parse_as, read_recipe_tree, section_of, with_target
from homoexport.documents.recipe.paths import looked_for
from homoexport.documents.recipe.quality import QualitySettings
from homoexport.documents.recipe.run import (
    BenchRecipe,
    ExportRecipe,
    FinetuneRecipe,
    GateRecipe,
    PlanRecipe,
    Recipe,
    Tree,
    TrimRecipe,
)
from homoexport.documents.recipe.sections import (
    SEED_STUDENTS,
    DistillSettings,
    ExportSettings,
    LossWeights,
    MeasureSettings,
    StudentShape,
    VocabularySettings,
)
from homoexport.documents.recipe.text import TextSettings, TextSource

__all__ = [
    "SEED_STUDENTS",
    "BenchRecipe",
    "DistillSettings",
    "ExportRecipe",
    "ExportSettings",
    "FinetuneRecipe",
    "FinetuneSettings",
    "GateRecipe",
    "LabelledFiles",
    "LossWeights",
    "MeasureSettings",
    "PlanRecipe",
    "QualitySettings",
    "Recipe",
    "StudentShape",
    "TeacherSettings",
    "TextSettings",
    "TextSource",
    "Tree",
    "TrimRecipe",
    "VocabularySettings",
    "load_recipe",
    "looked_for",
    "parse_as",
    "read_recipe_tree",
    "section_of",
    "with_target",
]
