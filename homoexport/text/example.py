"""One training sequence, and its keeping as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the label that PyTorch's cross entropy passes over


@dataclass(frozen=True)
class Example:
    """A sequence, or a pair of sequences, special tokens included.

    `token_type_ids` say which half of an encoded pair each token is of. `labels` are a class id or a score, or a class
    id for each token with -100 where there is none. `pair_ids` are the document that `input_ids` is the query of.
    `vector` is the unit vector [D] that is to be matched, where it is not the teacher's.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None = None
    labels: int | float | list[int] | None = None
    pair_ids: list[int] | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False)


_FIELDS = tuple(each.name for each in fields(Example))


def examples_from(columns: Mapping[str, Sequence[Any]]) -> list[Example]:
    """The rows of a table whose columns have the names of `Example`'s fields; others are passed over."""
    names = [name for name in _FIELDS if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [Example(**dict(zip(names, row, strict=True))) for row in rows]
