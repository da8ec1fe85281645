"""Limits: their defaults, and what changes them."""

from __future__ import annotations

import pytest

from homoexport.errors import UserError
from homoexport.limits import LIMITS, VARIABLE, change_limits, limit


def test_flags_lie_over_the_environment_over_defaults(monkeypatch):
    monkeypatch.setenv(VARIABLE, "line_characters=7,files=5")
    change_limits(["files=6"])
    assert (limit("line_characters"), limit("files"), limit("members")) == (7, 6, LIMITS["members"].default)


@pytest.mark.parametrize("assignment", ["lines=1", "files", "files=0", "files=-1", "files=²", "files=1e3", "="])
def test_what_is_no_limit_is_refused(monkeypatch, assignment):
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match="--limit"):
        change_limits([assignment])
    assert limit("files") == LIMITS["files"].default


def test_a_wrong_variable_is_told_by_its_name(monkeypatch):
    monkeypatch.setenv(VARIABLE, "lines=1")
    for use in (lambda: limit("files"), lambda: change_limits(["files=1"])):
        with pytest.raises(UserError, match=f"^{VARIABLE}: unknown limit 'lines'"):
            use()


def test_every_command_takes_the_flag(homoexport, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("# " + "x" * 2000)
    outcome = homoexport("run", recipe, "--limit", "recipe_kb=1", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "is larger than 1 kB; where you trust it, raise the limit of 1 with --limit recipe_kb=N" in outcome.err
