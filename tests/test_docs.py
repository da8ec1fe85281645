"""Fragments of recipes in the docs parse, their links lead somewhere, and what they quote stands there."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from homoexport.cli.app import load_command
from homoexport.documents.recipe import Recipe, parse_as, read_recipe_tree
from tests.snippets import snippets, table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {"teacher", "finetune", "text", "student", "students", "distill", "quality"}  # what fragments may say
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
    quickstart = parse_as(Recipe, read_recipe_tree(ROOT / "recipes/quickstart.yaml"), where="quickstart")
    assert recipe.model_dump(exclude=SHOWN) == quickstart.model_dump(exclude=SHOWN)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            page = path.parent / target if target else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub and mkdocs have them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_of_the_code_are_there(path):
    """Of links such as `[schedule.py](…/schedule.py): `widths_due``."""
    for target, names in re.findall(r"\]\((\.\./homoexport/[^)]+\.py)\): ((?:`\w+`(?:, )?)+)", path.read_text()):
        tree = ast.parse((path.parent / target).read_text(encoding="utf-8"))
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(re.findall(r"`(\w+)`", names)) <= known, target


def test_a_family_is_quoted_as_it_is():
    (code,) = snippets("adding-a-family.md", "A post-norm encoder: names", "python")
    assert code in (ROOT / "homoexport/encoder/bert.py").read_text(encoding="utf-8")


def test_ci_s_pages_call_what_is_there():
    """GitHub's names inputs of action.yml; GitLab's calls the command with flags that it has."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    (page,) = snippets("ci.md", "GitHub", "yaml")
    *_, step = yaml.safe_load(page)["jobs"]["package"]["steps"]
    required = {name for name, each in action["inputs"].items() if each.get("required")}
    assert required <= step["with"].keys() <= action["inputs"].keys()
    (called,) = (each["env"] for each in action["runs"]["steps"] if each.get("id") == "gate")
    script = (ROOT / ".github/gate.sh").read_text(encoding="utf-8")
    for flag, variable in re.findall(r'^given (--[a-z-]+) "\$(\w+)"$', script, re.M):
        assert called[variable] == f"${{{{ inputs.{flag[2:]} }}}}"
    assert called.keys() == set(re.findall(r"\$(?:\{)?([A-Z_]+)\b", script)) - {
        "RUNNER_TEMP",
        "GITHUB_STEP_SUMMARY",
        "GITHUB_OUTPUT",
    }
    (page,) = snippets("ci.md", "GitLab", "yaml")
    (line,) = (line for line in yaml.safe_load(page)["package"]["script"] if line.startswith("homoexport "))
    _, name, *words = shlex.split(line)
    load_command(name).make_context(name, words)


def test_what_can_be_installed_is_there():
    """Extras are pyproject's, locks and images are files' and the Dockerfile's, and its files are let in."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {row[0].strip("`") for row in table("installing.md", "Extras")} == extras.keys() - {"dev", "interop"}
    page, docker = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/installing.md", "Dockerfile"))
    for lock in set(re.findall(r"requirements-\w+-lock\.txt", page + docker)):
        assert (ROOT / lock).is_file()
    images = re.findall(r"^FROM \S+ AS (\w+)$", docker, re.M)
    assert set(re.findall(r"--target (\w+)", page)) <= set(images)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.M) for name in line.split()}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
