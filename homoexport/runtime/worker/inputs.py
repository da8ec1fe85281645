"""What inferences are timed on: batches of token ids, the same on every target. B batch, S sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.worker.protocol import InputsRequest


@dataclass(frozen=True)
class Batch:
    """Token ids and the mask of real tokens, each [B, S]."""

    ids: NDArray[Any]
    mask: NDArray[Any]


def make_batches(request: InputsRequest) -> list[Batch]:
    """One batch of random token ids, in which no position is padding; or the batches of the rows, in their order.

    Random ids are the same for every model of one vocabulary. Each batch of rows is right-padded to its own longest;
    rows that make no whole batch are left out.
    """
    size = request.batch_size
    if request.rows is None:
        shape = (size, request.length)
        return [Batch(np.random.default_rng(0).integers(0, request.vocab_size, shape), np.ones(shape, dtype=np.int64))]
    batches = []
    for start in range(0, len(request.rows) - size + 1, size):
        rows = request.rows[start : start + size]
        width = max(map(len, rows))
        ids = np.array([[*row, *[request.pad_token_id] * (width - len(row))] for row in rows])
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        batches.append(Batch(ids, mask))
    return batches
