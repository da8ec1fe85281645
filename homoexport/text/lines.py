"""Lines of text out of files, plain or compressed, within the limits."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, TextIO

from homoexport.errors import TextError
from homoexport.limits import limit, raise_hint
from homoexport.packaged import check_expansion

_CHARACTERS_AT_ONCE = 1 << 16


class Lines:
    """The lines of a stream, with their breaks as they are, of which a row has no more characters than the limit.

    `ends` is what ends a line, as `open` has it: by default any of the three kinds.
    """

    def __init__(self, stream: TextIO, where: str, *, ends: str = "") -> None:
        self._where, self._ends = where, ends
        self._most = self._left = longest_text()
        self._lines = self._cut(stream)

    def _cut(self, stream: TextIO) -> Iterator[str]:
        """The lines; of the last one only as much is read at a time as the limit lets it grow."""
        rest = ""
        while part := stream.read(_CHARACTERS_AT_ONCE):
            *whole, rest = io.StringIO(rest + part, newline=self._ends)
            yield from whole
            if len(rest) > self._most:
                raise too_long(self._where)
        if rest:
            yield rest

    def begin_row(self) -> None:
        """What comes now is of another row."""
        self._left = self._most

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._left -= len(line)
        if self._left < 0:
            raise too_long(self._where)
        return line

    def rows(self) -> Iterator[str]:
        """The lines, each of which is a row."""
        for line in self._lines:
            if len(line) > self._most:
                raise too_long(self._where)
            yield line


def longest_text() -> int:
    """Characters that a line, a row or a cell may have."""
    return limit("line_characters")


def too_long(where: str) -> TextError:
    """What is said of a text beyond them."""
    what = f"has a line, a row or a cell of more than {longest_text()} characters"
    return TextError(what, where=where, hint=f"give a text a line, or {raise_hint('line_characters')}")


class Unpacked(io.RawIOBase):
    """What a decompressor gives of a file of so many bytes, within the limit."""

    def __init__(self, stream: Any, size: int, where: str) -> None:
        self._stream, self._size, self._where = stream, size, where
        self._given = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        count = int(self._stream.readinto(buffer))
        self._given += count
        check_expansion(self._given, self._size, self._where)
        return count
