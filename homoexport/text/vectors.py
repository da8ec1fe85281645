"""Vectors that a student is to give in place of its teacher's: they lie beside the texts, or a model is asked for them.

A vector belongs to a row of the text and goes with it, whatever is dropped or drawn, as a row of the tokenized text,
which lies on disk. All are unit vectors in fp32.

N texts, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from types import NoneType
from typing import Any, TypedDict

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from homoexport.documents.student import VectorsDescription
from homoexport.errors import TextError, readable, refusing
from homoexport.globs import at_home

_SAME = 1e-6  # difference between the numbers of two vectors
_ONE = "of one number, so that its cosine with any other is 1 or -1"
_HINT = "write them again, a vector of one width for each text"


@dataclass(frozen=True)
class AskedVectors:
    """A model that gives vectors [N, D] of N texts; `digest` is that of its weights, and of its own prompt."""

    source: str
    digest: str
    ask: Callable[[Sequence[str]], NDArray[np.float32]]


def open_vectors(file: str) -> NDArray[Any]:
    """The vectors of an npy file [N, D], which stay on disk; TextError where it holds none."""
    path, hint = at_home(file), "save a matrix of floats, a row for each row of the text, with numpy.save"
    if not path.is_file():
        raise TextError("no such file", where=file, hint="name the npy file that holds the vectors")
    with readable(TextError, path), path.open("rb") as opened:
        is_npy = opened.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX
    if not is_npy:
        raise TextError("is no npy file, whatever its name is", where=file, hint=hint)
    with refusing(TextError, "cannot be read", where=file, hint=hint):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    what = ""
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        what = f"holds {array.dtype} of {array.shape}, not vectors [rows, width]"
    elif array.dtype.kind != "f":
        what = f"holds whole numbers ({array.dtype}), as quantized vectors are, not the vectors themselves"
    elif array.shape[1] == 1:
        what = f"holds vectors {_ONE}"
    if what:
        raise TextError(what, where=file, hint=hint)
    return array


def _numbers(cell: Any) -> NDArray[np.float64]:
    """The numbers [D] of a row of a file, or of a list, NaN for null; none where a cell is no list of numbers."""
    if isinstance(cell, np.ndarray):
        return cell.astype(np.float64)
    kinds = set(map(type, cell)) if isinstance(cell, list) else {str}
    if bool in kinds or not all(issubclass(kind, Real | NoneType) for kind in kinds):
        return np.empty(0)
    try:
        return np.array(cell, dtype=np.float64)
    except OverflowError:  # of a whole number that no float is as large as
        return np.full(len(cell), np.inf)


class VectorsOrigin(TypedDict):
    """What vectors are told by; without a digest it is that of the vectors themselves."""

    source: str
    digest: str | None


class VectorReader:
    """The vectors of a source's rows in their order, out of an npy file or, without one, of a column's cells."""

    def __init__(self, file: str | None) -> None:
        self._file, self._array = file, None if file is None else open_vectors(file)
        self._width: int | None = None

    def read(self, number: int, cell: Any, where: str) -> NDArray[np.float32]:
        """The unit vector [D] of a row, counted from 0, with its cell and where that stands.

        Raises:
            TextError: there is none, it has no direction or no numbers, or is not as wide as those before it.
        """
        if self._array is not None:
            if number >= len(self._array):
                raise self._other_number("more")
            cell, where = self._array[number], f"{self._file}, row {number + 1}"
        given, what = _numbers(cell), ""
        if not len(given):
            what = "holds no vector, which is a list of numbers"
        elif self._width not in (None, len(given)):
            what = f"holds a vector of {len(given)}, and those before it are of {self._width}"
        elif len(given) == 1:
            what = f"holds a vector {_ONE}"
        elif not np.isfinite(given).all():
            what = "holds a vector with what is no number (NaN or infinity)"
        elif not given.any():
            what = "holds a vector of zeros, which has no direction"
        if what:
            raise TextError(what, where=where, hint=_HINT)
        self._width = len(given)
        return unit(given)

    def end(self, rows: int) -> None:
        """Refuse (TextError) a file with more vectors than there were rows."""
        if self._array is not None and len(self._array) != rows:
            raise self._other_number(str(rows))

    def _other_number(self, rows: str) -> TextError:
        assert self._array is not None
        hint = "a vector for each row in its order; blank lines of a txt or jsonl file are no rows"
        what = f"holds {len(self._array)} vectors, and the text has {rows} rows"
        return TextError(what, where=str(self._file), hint=hint)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """[..., D] of any length but 0, brought to length 1."""
    exact = vectors.astype(np.float64)
    exact /= np.abs(exact).max(-1, keepdims=True)  # so that no square overflows, or is lost
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    return exact.astype(np.float32)


def describe(column: Any, *, source: str, digest: str | None) -> VectorsDescription:
    """An Arrow column of vectors, which are those of a source; see `VectorsOrigin`.

    Raises:
        TextError: vectors of several widths, or that are all the same.
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    widths = sorted({int(width) for chunk in chunks for width in np.diff(chunk.offsets.to_numpy())})
    if len(widths) > 1:
        what = f"have vectors of {' and '.join(map(str, widths))}"
        raise TextError(what, where=source, hint="give all texts vectors of one model")
    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in chunks]  # they stay on disk
    if not any(np.abs(part - parts[0][0]).max() > _SAME for part in parts):
        raise TextError("the vectors of all texts are the same", where=source, hint="give others")
    found = hashlib.sha256()
    for part in parts if digest is None else ():
        found.update(part)
    return VectorsDescription(source=source, width=widths[0], digest=digest or found.hexdigest())
