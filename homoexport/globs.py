"""Paths and patterns of files as people write them."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from homoexport.errors import UserError, refusing
from homoexport.limits import limit, raise_hint

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
        parts = Path(pattern).parts[bool(Path(pattern).anchor) :]
        return sorted(set(map(Path, _Search(pattern).find(Path(pattern).anchor or ".", parts or ["."]))))


class _Search:
    """A search for paths, which ends with a UserError where it has seen as much as the limit allows."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._left = pattern, limit("files")

    def find(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """The paths in a folder that the parts of a pattern match."""
        if parts[0] != "**":
            yield from self._match(folder, self._seen(_names(folder, parts[0])), parts)
            return
        rest = tuple(itertools.dropwhile("**".__eq__, parts)) or ("*",)
        for below, folders, files in os.walk(folder, followlinks=True):
            names = self._seen([*folders, *files])
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from self._match(below, names if glob.has_magic(rest[0]) else [rest[0]], rest)

    def _match(self, folder: str, names: Sequence[str], parts: Sequence[str]) -> Iterator[str]:
        """Of names in a folder those that match the first part, and what the others match in these."""
        part, *rest = parts
        if glob.has_magic(part):
            names = [name for name in fnmatch.filter(names, part) if part.startswith(".") or not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            if not rest and os.path.lexists(path):
                yield path
            elif rest and os.path.isdir(path):  # noqa: PTH112
                yield from self.find(path, rest)

    def _seen(self, names: Sequence[str]) -> Sequence[str]:
        self._left -= 1 + len(names)
        if self._left < 0:
            what = f"leads to more than {limit('files')} files and folders"
            raise UserError(what, where=self._pattern[:_SHOWN], hint=raise_hint("files"))
        return names


def _names(folder: str, part: str) -> list[str]:
    """What may match a part in a folder; nothing where that may not be read."""
    with suppress(OSError):
        return os.listdir(folder) if glob.has_magic(part) else [part]  # noqa: PTH208
    return []
