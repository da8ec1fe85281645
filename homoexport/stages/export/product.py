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

from homoexport.errors import UserError
from homoexport.schemes import NUMBERS_OF_CODE, VALUES_OF_CODE
from homoexport.stages.export.surgery import add_constant, put_in_place

_ROUNDS = 7  # twice as many lower the squared error by 2 %
_FITTED = 2**16  # groups of numbers that k-means is fitted to at most: of a hundred languages' words a part
_STEP = 1.8  # times as far as to its mean each value goes but in the last round: seven rounds then do what 12 would
_AT_ONCE = 512  # groups that are held against all values at a time: what comes of it stays in a core's cache


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
    digest = hashlib.sha256(repr(table.shape).encode() + table.tobytes()).hexdigest()
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
        groups = np.ascontiguousarray(parts[:, number])
        distinct = groups[:0] if len(np.unique(groups[:, 0])) > VALUES_OF_CODE else np.unique(groups, axis=0)
        if 0 < len(distinct) <= VALUES_OF_CODE:
            centers = np.pad(distinct, ((0, VALUES_OF_CODE - len(distinct)), (0, 0)), mode="edge")
        else:
            centers = _fitted(groups[:: -(-len(groups) // _FITTED)], np.random.default_rng(number))
        codes.append(_nearest(groups, centers).astype(np.uint8))
        values.append(centers.astype(np.float16))
    return Codes(np.stack(codes, axis=1), np.stack(values))


def _fitted(groups: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """K values [K, 4] for groups [N, 4] by k-means, begun with groups drawn by chance.

    Each round but the last moves every value beyond the mean of its groups, towards where later rounds would move it.
    """
    centers = rng.permutation(groups)[:VALUES_OF_CODE]
    for left in reversed(range(_ROUNDS)):
        nearest = _nearest(groups, centers)
        counts = np.bincount(nearest, minlength=VALUES_OF_CODE)[:, None]
        sums = np.stack([np.bincount(nearest, column, VALUES_OF_CODE) for column in groups.T], axis=1)
        means = np.where(counts, sums / np.maximum(counts, 1), centers)
        centers = (centers + (_STEP if left else 1.0) * (means - centers)).astype(np.float32)
    return centers


def _nearest(groups: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which of the values [K, 4] is nearest to each group [N, 4]: the one with the largest x·c - |c|²/2."""
    halves = (centers**2).sum(axis=1, keepdims=True) / 2
    by_column = np.ascontiguousarray(np.hstack([centers, -halves]).T)  # [5, K]
    with_one = np.hstack([groups, np.ones((len(groups), 1), np.float32)])  # [N, 5]
    chosen, nearness = np.empty(len(groups), np.intp), np.empty((_AT_ONCE, len(centers)), np.float32)
    for start in range(0, len(groups), _AT_ONCE):
        some = with_one[start : start + _AT_ONCE]
        near = np.matmul(some, by_column, out=nearness[: len(some)])
        near.argmax(axis=1, out=chosen[start : start + _AT_ONCE])
    return chosen


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
