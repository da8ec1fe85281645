"""Rows of csv and tsv files (RFC 4180), and what is wrong with those that were written without its quotes.

In many tsv files, GLUE's among them, quotes are characters as all others: a line there that is not as RFC 4180 has it,
but has a cell for each column between its tabs, is read so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence

from homoexport.errors import TextError
from homoexport.text.lines import Lines, longest_text, too_long

_QUOTES = "a bare quote? write it doubled in a quoted cell"


def delimited_rows(
    lines: Lines, columns: Collection[str], *, delimiter: str, where: str
) -> Iterator[dict[str, str | None]]:
    """The rows below the names of the columns, as dicts; a row that ends early has None for the rest.

    `lines` have their line breaks as they are. A column to read that is named twice, a row with more cells than the
    names and quotes that run over rows are refused (TextError).
    """
    csv.field_size_limit(longest_text())  # its own default of 128 KiB is less than a long article
    quoted = _Quoted(lines)
    reader = csv.reader(quoted if delimiter == "\t" else lines, delimiter=delimiter, strict=True)
    number = 0
    try:
        names = next(reader, None)
        if names is None:
            return
        _check_names(names, columns, delimiter=delimiter, where=where)
        quoted.begin_row(len(names))
        for cells in reader:
            quoted.begin_row(len(names))
            number += bool(cells)
            if cells:
                _check_cells(cells, names, delimiter=delimiter, where=f"{where}, row {number}")
                yield dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=False))
    except csv.Error as error:
        at = f"{where}, row {number + 1}"
        if "field larger" in str(error):
            raise too_long(at) from None
        if "NUL" in str(error):
            raise TextError(f"cannot be read ({error})", where=at, hint="copy or write it again") from None
        raise TextError("has a quoted cell that does not end as one", where=at, hint=_QUOTES) from None


class _Quoted:
    """Lines of a tsv file, those whose quotes are plain characters written as RFC 4180 has them.

    A text of several lines in a quoted cell has no tabs, so a row that begins with a cell for each column ends with its
    line, unless the last cell is quoted and the next line is no row.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines, self._ahead = lines, ""
        self._columns, self._begins_row = 0, True

    def begin_row(self, columns: int) -> None:
        """What comes now is of another row."""
        self._lines.begin_row()
        self._columns, self._begins_row = columns, True

    def __iter__(self) -> _Quoted:
        return self

    def __next__(self) -> str:
        line, self._ahead = self._ahead or next(self._lines), ""
        begins_row, self._begins_row = self._begins_row, False
        if not begins_row or '"' not in line:
            return line
        cells = line.rstrip("\r\n").split("\t")
        if not len(cells) == self._columns > 1 or _cells_of(line) == len(cells):
            return line
        if _cells_of("\t".join(cells[:-1])) == len(cells) - 1:
            self._ahead = next(self._lines, "")
            if self._ahead and self._ahead.count("\t") != self._columns - 1:
                return line
        doubled = (cell.replace('"', '""') for cell in cells)
        return "\t".join(f'"{cell}"' for cell in doubled) + "\n"


def _cells_of(line: str) -> int:
    """Number of cells of a line by RFC 4180, 0 where a quoted one does not end as such within it."""
    try:
        return len(next(csv.reader([line], delimiter="\t", strict=True), ()))
    except csv.Error:
        return 0


def _check_names(names: Sequence[str], columns: Collection[str], *, delimiter: str, where: str) -> None:
    expected = "tabs" if delimiter == "\t" else "commas"
    hint = f"write the columns' names there, with {expected} between them"
    if not names:
        raise TextError("its first line is blank", where=where, hint=hint)
    if len(names) == 1 and names[0] not in columns and (other := re.search(r"[;,\t|]", names[0])):
        what = f"its first line, '{names[0]}', has '{other[0].replace(chr(9), 'a tab')}' where {expected} should be"
        raise TextError(what, where=where, hint=f"write it with {expected}")
    if twice := next((name for name in columns if names.count(name) > 1), None):
        raise TextError(f"has two columns '{twice}'", where=where, hint="rename one of them")


def _check_cells(cells: Sequence[str], names: Sequence[str], *, delimiter: str, where: str) -> None:
    """Refuse what a quote has swallowed, and what no column is there for.

    Prose of several lines in one cell may well have commas in it; it does not have tabs.
    """
    broken = [cell for cell in cells if "\n" in cell or "\r" in cell]
    beyond = any(cells[len(names) :])
    if broken and (beyond or len(cells) < len(names) or any("\t" in cell for cell in broken)):
        raise TextError("has a cell that runs over several rows", where=where, hint=_QUOTES)
    if beyond:
        what = f"has {len(cells)} cells where the first line names {len(names)} columns"
        quoted = "a tab in a text?" if delimiter == "\t" else "a comma in a text?"
        raise TextError(what, where=where, hint=f"{quoted} write that text in quotes")
