"""Runs the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from homoexport.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr with line breaks of wrapping undone."""

    code: int
    out: str
    err: str


@pytest.fixture
def homoexport(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Calls `homoexport ARGUMENTS...`."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["homoexport", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    return call
