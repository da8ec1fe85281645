"""Files of vectors, or of other answers to texts, that are written as these come: npy, and parquet with ids.

N rows, W rows at once, D width.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy

from homoexport.documents.document import new_file
from homoexport.documents.output import make_folder, output_errors
from homoexport.errors import TextError, UserError
from homoexport.runtime.inference import FloatArray

_SUFFIXES = (".npy", ".parquet")
_FLOAT = "<f4"


class VectorsFile(Protocol):
    """A file that takes vectors [W, D], with what their texts are called, and is whole after `end`."""

    def write(self, vectors: FloatArray, names: Sequence[Any]) -> None: ...
    def end(self) -> None: ...


class NpyFile:
    """A matrix [N, D] as numpy.save writes it; names are left out.

    Its header says how many rows there are: it is written again at the end, in the same place.
    """

    def __init__(self, file: BinaryIO, width: int) -> None:
        self._file, self._width, self._rows = file, width, 0
        self._file.write(self._header())

    def _header(self) -> bytes:
        header = io.BytesIO()
        shape = (self._rows, self._width)
        npy.write_array_header_1_0(header, {"descr": _FLOAT, "fortran_order": False, "shape": shape})
        return header.getvalue()

    def write(self, vectors: FloatArray, names: Sequence[Any]) -> None:  # noqa: ARG002
        """Vectors [W, D] behind those before."""
        self._file.write(np.ascontiguousarray(vectors, _FLOAT).data)
        self._rows += len(vectors)

    def end(self) -> None:
        """Say how many rows there are."""
        place, header = self._file.tell(), self._header()
        assert len(header) == place - 4 * self._rows * self._width, "numpy leaves room for more rows"
        self._file.seek(0)
        self._file.write(header)
        self._file.seek(place)


class ParquetFile:
    """A table of `row` (from 0), `id` if texts have names, and a list of D floats, called `vector` or otherwise."""

    def __init__(self, file: BinaryIO, width: int, *, called: str, named: bool) -> None:
        # Imported where it is asked for: it takes more memory than a small model.
        import pyarrow.parquet  # type: ignore[import-untyped]

        self._arrow, self._file, self._named, self._rows = pyarrow, file, named, 0
        self._called, self._vector = called, pyarrow.list_(pyarrow.float32(), width)
        self._kind: Any = None  # of names
        self._writer: Any = None

    def write(self, vectors: FloatArray, names: Sequence[Any]) -> None:
        """Vectors [W, D] behind those before, a group of rows."""
        arrow = self._arrow
        columns = {"row": arrow.array(np.arange(self._rows, self._rows + len(vectors)))}
        if self._named:
            columns["id"] = self._names(names)
        flat = arrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        columns[self._called] = arrow.FixedSizeListArray.from_arrays(flat, type=self._vector)
        table = arrow.table(columns)
        if self._writer is None:
            # Floats of vectors are all different, and no compressor makes them smaller.
            self._writer = arrow.parquet.ParquetWriter(
                self._file, table.schema, use_dictionary=False, compression="none"
            )
        self._writer.write_table(table)
        self._rows += len(vectors)

    def _names(self, names: Sequence[Any]) -> Any:
        found = {type(name) for name in names if name is not None}
        self._kind = self._kind or next(iter(found), None)
        if self._kind not in (str, int, None) or found - {self._kind}:
            what = f"ids are {' and '.join(sorted(kind.__name__ for kind in found | {self._kind}))}"
            raise TextError(what, where="id_column", hint="name a column of texts, or one of whole numbers")
        return self._arrow.array(names, self._arrow.int64() if self._kind is int else self._arrow.string())

    def end(self) -> None:
        """Write the footer."""
        if self._writer is None:  # the types of no rows at all
            self.write(np.empty((0, self._vector.list_size), np.float32), [])
        self._writer.close()


def check_output(output: Path | BinaryIO, *, named: bool) -> None:
    """Refuse (UserError) a folder, a file whose name does not say what it is to hold, and names where none are kept."""
    path = output if isinstance(output, Path) else Path("stdout")
    is_file = isinstance(output, Path) and not _is_open_end(output)
    if is_file and path.is_dir():
        raise UserError("is a folder", where=str(path), hint="name a file, .npy or .parquet")
    if is_file and path.suffix not in _SUFFIXES:
        hint = "name it .npy for a matrix, or .parquet for a table with ids"
        raise UserError(f"'{path.suffix}' is no kind of file for vectors", where=str(path), hint=hint)
    if named and path.suffix != ".parquet":
        hint = "name a .parquet file, or leave --id-column out"
        raise UserError("takes no ids", where=str(path), hint=hint)


@contextmanager
def vectors_file(
    output: Path | BinaryIO, width: int, *, called: str = "vector", named: bool = False
) -> Iterator[VectorsFile]:
    """A file that is whole when the block ends well, and not there otherwise; what stood there before stays until then.

    A stream, a pipe or a device gets it at the end, out of a temporary file.

    Args:
        output: `.npy` or `.parquet` as its name says; npy where it has none.
        called: the vectors' column of a table.
        named: whether texts have names.

    Raises:
        OutputError: it cannot be written.
    """
    path = output if isinstance(output, Path) else None
    with output_errors(path or Path("stdout")), _place_of(output) as file:
        is_table = path is not None and path.suffix == ".parquet"
        vectors: VectorsFile
        vectors = ParquetFile(file, width, called=called, named=named) if is_table else NpyFile(file, width)
        try:
            yield vectors
        except BaseException:
            with suppress(Exception):  # what is written goes; but pyarrow would end it later, in a file that is closed
                vectors.end()
            raise
        vectors.end()


@contextmanager
def _place_of(output: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(output, Path) and not _is_open_end(output):
        make_folder(output.parent)
        with new_file(output) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        if isinstance(output, Path):
            with output.open("wb") as end:
                shutil.copyfileobj(file, end)
        else:
            shutil.copyfileobj(file, output)
            output.flush()


def _is_open_end(output: Path) -> bool:
    """Whether a pipe or a device stands there."""
    return output.exists() and not output.is_file() and not output.is_dir()
