"""How well a sentence encoder keeps its teacher's search results, without labels.

Every text is a query once, and all the others are what is searched. The teacher's ten nearest are what should be found.

N texts, D width of a vector, K ten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.artifact import StudentManifest, kind_of, verify
from homoexport.documents.student import DistilledDetails
from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import Package
from homoexport.runtime.vectors import unit_vectors
from homoexport.stages.evaluate.estimate import Quality, estimate, mean

K = 10
FEWEST_SEARCHED = K + 2  # texts, for K to be found among the others


def retrieval_qualities(
    reference: NDArray[Any], vectors: NDArray[Any], *, seed: int, documents: NDArray[Any] | None = None
) -> list[Quality]:
    """How much of the teacher's ten nearest is found, in which order, and how near the vectors themselves are.

    `overlap@10` is the share of the teacher's ten nearest that are among the student's. `ndcg@10` (Järvelin &
    Kekäläinen 2002) takes the teacher's ranking for the truth: its first is worth 10, its tenth 1, others nothing.
    `mean_cosine` is there where both have vectors of the same width. Intervals are by the bootstrap over queries.

    The teacher's vectors are [N, D], the student's of the same texts [N, D']. `documents` are what the student's
    search, [N, D'] of the same texts; by default they are its own.
    """
    count = len(vectors)
    check_enough(count)
    wanted = _nearest(reference, reference)  # [N, K]
    found = _nearest(vectors, vectors if documents is None else documents)
    worth = np.zeros((count, count))
    np.put_along_axis(worth, wanted, np.arange(K, 0, -1.0)[None, :], axis=1)
    gained = np.take_along_axis(worth, found, axis=1)  # [N, K]
    per_query = {
        "overlap@10": (gained > 0).mean(axis=1),
        "ndcg@10": discounted_gain(gained) / discounted_gain(np.arange(K, 0, -1.0)),
    }
    if reference.shape[1] == vectors.shape[1]:
        per_query["mean_cosine"] = np.sum(unit_vectors(reference) * unit_vectors(vectors), axis=1)
    return [
        estimate(name, mean(values), count, seed=seed, counts={"texts": count}) for name, values in per_query.items()
    ]


def check_enough(count: int, *, where: str = "") -> None:
    """Refuse (TextError) texts that are too few for K to be found among the others."""
    if count < FEWEST_SEARCHED:
        what = f"{count} {'text' if count == 1 else 'texts'}"
        hint = f"give {FEWEST_SEARCHED} or more, for {K} to be found among the others"
        raise TextError(what, where=where, hint=hint)


def discounted_gain(worth: NDArray[Any]) -> NDArray[np.float64]:
    """The discounted gain of rankings' first ten (Järvelin & Kekäläinen 2002), [...] of worths [..., R], R any."""
    first = worth[..., :K]
    gain: NDArray[np.float64] = first @ (1 / np.log2(np.arange(2, first.shape[-1] + 2)))
    return gain


def check_widths(model: Package, vectors: NDArray[Any], documents: NDArray[Any]) -> None:
    """Refuse (PackageError) a model whose vectors, [N, D], are not as wide as those to search, [N', D']."""
    ours, theirs = vectors.shape[1], documents.shape[1]
    if ours != theirs:
        what = f"has vectors of {ours}, and the documents' are of {theirs}"
        hint = "distil the student with student.output: teacher, or name the model in whose space it answers"
        if (space := _space_of(model.details.folder)) is not None:
            what, hint = f"{what}; its vectors are those of {space}", "--documents needs the model that these came from"
        raise PackageError(what, where=str(model.details.folder), hint=hint)


def _space_of(folder: Path) -> str | None:
    """Whose vectors a student gives that was distilled to give another's: a model, a file, or a text with a column."""
    if kind_of(folder) != "student":
        return None
    details = verify(folder, StudentManifest, strict=False).details
    if not isinstance(details, DistilledDetails) or details.output == "student":
        return None
    return details.teacher if details.text.vectors is None else details.text.vectors.source


def _nearest(queries: NDArray[Any], documents: NDArray[Any]) -> NDArray[np.intp]:
    """The K nearest of the others to each text, the nearest first, [N, K]; ties in the order of the texts."""
    similarities = unit_vectors(queries) @ unit_vectors(documents).T
    np.fill_diagonal(similarities, -np.inf)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :K]
