"""Ceilings on what files of strangers may make this process read, hold or wait for.

Each has a default here. `--limit NAME=NUMBER` of any command, or NAME=NUMBER,... in the environment variable
HOMOEXPORT_LIMITS, changes them; a recipe cannot, for it may be a stranger's itself.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Literal, NamedTuple, get_args

from homoexport.errors import UserError

VARIABLE = "HOMOEXPORT_LIMITS"
MB = 10**6
SECONDS_PER_TOKEN = 0.05  # of an inference, on the slowest of real machines
LimitName = Literal[
    "line_characters",
    "whole_mb",
    "expansion",
    "members",
    "files",
    "recipe_kb",
    "config_mb",
    "tokenizer_mb",
    "layers",
    "answer_seconds",
]


class Limit(NamedTuple):
    """A default, and what it is a ceiling of."""

    default: int
    help: str


LIMITS: dict[LimitName, Limit] = {
    "line_characters": Limit(MB, "characters of one text: a line, a row or a cell"),
    "whole_mb": Limit(256, "megabytes of text that is read at once: texts to measure with, GLUE's files"),
    "expansion": Limit(50, "times its own size that a compressed file may unpack to, once that is more than 16 MB"),
    "members": Limit(10_000, "files in one archive"),
    "files": Limit(100_000, "files and folders that a pattern of text files may lead to"),
    "recipe_kb": Limit(512, "kilobytes of a recipe"),
    "config_mb": Limit(4, "megabytes of a model's config.json, and of each other file of settings"),
    "tokenizer_mb": Limit(64, "megabytes of each file of a tokenizer"),
    "layers": Limit(1000, "layers that a model's config.json may ask for"),
    "answer_seconds": Limit(60, "seconds to wait for a model's answer, beyond 50 ms for each token of its input"),
}


def limit(name: LimitName) -> int:
    """The ceiling that holds now.

    Raises:
        UserError: HOMOEXPORT_LIMITS cannot be read.
    """
    return _changed(os.environ.get(VARIABLE, ""), VARIABLE).get(name, LIMITS[name].default)


def change_limits(assignments: list[str]) -> None:
    """Change ceilings of this process and of those that it starts; each is NAME=NUMBER.

    Raises:
        UserError: another name, or no whole number above 0.
    """
    before, added = os.environ.get(VARIABLE, ""), ",".join(assignments)
    _changed(before, VARIABLE)
    _changed(added, "--limit")
    os.environ[VARIABLE] = f"{before},{added}"


@cache
def _changed(text: str, where: str) -> dict[str, int]:
    changed = {}
    for assignment in filter(None, text.split(",")):
        name, _, number = assignment.partition("=")
        if name not in get_args(LimitName):
            raise UserError(f"unknown limit '{name}'", where=where, hint=f"known are {', '.join(LIMITS)}")
        if not (number.isascii() and number.isdecimal() and 0 < int(number[:19]) < 10**18):
            raise UserError(f"'{assignment}' is no limit", where=where, hint=f"write it as {name}=100")
        changed[name] = int(number)
    return changed


def raise_hint(name: LimitName) -> str:
    """What to do where a file that is trusted goes beyond a ceiling."""
    return f"where you trust it, raise the limit of {limit(name)} with --limit {name}=N"
