"""Paths and patterns of files as people write them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from homoexport.errors import UserError, refusing
from homoexport.limits import limit, raise_hint

Found = TypeVar("Found")

_SHOWN = 200  # characters of a path in a message


def at_home(path: Path | str) -> Path:
    """The path, whose `~` is the user's folder; UserError where no path can be written so."""
    with refusing(UserError, "is no path", where=str(path)[:_SHOWN], hint="write it without ~ or odd characters"):
        known = Path(path).expanduser()
        known.exists()
    return known


def matching(pattern: str) -> list[Path]:
    """The paths that a pattern matches, sorted; `**` is any folders, those of links too, none of them hidden.

    Raises:
        UserError: it leads to more files and folders than the limit.
    """
    with refusing(UserError, "cannot be looked for", where=pattern[:_SHOWN], hint="write another pattern"):
        return sorted(set(map(Path, _found(pattern))))


def _found(pattern: str) -> Iterator[str]:
    deep = re.search(r"(?:^|(?<=/))\*\*(/+|$)", pattern)
    if deep is None:
        yield from _few(glob.iglob(pattern), pattern)  # noqa: PTH207 - Path.glob takes no absolute pattern
        return
    rest = pattern[deep.end() :] or "*"
    for root in _found(pattern[: deep.start()] or "."):
        for folder, names, _ in _few(os.walk(root, followlinks=True), pattern):
            names[:] = sorted(name for name in names if not name.startswith("."))
            yield from _found(os.path.join(glob.escape(folder), rest))  # noqa: PTH118


def _few(found: Iterator[Found], pattern: str) -> Iterator[Found]:
    for number, each in enumerate(found):
        if number >= limit("files"):
            what = f"leads to more than {number} files or folders"
            raise UserError(what, where=pattern[:_SHOWN], hint=raise_hint("files"))
        yield each
