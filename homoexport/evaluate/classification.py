"""How right a classifier is about labels that people gave.

Every figure is one of the confusion matrix, so that a resample, which is nothing but weights, is cheap.

N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError
from homoexport.evaluate.estimate import FloatArray, Quality, RankCorrelation, correlation, estimate

_BINS = 15  # as in Guo et al. 2017


def classification_qualities(logits: NDArray[Any], labels: NDArray[np.int64], *, seed: int) -> list[Quality]:
    """Accuracy, F1, Matthews' correlation and calibration error of a classifier, by the bootstrap over texts.

    `f1` is of label 1 where there are two labels, as GLUE has it, else the mean over labels (macro). `matthews` is
    Gorodkin's for more than two labels (2004, equation 8). `calibration_error` is the mean distance of the likeliest
    label's probability from how often it is right, in 15 bins (Guo et al. 2017, equation 3); a distance, so of a model
    that is hardly wrong about itself it is too high, and its interval, though it is corrected for that, too.

    Args:
        logits: [N, C], C at least 2.
        labels: the right ones, as indices, [N].
        seed: of the bootstrap.
    """
    classes, guesses = logits.shape[1], logits.argmax(axis=1)
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    confidence = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
    cells = labels * classes + guesses

    def of_confusion(figure: Callable[[FloatArray], float], weights: FloatArray) -> float:
        confusion: FloatArray = np.bincount(cells, weights, minlength=classes**2).astype(np.float64)
        return figure(confusion.reshape(classes, classes))

    figures: dict[str, Callable[[FloatArray], float]] = {
        "accuracy": partial(of_confusion, accuracy),
        "f1": partial(of_confusion, f1),
        "matthews": partial(of_confusion, matthews),
    }
    taken = {"texts": len(labels)}
    found = [estimate(name, of, len(labels), seed=seed, details=taken) for name, of in figures.items()]
    distance = partial(calibration_error, confidence, labels == guesses)
    return [*found, estimate("calibration_error", distance, len(labels), seed=seed, details=taken, biased=True)]


def score_qualities(scores: NDArray[Any], truth: Sequence[float], *, seed: int) -> list[Quality]:
    """Pearson's and Spearman's correlation of a model's one output [N] with people's scores.

    Raises:
        TextError: less than three texts.
    """
    if len(truth) < 3:
        raise TextError(f"{len(truth)} texts", mend="give 3 or more, for scores to compare")
    wide, right = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    figures: dict[str, Callable[[FloatArray], float]] = {
        "pearson": partial(correlation, wide, right),
        "spearman": RankCorrelation(wide, right),
    }
    return [estimate(name, of, len(truth), seed=seed, details={"texts": len(truth)}) for name, of in figures.items()]


def accuracy(confusion: FloatArray) -> float:
    """Share of right guesses; [C, C], the right label by row and the guessed one by column, here and below."""
    return float(np.trace(confusion) / confusion.sum())


def f1(confusion: FloatArray) -> float:
    """F1 of label 1 of two; of more labels the mean over those that are right or guessed at least once."""
    totals = confusion.sum(axis=0) + confusion.sum(axis=1)
    each = 2 * np.diag(confusion) / np.where(totals > 0, totals, 1)
    return float(each[1] if len(each) == 2 else each[totals > 0].mean())


def matthews(confusion: FloatArray) -> float:
    """Matthews' correlation coefficient; 0 where one label is all that is right, or all that is guessed."""
    guessed, right, whole = confusion.sum(axis=0), confusion.sum(axis=1), confusion.sum()
    scale = float(np.sqrt((whole**2 - guessed @ guessed) * (whole**2 - right @ right)))
    return float(np.trace(confusion) * whole - guessed @ right) / scale if scale > 0 else 0.0


def calibration_error(confidence: FloatArray, right: NDArray[np.bool_], weights: FloatArray) -> float:
    """Expected calibration error of probabilities [N] and whether each guess was right [N]."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    sure, true = (np.bincount(bins, weights * series, minlength=_BINS) for series in (confidence, right))
    return float(np.abs(sure - true).sum() / weights.sum())


def label_indices(
    labels: Sequence[str], names: Sequence[str], *, where: str, order: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Labels as a file has them, names or numbers, as indices of a model's labels, [N].

    Args:
        labels: at least one.
        names: the model's.
        where: of the labels, for errors.
        order: the file's names in the order that models number them in, for models that have no names of their own.

    Raises:
        TextError: a label that the model does not have.
    """
    index = {name: number for number, name in enumerate(names)}
    numbers = {str(number): number for number in range(len(names))}
    if order is not None and len(order) == len(names):
        numbers |= {name: number for number, name in enumerate(order)}
    known = index if labels[0] in index else numbers
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        raise TextError(
            f"the label '{unknown}' is none of the model's ({', '.join(names)})",
            where=where,
            mend="name another --label-column, or write the labels as the model has them, or as numbers from 0",
        )
    return np.array([known[label] for label in labels], dtype=np.int64)
