"""Data files that the package carries, and what reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent


@cache
def sample_text() -> tuple[str, ...]:
    """English sentences of our own, from 3 words to about 100, for where no text is given."""
    return tuple((FOLDER / "sample_text.txt").read_text(encoding="utf-8").splitlines())


def rendered(template: str, **values: object) -> str:
    """A page of Markdown out of a template of this folder; a value that is missing is an error."""
    # Nothing is escaped, as it would be for HTML.
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return templates.get_template(template).render(**values)
