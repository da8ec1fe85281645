"""One table, for the terminal and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from homoexport.plain import Markdown, markdown

_PARTS = re.compile(r"[^\s+]*\+|[^\s+]+")  # of words: they may break behind a plus


@dataclass(frozen=True)
class Table:
    """Cells under a head, which rich's consoles print as they are.

    Columns in `left` are set to the left, the others, which are mostly figures, to the right; rows in `bold` stand out
    in a terminal. With `by_column` what is compared are the columns, whose names are at the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    left: Collection[int] = (0,)
    bold: Collection[int] = ()
    by_column: bool = False

    def filled(self) -> Table:
        """The table without the columns that are empty in every row."""
        kept = [column for column in range(len(self.head)) if any(row[column] for row in self.rows)]
        return Table(
            [self.head[column] for column in kept],
            [[row[column] for column in kept] for row in self.rows],
            self.title,
            [place for place, column in enumerate(kept) if column in self.left],
            self.bold,
        )

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """For the terminal: lines break between words and behind a plus in a name, and nothing is cut. Where names at
        the head are too wide for that, they are told above it; where others are, each row is a block of lines."""
        title = [Text(self.title, style="italic")] if self.title else []
        numbers = [self.head[0], *map(str, range(1, len(self.head)))]
        numbered = replace(self, head=numbers, title="")
        if (widths := self._widths(options.max_width)) is not None:
            yield self._grid(widths)
        elif self.by_column and (widths := numbered._widths(options.max_width)) is not None:
            yield from title
            yield from (Text(f"{number}: {name}") for number, name in zip(numbers[1:], self.head[1:], strict=True))
            yield numbered._grid(widths)
        else:
            yield from title
            yield from self._blocks()

    def _widths(self, width: int) -> list[int] | None:
        """Of the columns, so that all fit; None where the longest parts of their words alone do not."""
        columns = list(zip(self.head, *self.rows, strict=True))
        natural = [max(cell_len(line) for cell in column for line in [*cell.split("\n"), ""]) for column in columns]
        widths = [max(cell_len(part) for cell in column for part in [*_PARTS.findall(cell), ""]) for column in columns]
        spare = width - 1 - sum(3 + each for each in widths)
        if spare < 0:
            return None
        lacking = [most - least for most, least in zip(natural, widths, strict=True)]
        for column in sorted(range(len(widths)), key=lacking.__getitem__):  # one long column breaks, rather than many
            given = min(spare, lacking[column])
            widths[column] += given
            spare -= given
        return widths

    def _grid(self, widths: Sequence[int]) -> RichTable:
        table = RichTable(title=Text(self.title) if self.title else None, title_justify="left")
        for column, (label, width) in enumerate(zip(self.head, widths, strict=True)):
            table.add_column(
                Text(_broken(label, width)), justify="left" if column in self.left else "right", width=width
            )
        for place, row in enumerate(self.rows):
            cells = [Text(_broken(cell, width)) for cell, width in zip(row, widths, strict=True)]
            table.add_row(*cells, style="bold" if place in self.bold else None)
        return table

    def _blocks(self) -> Iterator[RenderableType]:
        for place, row in enumerate(self.rows):
            style = "bold" if place in self.bold else ""
            name, *cells = (cell.replace("\n", ", ") for cell in row)
            yield Text(name, style=style)
            for label, cell in zip(self.head[1:], cells, strict=True):
                if cell:
                    yield Padding(Text(f"{label}: {cell}", style=style), (0, 0, 0, 4), expand=False)

    def markdown(self) -> Markdown:
        """As a table of Markdown's; a cell of several lines has commas between them."""
        alignment = ["---" if column in self.left else "---:" for column in range(len(self.head))]
        head, *rows = [[markdown(cell.replace("\n", ", ")) for cell in line] for line in (self.head, *self.rows)]
        lines: list[Sequence[str]] = [head, alignment, *rows]
        return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _broken(cell: str, width: int) -> str:
    """A cell whose words that are wider than its column are lines of as many parts as fit."""

    def lines_of(word: re.Match[str]) -> str:
        lines = [""]
        for part in _PARTS.findall(word[0]):
            if lines[-1] and cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
        return "\n".join(lines)

    return re.sub(r"\S+", lambda word: word[0] if cell_len(word[0]) <= width else lines_of(word), cell)
