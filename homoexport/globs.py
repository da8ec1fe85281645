"""Paths and patterns of files as people write them."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator
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
        return sorted(set(map(Path, _Search(pattern).find(pattern))))


class _Search:
    """A search for paths, which ends with a UserError where it has seen as much as the limit allows."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._left = pattern, limit("files")

    def find(self, pattern: str) -> Iterator[str]:
        """The paths that a part of the pattern matches."""
        deep = re.search(r"(?:^|(?<=/))\*\*(/+|$)", pattern)
        if deep is None:
            for path in glob.iglob(pattern):  # noqa: PTH207 - Path.glob takes no absolute pattern
                self._count(1)
                yield path
            return
        rest = pattern[deep.end() :] or "*"
        for root in self.find(pattern[: deep.start()] or "."):
            for folder, folders, files in os.walk(root, followlinks=True):
                self._count(1 + len(folders) + len(files))
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                if "/" in rest:
                    yield from self.find(os.path.join(glob.escape(folder), rest))  # noqa: PTH118
                else:
                    seen = [name for name in (*folders, *files) if rest.startswith(".") or not name.startswith(".")]
                    yield from (os.path.join(folder, name) for name in fnmatch.filter(seen, rest))  # noqa: PTH118

    def _count(self, found: int) -> None:
        self._left -= found
        if self._left < 0:
            what = f"leads to more than {limit('files')} files and folders"
            raise UserError(what, where=self._pattern[:_SHOWN], hint=raise_hint("files"))
