"""Data files that the package carries, and what reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def sample_text() -> tuple[str, ...]:
    """English sentences of our own, from 3 words to about 100, for where no text is given."""
    return tuple((FOLDER / "sample_text.txt").read_text(encoding="utf-8").splitlines())
