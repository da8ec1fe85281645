"""What inferences are of: batches of token ids, the same on every target. B batch, S sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.worker.protocol import InputsRequest

IntArray = NDArray[np.int64]


def padded_tokens(
    rows: Sequence[Sequence[int] | IntArray],
    pad_token_id: int,
    *,
    types: Sequence[Sequence[int]] | None = None,
    width: int = 1,
) -> dict[str, IntArray]:
    """Token ids of B texts, right-padded to the longest: `input_ids`, `attention_mask`, `token_type_ids`, each [B, S].

    A tokenizer without special tokens makes nothing of an empty text, and attention to no position at all would be a
    division by zero: one padding token stands for it. S is at least `width`.
    """
    shape = (len(rows), max([width, *(len(row) for row in rows)]))
    ids, mask, type_ids = np.full(shape, pad_token_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : max(len(row), 1)] = 1
        if types is not None:
            type_ids[number, : len(row)] = types[number]
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}


def make_batches(request: InputsRequest) -> list[dict[str, IntArray]]:
    """One batch of random token ids, in which no position is padding; or the batches of the rows, in their order.

    Random ids are the same for every model of one vocabulary. Each batch of rows is right-padded to its own longest;
    rows that make no whole batch are left out.
    """
    size = request.batch_size
    rows: Sequence[Sequence[int] | IntArray] = request.rows or ()
    if request.rows is None:
        rows = list(np.random.default_rng(0).integers(0, request.vocab_size, (size, request.length)))
    parts = [slice(start, start + size) for start in range(0, len(rows) - size + 1, size)]
    types = request.types
    return [
        padded_tokens(rows[part], request.pad_token_id, types=None if types is None else types[part]) for part in parts
    ]
