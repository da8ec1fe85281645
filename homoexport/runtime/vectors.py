"""Vectors compared by their direction.

N rows, D width of a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit_vectors(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Unit vectors, [N, D]; a zero vector stays zero."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(norms > 0, norms, 1.0)
    return unit


def cosines(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Of rows [N, D] each, [N]; of two rows of zeros 1, of one beside another row 0; -1 where one is not finite."""
    one, other = (np.asarray(rows, dtype=np.float64) for rows in (left, right))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore"):
        found = np.einsum("nd,nd->n", one, other) / np.where(norms == 0, 1, norms)
    found = np.where(norms == 0, (one == other).all(axis=1), found)
    finite: NDArray[np.float64] = np.nan_to_num(found, nan=-1.0, posinf=-1.0, neginf=-1.0)
    return finite
