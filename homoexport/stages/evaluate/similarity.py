"""How well a sentence encoder keeps its teacher's similarities, and people's.

Spearman's correlation of cosine similarities is what STS benchmarks report (Reimers & Gurevych
2019, Sentence-BERT, section 4); against the teacher's similarities instead of people's it needs no
labels.

N texts, D width of a vector, P pairs of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError
from homoexport.runtime.inference import Package
from homoexport.runtime.vectors import unit_vectors
from homoexport.stages.evaluate.classification import labelled_qualities
from homoexport.stages.evaluate.estimate import FloatArray, Quality, estimate, pearson, spearman
from homoexport.stages.evaluate.examples import Examples

_TEXT_RESAMPLES = 200  # of N texts; each costs a pass over N²/2 pairs


def similarity_quality(reference: NDArray[Any], vectors: NDArray[Any], *, seed: int) -> Quality:
    """Spearman's correlation of two models' cosine similarities over all pairs of texts, by the bootstrap over texts.

    The teacher's vectors are [N, D], the student's of the same texts [N, D']; time and memory grow with N². A pair
    weighs the product of its texts' counts; a text is never paired with its own copy.
    """
    assert len(reference) == len(vectors)
    if len(vectors) < 3:
        raise TextError(f"{len(vectors)} texts", hint="give 3 or more, for pairs to compare")
    first, second = np.triu_indices(len(vectors), k=1)
    units = [unit_vectors(array) for array in (reference, vectors)]
    of_pairs = spearman(*((unit @ unit.T)[first, second] for unit in units))

    def of_texts(counts: FloatArray) -> float:
        return of_pairs(counts[first] * counts[second])

    taken = {"texts": len(vectors)}
    return estimate("similarity_spearman", of_texts, len(vectors), seed=seed, counts=taken, resamples=_TEXT_RESAMPLES)


def judge_sts(model: Package, examples: Examples, *, seed: int) -> list[Quality]:
    """Figures of an encoder's cosine similarities, or of a cross-encoder's scores."""
    if model.details.task == "text-classification":
        return labelled_qualities(model, examples, seed=seed)
    pairs = [text for text in examples.texts if not isinstance(text, str)]
    return sts_qualities(model, pairs, examples.scores(), seed=seed)


def check_scores(_model: Package, examples: Examples) -> None:
    """Refuse scores that are no numbers, or all the same."""
    examples.scores()


def sts_qualities(
    package: Package, pairs: Sequence[tuple[str, str]], scores: Sequence[float], *, seed: int = 0
) -> list[Quality]:
    """Spearman's and Pearson's correlation of an encoder's cosine similarities of P pairs with people's scores.

    Raises:
        TextError: less than three pairs, or not as many scores as pairs.
        PackageError: the package gives no vectors.
    """
    if len(pairs) != len(scores):
        raise TextError(f"{len(pairs)} pairs of texts and {len(scores)} scores", hint="give one score for each pair")
    if len(pairs) < 3:
        raise TextError(f"{len(pairs)} pairs of texts", hint="give 3 or more")
    left, right = (unit_vectors(package.embed([pair[side] for pair in pairs])) for side in (0, 1))
    cosines, truth = np.sum(left * right, axis=1), np.asarray(scores, dtype=np.float64)
    return [
        estimate(name, of, len(pairs), seed=seed, counts={"pairs": len(pairs)})
        for name, of in (
            ("sts_spearman", spearman(cosines, truth)),
            ("sts_pearson", pearson(cosines, truth)),
        )
    ]
