"""One table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from homoexport.plain import Markdown, markdown


@dataclass(frozen=True)
class Table:
    """Cells under a head, which rich's consoles print as they are.

    Columns in `left` are set to the left, the others, which are mostly figures, to the right; rows in `bold` stand out
    in a terminal.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    left: Collection[int] = (0,)
    bold: Collection[int] = ()

    def filled(self) -> Table:
        """The table without the columns that are empty in every row."""
        kept = [column for column in range(len(self.head)) if any(row[column] for row in self.rows)]
        return Table(
            [self.head[column] for column in kept],
            [[row[column] for column in kept] for row in self.rows],
            self.title,
            [place for place, column in enumerate(kept) if column in self.left],
        )

    def __rich__(self) -> RichTable:
        """For the terminal; long cells are folded, never cut."""
        table = RichTable(title=Text(self.title) if self.title else None, title_justify="left")
        for column, label in enumerate(self.head):
            table.add_column(Text(label), justify="left" if column in self.left else "right", overflow="fold")
        for place, row in enumerate(self.rows):
            table.add_row(*map(Text, row), style="bold" if place in self.bold else None)
        return table

    def markdown(self) -> Markdown:
        """As a table of Markdown's; a cell of several lines has commas between them."""
        alignment = ["---" if column in self.left else "---:" for column in range(len(self.head))]
        head, *rows = [[markdown(cell.replace("\n", ", ")) for cell in line] for line in (self.head, *self.rows)]
        lines: list[Sequence[str]] = [head, alignment, *rows]
        return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))
