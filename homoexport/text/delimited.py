"""Rows of csv and tsv files (RFC 4180), and what is wrong with those that were written without its quotes."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence

from homoexport.errors import TextError
from homoexport.text.lines import Lines, longest_text, too_long

_QUOTES = "a bare quote? write it doubled in a quoted cell, or name GLUE's files by their task"


def delimited_rows(
    lines: Lines, columns: Collection[str], *, delimiter: str, where: str
) -> Iterator[dict[str, str | None]]:
    """The rows below the names of the columns, as dicts; a row that ends early has None for the rest.

    `lines` have their line breaks as they are. A column to read that is named twice, a row with more cells than the
    names and quotes that run over rows are refused (TextError).
    """
    csv.field_size_limit(longest_text())  # its own default of 128 KiB is less than a long article
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 0
    try:
        names = next(reader, None)
        if names is None:
            return
        _check_names(names, columns, delimiter=delimiter, where=where)
        lines.begin_row()
        for cells in reader:
            lines.begin_row()
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
