"""Data files that the package carries, and what reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from homoexport import plain

FOLDER = Path(__file__).parent


@cache
def sample_text() -> tuple[str, ...]:
    """English sentences of our own, from 3 words to about 100, for where no text is given."""
    return tuple((FOLDER / "sample_text.txt").read_text(encoding="utf-8").splitlines())


def rendered(template: str, **values: object) -> str:
    """A page of Markdown out of a template of this folder; a value that is missing is an error.

    Every value is escaped but what is Markdown already; the filters `code`, `literal`, `line` and `block` are for
    places in code and in its comments.
    """
    templates = _templates(
        finalize=lambda value: value if isinstance(value, plain.Markdown) else plain.markdown(str(value))
    )
    templates.filters.update(code=plain.code, literal=plain.literal, line=plain.line, block=plain.block)
    return templates.get_template(template).render(**values)


def rendered_html(template: str, **values: object) -> str:
    """A page of HTML out of a template of this folder; every value is escaped but where the template calls it safe."""
    return _templates(autoescape=True).get_template(template).render(**values)


def _templates(**how: Any) -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        **how,
    )
