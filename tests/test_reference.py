"""The reference pages say what the recipes and the commands say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = runpy.run_path(str(ROOT / "tools/reference.py"))["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_reference_is_current(name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run python tools/reference.py"


def test_every_key_says_what_it_is():
    page = (ROOT / "docs/recipe-reference.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []
