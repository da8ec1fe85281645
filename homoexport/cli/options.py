"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.errors import RecipeError

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, for example distill.steps=300. Repeatable."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output folder that homoexport wrote.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]
OutDir = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Output folder.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one inference.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences of one inference.")]
Length = Annotated[int, typer.Option(min=2, help="Tokens of one sequence.")]


def put(tree: dict[str, Any], section: str, **values: Any) -> None:
    """Write the flags that were given into a section of a recipe's tree."""
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return
    if not isinstance(tree.setdefault(section, {}), dict):
        raise RecipeError(f"'{section}' is not a section", where="recipe", mend=f"write the keys of {section} below it")
    tree[section].update(given)
