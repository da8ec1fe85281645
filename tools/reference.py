"""Writes the reference pages out of the code: docs/recipe-reference.md and docs/cli-reference.md.

    python tools/reference.py [--check]

`--check` writes nothing, and ends with exit code 1 when a page is not what the code says.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from homoexport.cli.app import command_names, load_command
from homoexport.documents.recipe import FinetuneRecipe, Recipe, section_of
from homoexport.limits import LIMITS
from homoexport.shape import Count

DOCS = Path(__file__).parents[1] / "docs"
_MADE = "<!-- Written by `python tools/reference.py`; edit the code, not this page. -->"


def recipe_page() -> str:
    """All keys of recipes: their types, bounds, defaults and what they say."""
    parts = [
        "# Recipe reference",
        _MADE,
        "A recipe is a YAML file. `homoexport run`, `distill` and `plan` read the first kind below, `homoexport "
        "finetune` the second. An unknown key is refused. On the command line, `--set KEY=VALUE` overrides a key, "
        "such as `--set distill.steps=300`. Files and folders are looked for in the recipe's own folder first, then in "
        "the working directory. `homoexport init` writes a recipe to begin with, and `homoexport run --check` says "
        "what would stop one.",
        "A recipe can be someone else's: all that it can do is to read models and text (files, and what the hub has "
        "under the names in it), to compute, and to write the output folder that you name. Devices that start a "
        "program by its path (`web:browser=`) or log in elsewhere (`ssh://`), and trackers that upload, are "
        "refused in a file; give them on the command line, with `--device` or `--set`. A target's recipe "
        "(`--target`) may name a machine to log in to, without options.",
        "## A run's recipe",
        *_tables(Recipe, ""),
        "## A recipe for fine-tuning",
        *_tables(FinetuneRecipe, "", of=" (of a recipe for fine-tuning)"),
    ]
    return "\n\n".join(parts) + "\n"


def _tables(kind: type[BaseModel], place: str, of: str = "") -> Iterator[str]:
    """The table of a section, and those of the sections in it; `of` tells their headings from another recipe's."""
    if place:
        yield f"### `{place}`{of}"
        yield inspect.cleandoc(kind.__doc__ or "").replace("\n", " ")
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    sections = []
    for name, field in kind.model_fields.items():
        default = "required" if field.is_required() else _shown(field.default)
        rows.append(f"| `{name}` | {_cell(_value(field))} | {default} | {_cell(field.description or '')} |")
        if section := section_of(field.annotation):
            sections.append((section, f"{place}.{name}".removeprefix(".")))
    yield "\n".join(rows)
    seen = dict(reversed(sections))  # by the first place where a section stands
    for section, inner in sections:
        if seen[section] == inner:
            yield from _tables(section, inner, of)
        else:
            yield f"### `{inner}`{of}"
            yield f"Each takes the keys of `{seen[section]}`."


def _shown(default: Any) -> str:
    if default in (None, PydanticUndefined, (), {}) or isinstance(default, BaseModel):
        return ""
    return f"`{list(default) if isinstance(default, tuple) else default}`".replace("'", "")


def _value(field: FieldInfo) -> str:
    """What a key takes, with its bounds."""
    signs = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{words} {getattr(rule, sign):g}"
        for rule in field.metadata
        for sign, words in signs.items()
        if isinstance(getattr(rule, sign, None), int | float) and getattr(rule, sign) < 2**32
    ]
    return ", ".join([_kind(field.annotation), *bounds])


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        is_count = any(rule in arguments for rule in get_args(Count)[1:])
        return f"{_kind(arguments[0])}{', 12k is 12000' * is_count}"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(each) for each in arguments if each is not NoneType)
    if origin in (tuple, list):
        first, *rest = _kind(arguments[0]).split(", ")
        return ", ".join([f"list of {first}{'s' * (first in ('whole number', 'number', 'text', 'section'))}", *rest])
    if origin is dict:
        return f"{_kind(arguments[1])} by name"
    if issubclass(annotation, BaseModel):
        return "section"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[annotation]


def cli_page() -> str:
    """All commands with their arguments and options."""
    parts = [
        "# Command reference",
        _MADE,
        "`homoexport COMMAND --help` says the same. Exit codes: 0 done; 1 a failure of ours; 2 wrong usage or bad "
        "input; 3 done, but a budget or an accuracy gate is missed or not proven; 130 stopped by Ctrl-C.",
    ]
    for name in command_names():
        command = load_command(name)
        context = typer.Context(command, info_name=f"homoexport {name}")
        parts += [f"## `homoexport {name}`", inspect.cleandoc(command.help)]
        rows = ["| | |", "|---|---|"]
        for parameter in sorted(command.params, key=lambda each: each.param_type_name != "argument"):
            names, text = parameter.get_help_record(context)
            rows.append(f"| `{_cell(' '.join(names.split()))}` | {_cell(' '.join(text.split()))} |")
        parts.append("\n".join(rows))
    rows = ["| limit | default | |", "|---|---|---|"]
    rows += [f"| `{name}` | {limit.default} | {limit.help} |" for name, limit in LIMITS.items()]
    parts += [
        "## Limits",
        "Files can be someone else's, and made to take all memory or time. What goes beyond a limit is refused, with "
        "the name of the limit. `--limit NAME=N` of each command, or the environment variable `HOMOEXPORT_LIMITS` "
        "(`line_characters=8000000,files=500000`), changes it; a recipe cannot.",
        "\n".join(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"recipe-reference.md": recipe_page, "cli-reference.md": cli_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 when a page is not current.")
    check = parser.parse_args().check
    old = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            old.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if old:
        print(f"{'not current' if check else 'written'}: {', '.join(old)}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
