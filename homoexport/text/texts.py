"""Texts of files or of a stream, one after the other, for what goes through all of them once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from homoexport.errors import TextError, refusing
from homoexport.text.lines import Lines

_CHECKED = 20  # files whose columns are looked at before the first text is given
_SAMPLE = 1 << 20  # bytes of a file, for how long its rows are
_PLAIN = (".txt", ".jsonl", ".csv", ".tsv")


class Given(NamedTuple):
    """A row: its text, or both of its texts; and what its file calls it, where that was asked for."""

    text: str | tuple[str, str]
    name: Any = None

    @property
    def is_empty(self) -> bool:
        both = self.text if isinstance(self.text, str) else "".join(self.text)
        return not both.strip()


def lines_of(stream: BinaryIO, where: str) -> Iterator[Given]:
    """A text for each line of a stream, blank ones too. Only a newline ends a line, or CR and newline.

    Raises:
        TextError: it cannot be read, is not UTF-8, or has a line beyond the limit.
    """
    with refusing(TextError, "cannot be read", where=where, hint="give lines of text"):
        decoded = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            for line in Lines(decoded, where, ends="\n").rows():
                yield Given(line.removesuffix("\n").removesuffix("\r"))
        except UnicodeDecodeError as error:
            hint = "convert it to UTF-8"
            raise TextError(f"is not UTF-8 ({error.reason})", where=where, hint=hint) from None
        finally:
            decoded.detach()  # else the stream would be closed with it


class TextFiles:
    """The rows of files in `text.sources`' formats, by the columns that are read of them.

    Raises:
        TextError: no file matches a glob, one is of no format that can be read, or one of the first lacks a column.
    """

    def __init__(
        self, globs: Sequence[str], *, column: str, pair_column: str | None = None, id_column: str | None = None
    ) -> None:
        # Imported where there are files: pyarrow takes more memory than a small model.
        from homoexport.text.sources import find_files, placed_rows, refuse_column_of_lines

        named = {"text": column, "pair": pair_column, "id": id_column}
        self._columns = {role: name for role, name in named.items() if name is not None}
        self._files = [entry for each in globs for entry in find_files(each)]
        refuse_column_of_lines(self._files, column, ", ".join(globs))
        for entry in self._files[:_CHECKED]:
            next(placed_rows([entry], self._columns, empty=True), None)

    @property
    def paths(self) -> set[Path]:
        """The files, archives among them."""
        return {Path(path).resolve() for path, *_ in self._files}

    def rows(self) -> Iterator[Given]:
        """Every row, one without text too, by the order of the globs; blank lines of txt and jsonl files are none."""
        from homoexport.text.sources import placed_rows

        is_paired = "pair" in self._columns
        for _, cells in placed_rows(self._files, self._columns, empty=True):
            # A line of a txt file still has its break, which would be a token to some tokenizers.
            text = (cells["text"] or "").rstrip("\r\n")
            yield Given((text, cells["pair"] or "") if is_paired else text, cells.get("id"))

    def about(self) -> int | None:
        """About how many rows there are, by each file's beginning or footer; None where one is packed."""
        counts = [_rows_about(Path(path)) for path, *_ in self._files]
        return sum(filter(None, counts)) if None not in counts else None


def _rows_about(path: Path) -> int | None:
    if path.suffix.lower() == ".parquet":
        from homoexport.text.parquet import rows_in

        return rows_in(str(path))
    if path.suffix.lower() not in _PLAIN:
        return None
    with refusing(TextError, "cannot be read", where=str(path), hint="copy or write it again"):
        with path.open("rb") as file:
            sample = file.read(_SAMPLE)
        return round(sample.count(b"\n") / len(sample) * path.stat().st_size) if sample else 0
