"""Product quantization of a table of words: each row is a line of codes, one for each four of its numbers.

Jégou, Douze and Schmid, "Product quantization for nearest neighbor search" (IEEE PAMI 33, 2011), section II. Rows are
looked up by standard operators alone: codes first, then what they stand for.

V words, D hidden, C = D / 4 codes of a row, K values of a code.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from homoexport.errors import UserError
from homoexport.schemes import NUMBERS_OF_CODE, VALUES_OF_CODE
from homoexport.stages.export.surgery import add_constant, put_in_place

_ROUNDS = 12  # twice as many lower the squared error by 2 %
_FITTED = 2**16  # different groups of numbers that k-means is fitted to at most: of a hundred languages' words a part


class Codes(NamedTuple):
    """A table as codes [V, C], uint8, and what they stand for [C, K, 4], fp16."""

    codes: NDArray[np.uint8]
    values: NDArray[np.float16]

    def rows(self) -> NDArray[np.float32]:
        """The table again, [V, D]."""
        parts = self.values[np.arange(self.codes.shape[1]), self.codes].astype(np.float32)
        return parts.reshape(len(self.codes), -1)


def product_codes(table: NDArray[np.float32]) -> Codes:
    """A table [V, D] as codes, the values of each by k-means over all words.

    Raises:
        UserError: a width that is no multiple of 4.
    """
    if table.shape[1] % NUMBERS_OF_CODE:
        what = f"the table is {table.shape[1]} wide, and a code stands for {NUMBERS_OF_CODE} numbers"
        raise UserError(what, where="--embeddings pq", hint=f"a hidden size that {NUMBERS_OF_CODE} divides")
    table = np.ascontiguousarray(table)
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    if digest not in _made:
        found = _codes(table)
        _made.clear()
        _made[digest] = found
    return _made[digest]


_made: dict[str, Codes] = {}  # the last one, by the digest of its table: of each candidate it is the same


def _codes(table: NDArray[np.float32]) -> Codes:
    parts = table.reshape(len(table), -1, NUMBERS_OF_CODE)
    codes, values = [], []
    for number in range(parts.shape[1]):
        distinct, places, times = np.unique(parts[:, number], axis=0, return_inverse=True, return_counts=True)
        places = places.reshape(-1)  # numpy 2.0 alone keeps an axis
        if len(distinct) > VALUES_OF_CODE:
            found = KMeans(VALUES_OF_CODE, init="random", n_init=1, max_iter=_ROUNDS, random_state=number)
            every = -(-len(distinct) // _FITTED)
            found.fit(distinct[::every], sample_weight=times[::every])
            chosen, centers = found.predict(distinct)[places], found.cluster_centers_
        else:
            chosen, centers = places, np.pad(distinct, ((0, VALUES_OF_CODE - len(distinct)), (0, 0)))
        codes.append(chosen.astype(np.uint8))
        values.append(centers.astype(np.float16))
    return Codes(np.stack(codes, axis=1), np.stack(values))


def gather_product(model: ir.Model, name: str, table: NDArray[np.float32], nodes: list[ir.Node]) -> None:
    """Put the look-up of codes, and of what they stand for, in the place of each look-up of the table."""
    codes, values = product_codes(table)
    stored = add_constant(model, f"{name}_codes", codes)
    places = add_constant(model, f"{name}_places", (np.arange(len(values)) * VALUES_OF_CODE).astype(np.int32))
    flat = add_constant(model, f"{name}_values", values.reshape(-1, NUMBERS_OF_CODE))
    shape = add_constant(model, f"{name}_shape", np.array([0, 0, table.shape[1]], np.int64))
    for node in nodes:
        found = ir.node("Gather", [stored, node.inputs[1]])  # [B, S, C]
        wide = ir.node("Cast", [found.outputs[0]], attributes={"to": ir.DataType.INT32})
        place = ir.node("Add", [wide.outputs[0], places])
        parts = ir.node("Gather", [flat, place.outputs[0]])  # [B, S, C, 4]
        rows = ir.node("Reshape", [parts.outputs[0], shape])
        as_fp32 = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        put_in_place(model, node, [found, wide, place, parts, rows, as_fp32])
