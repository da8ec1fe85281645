"""How well a sentence encoder keeps its teacher's similarities, and people's.

Spearman's correlation of cosine similarities is what STS benchmarks report (Reimers & Gurevych
2019, Sentence-BERT, section 4); against the teacher's similarities instead of people's it needs no
labels.

N texts, D width of a vector, P pairs of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError
from homoexport.runtime.inference import Package
from homoexport.runtime.vectors import unit_vectors
from homoexport.stages.evaluate.classification import labelled_qualities
from homoexport.stages.evaluate.estimate import FloatArray, Quality, RankCorrelation, correlation, estimate
from homoexport.stages.evaluate.examples import Examples

_TEXT_RESAMPLES = 200  # of N texts; each costs a pass over N²/2 pairs


def similarity_fidelity(reference: NDArray[Any], vectors: NDArray[Any]) -> float:
    """Spearman's correlation of two models' cosine similarities over all pairs of the same texts.

    Time and memory grow with N².

    Args:
        reference: the teacher's vectors, [N, D].
        vectors: the student's vectors of the same texts, [N, D'].

    Raises:
        TextError: less than three texts.
    """
    return _ranked(reference, vectors)()


def similarity_quality(reference: NDArray[Any], vectors: NDArray[Any], *, seed: int) -> Quality:
    """`similarity_fidelity` with its interval, by the bootstrap over texts.

    A pair weighs the product of its texts' counts; a text is never paired with its own copy.

    Raises:
        TextError: less than three texts.
    """
    ranked = _ranked(reference, vectors)
    first, second = np.triu_indices(len(vectors), k=1)

    def of_texts(counts: FloatArray) -> float:
        return ranked(counts[first] * counts[second])

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
    """Spearman's and Pearson's correlation of a package's cosine similarities with people's scores.

    Args:
        package: an open sentence-similarity or feature-extraction package.
        pairs: P pairs of texts.
        scores: P scores; Spearman's looks at their order alone.
        seed: of the bootstrap over pairs.

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
            ("sts_spearman", RankCorrelation(cosines, truth)),
            ("sts_pearson", partial(correlation, cosines, truth)),
        )
    ]


def _ranked(reference: NDArray[Any], vectors: NDArray[Any]) -> RankCorrelation:
    assert len(reference) == len(vectors)
    if len(vectors) < 3:
        raise TextError(f"{len(vectors)} texts", hint="give 3 or more, for pairs to compare")
    upper = np.triu_indices(len(vectors), k=1)
    first, second = (unit_vectors(array) for array in (reference, vectors))
    return RankCorrelation((first @ first.T)[upper], (second @ second.T)[upper])
