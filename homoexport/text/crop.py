"""Parts of texts, so that a student that is to embed queries sees short texts, too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from homoexport.text.example import Example

_CROPS = 1  # what the seed is used for; masks use it without a number


def crop(example: Example, *, share: float, special_ids: Collection[int], seed: int, position: int) -> Example:
    """With probability `share` a random run of the example's tokens, between its special tokens.

    What is cut depends on (seed, position) alone: `position` is the global index of the sequence, step * batch size +
    index in the batch. Every length from 1 up is as likely.
    """
    generator = np.random.default_rng([seed, _CROPS, position])
    inner = [place for place, token in enumerate(example.input_ids) if token not in special_ids]
    if generator.random() >= share or not inner:
        return example
    first, stop = inner[0], inner[-1] + 1
    length = int(generator.integers(1, stop - first + 1))
    start = int(generator.integers(first, stop - length + 1))
    ids = example.input_ids
    return replace(example, input_ids=ids[:first] + ids[start : start + length] + ids[stop:])
