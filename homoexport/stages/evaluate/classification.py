"""How right a classifier is about labels that people gave.

Every figure is one of three counts a label, so that a resample, which is nothing but weights, is cheap.

N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.estimate import FloatArray, Quality, Statistic, estimate, mean, pearson, spearman
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.labels import label_indices
from homoexport.stages.evaluate.retrieval import discounted_gain

_BINS = 15  # as in Guo et al. 2017


def classification_qualities(logits: NDArray[Any], labels: NDArray[np.int64], *, seed: int) -> list[Quality]:
    """Accuracy, F1, Matthews' correlation and calibration error of a classifier, by the bootstrap over texts.

    `f1` is of label 1 where there are two labels, as GLUE has it, else the mean over labels (macro). `matthews` is
    Gorodkin's for more than two labels (2004, equation 8). `calibration_error` is the mean distance of the likeliest
    label's probability from how often it is right, in 15 bins (Guo et al. 2017, equation 3); a distance, so of a model
    that is hardly wrong about itself it is too high, and its interval, though it is corrected for that, too.

    The logits are [N, C], C at least 2; the right labels are indices, [N].
    """
    classes, guesses = logits.shape[1], logits.argmax(axis=1)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)

    def of_counts(figure: Callable[[LabelCounts], float], weights: FloatArray) -> float:
        return figure(LabelCounts.of(labels, guesses, weights, classes=classes))

    figures: dict[str, Statistic] = {
        "accuracy": partial(of_counts, accuracy),
        "f1": partial(of_counts, f1),
        "matthews": partial(of_counts, matthews),
    }
    taken = {"texts": len(labels)}
    found = [estimate(name, of, len(labels), seed=seed, counts=taken) for name, of in figures.items()]
    distance = partial(calibration_error, confidence, labels == guesses)
    error = estimate(
        "calibration_error", distance, len(labels), seed=seed, counts=taken, biased=True, less_is_better=True
    )
    return [*found, error]


def score_qualities(scores: NDArray[Any], truth: Sequence[float], *, seed: int) -> list[Quality]:
    """Pearson's and Spearman's correlation of a model's one output [N] with people's scores, three or more."""
    if len(truth) < 3:
        raise TextError(f"{len(truth)} texts", hint="give 3 or more, for scores to compare")
    wide, right = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    figures = {"pearson": pearson(wide, right), "spearman": spearman(wide, right)}
    return [estimate(name, of, len(truth), seed=seed, counts={"texts": len(truth)}) for name, of in figures.items()]


def ranking_qualities(
    scores: NDArray[Any], truth: Sequence[float], queries: NDArray[np.intp], *, seed: int
) -> list[Quality]:
    """nDCG@10 (Järvelin & Kekäläinen 2002) of every query's documents, ranked by a model's scores [N]: the mean over
    queries, which the bootstrap draws.

    What a document is worth is its label's distance from the least of all. Queries whose documents are all worth the
    same are left out; of documents with the same score those that are worth less come first.
    """
    worth = np.asarray(truth, np.float64) - min(truth)
    order = np.lexsort((worth, -np.asarray(scores, np.float64), queries))  # by query, then best score first
    found = np.split(worth[order], np.flatnonzero(np.diff(queries[order])) + 1)
    ranked = [documents for documents in found if documents.min() < documents.max()]
    if not ranked:
        return []
    figures = np.array([discounted_gain(each) / discounted_gain(np.sort(each)[::-1]) for each in ranked])
    counts = {"queries": len(ranked), "pairs": sum(map(len, ranked))}
    return [estimate("ndcg@10", mean(figures), len(ranked), seed=seed, counts=counts)]


@dataclass(frozen=True)
class LabelCounts:
    """How often each label is right, is guessed, and is guessed rightly, [C] each: margins and diagonal of the
    confusion matrix."""

    right: FloatArray
    guessed: FloatArray
    hits: FloatArray

    @classmethod
    def of(
        cls, right: NDArray[np.int64], guessed: NDArray[np.int64], weights: FloatArray, *, classes: int
    ) -> LabelCounts:
        """Counts of N texts, each of which counts `weights` times."""
        hits = weights * (right == guessed)
        series = ((right, weights), (guessed, weights), (right, hits))
        return cls(*(np.bincount(labels, each, minlength=classes).astype(np.float64) for labels, each in series))


def accuracy(counts: LabelCounts) -> float:
    """Share of right guesses."""
    return float(counts.hits.sum() / counts.right.sum())


def f1(counts: LabelCounts) -> float:
    """F1 of label 1 of two; of more labels the mean over those that are right or guessed at least once."""
    totals = counts.guessed + counts.right
    each = 2 * counts.hits / np.where(totals > 0, totals, 1)
    return float(each[1] if len(each) == 2 else each[totals > 0].mean())


def matthews(counts: LabelCounts) -> float:
    """Matthews' correlation coefficient; 0 where one label is all that is right, or all that is guessed."""
    guessed, right, whole = counts.guessed, counts.right, counts.right.sum()
    scale = float(np.sqrt((whole**2 - guessed @ guessed) * (whole**2 - right @ right)))
    return float(counts.hits.sum() * whole - guessed @ right) / scale if scale > 0 else 0.0


def calibration_error(confidence: FloatArray, right: NDArray[np.bool_], weights: FloatArray) -> float:
    """Expected calibration error of probabilities [N] and whether each guess was right [N]."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    sure, true = (np.bincount(bins, weights * series, minlength=_BINS) for series in (confidence, right))
    return float(np.abs(sure - true).sum() / weights.sum())


def labelled_qualities(model: Package, examples: Examples, *, seed: int) -> list[Quality]:
    """A text classifier's figures on labels that people gave; of a model with one output, on scores."""
    assert examples.labels is not None
    details = model.details
    if details.task != "text-classification":
        hint = "name a text-classification model, or give --probe"
        raise PackageError(f"is for {details.task}", where=str(details.folder), hint=hint)
    logits = np.stack(model.logits(examples.texts))  # [N, C]
    if logits.shape[1] > 1:
        return classification_qualities(logits, indices_of(examples, details.labels), seed=seed)
    if examples.names is not None:
        what = f"has one output where the examples have the labels {', '.join(examples.names)}"
        raise PackageError(what, where=str(details.folder), hint="name a model with those labels")
    scores, truth, queries = logits[:, 0], examples.scores(), examples.queries
    ranking = [] if queries is None else ranking_qualities(scores, truth, queries, seed=seed)
    return [*score_qualities(scores, truth, seed=seed), *ranking]


def check_labels(model: Package, examples: Examples) -> None:
    """Refuse labels that the model does not have, or scores that are no numbers, before it is asked."""
    if len(model.details.labels) == 1:
        examples.scores()
    elif model.details.task == "text-classification":
        indices_of(examples, model.details.labels)


def indices_of(examples: Examples, names: Sequence[str]) -> NDArray[np.int64]:
    """The examples' labels as indices of a model's labels, [N]."""
    assert examples.labels is not None
    return label_indices(examples.labels, names, where=examples.source, order=examples.names, numbered=True)
