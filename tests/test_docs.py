"""The recipes' fragments in the docs parse, each laid over the quickstart; their links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from homoexport.documents.recipe import Recipe, parse_as, read_recipe_tree

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FRAGMENTS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/distilling.md").read_text(), re.S)


def laid_over(tree: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in fragment.items():
        nested = isinstance(value, dict) and isinstance(tree.get(key), dict) and key != "student"
        merged[key] = laid_over(tree[key], value) if nested else value
    return merged


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_fragments_are_recipes(fragment):
    tree = laid_over(read_recipe_tree(ROOT / "recipes/quickstart.yaml"), yaml.safe_load(fragment))
    recipe = parse_as(Recipe, tree, where="docs/distilling.md")
    assert recipe.model_dump(exclude={"text", "student", "students", "distill"}) == parse_as(
        Recipe, read_recipe_tree(ROOT / "recipes/quickstart.yaml"), where="quickstart"
    ).model_dump(exclude={"text", "student", "students", "distill"})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_of_the_code_are_there(path):
    """Of links such as `[schedule.py](…/schedule.py): `widths_due``."""
    for target, names in re.findall(r"\]\((\.\./homoexport/[^)]+\.py)\): ((?:`\w+`(?:, )?)+)", path.read_text()):
        tree = ast.parse((path.parent / target).read_text(encoding="utf-8"))
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(re.findall(r"`(\w+)`", names)) <= known, target
