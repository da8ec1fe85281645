"""What the product imports is what it asks for."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # of Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {"onnxruntime-extensions": "strings", "mteb": "mteb"}  # distributions, and the extra that asks for them
NOT_IMPORTED = {"requests"}  # by us; why it is asked for stands beside it


def name_of(requirement: str) -> str:
    """A requirement's distribution, as the index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def imported() -> set[str]:
    """Top-level modules that the product imports, at the top of files or inside functions."""
    names: set[str] = set()
    for path in (ROOT / "homoexport").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"homoexport"}


def test_every_import_is_asked_for_and_no_more_is():
    known = packages_distributions() | {"mteb": ["mteb"]}
    needed = {name_of(known[module][0]) for module in imported()}
    asked = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert asked == (needed - OPTIONAL.keys()) | NOT_IMPORTED
    for name, extra in OPTIONAL.items():
        assert name in {name_of(requirement) for requirement in PROJECT["optional-dependencies"][extra]}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_extras_are_not_empty(extra):
    assert PROJECT["optional-dependencies"][extra]
