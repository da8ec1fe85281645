"""How right a classifier is about labels that people gave.

Every figure is one of three counts a label, so that a resample, which is nothing but weights, is cheap.

N texts, C labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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

    def of_counts(figure: Callable[[LabelCounts], float], weights: FloatArray) -> float:
        return figure(LabelCounts.of(labels, guesses, weights, classes=classes))

    figures: dict[str, Callable[[FloatArray], float]] = {
        "accuracy": partial(of_counts, accuracy),
        "f1": partial(of_counts, f1),
        "matthews": partial(of_counts, matthews),
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
        raise TextError(f"{len(truth)} texts", hint="give 3 or more, for scores to compare")
    wide, right = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    figures: dict[str, Callable[[FloatArray], float]] = {
        "pearson": partial(correlation, wide, right),
        "spearman": RankCorrelation(wide, right),
    }
    return [estimate(name, of, len(truth), seed=seed, details={"texts": len(truth)}) for name, of in figures.items()]


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


def names_of(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels there are: numbers by their size, then words by the alphabet."""
    return tuple(sorted(set(labels), key=lambda label: (not label.isdecimal(), label.zfill(9), label)))


def label_places(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Where wanted labels, different ones in the order that models number them in, stand among a model's.

    By name; by that order where the model's names say nothing, LABEL_0 and up or 0 and up, and are as many. None where
    the model does not have them.
    """
    silent = all(name in (f"LABEL_{place}", str(place)) for place, name in enumerate(names))
    positions = list(range(len(names))) if silent and len(names) == len(wanted) else None
    return _named_places(wanted, names) or positions


def _named_places(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """By name, as it is written, else in any case and with `_`, `-` and blanks for one another."""
    for form in (str, _plain):
        places = {form(name): place for place, name in enumerate(names)}
        asked = [form(label) for label in wanted]
        if len(places) == len(names) and len(set(asked)) == len(asked) and places.keys() >= set(asked):
            return [places[label] for label in asked]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).casefold()


def label_indices(
    labels: Sequence[str],
    names: Sequence[str],
    *,
    where: str,
    order: Sequence[str] | None = None,
    numbered: bool = False,
) -> NDArray[np.int64]:
    """Labels as a file has them as indices of a model's labels, [N].

    Args:
        labels: at least one.
        names: the model's.
        where: of the labels, for errors.
        order: all that the labels can be, in the order that models number them in, where it is known.
        numbered: whether numbers stand for the places of the model's labels, if none of these is a number itself.

    Raises:
        TextError: a label that the model does not have.
    """
    found = list(order) if order is not None else sorted(set(labels))
    places = label_places(found, names) if order is not None else _named_places(found, names)
    numbered = numbered and not any(name.isdecimal() for name in names)
    if places is None and numbered and all(label.isdecimal() and int(label) < len(names) for label in found):
        places = [int(label) for label in found]
    if places is None:
        raise _unknown(labels if order is None else order, names, where=where, numbered=numbered)
    place_of = dict(zip(found, places, strict=True))
    return np.array([place_of[label] for label in labels], dtype=np.int64)


def _unknown(labels: Sequence[str], names: Sequence[str], *, where: str, numbered: bool) -> TextError:
    named = {_plain(name) for name in names}
    numbers = {str(place) for place in range(len(names))} if numbered and _plain(labels[0]) not in named else set()
    odd = next((label for label in labels if _plain(label) not in named and label not in numbers), labels[0])
    ways = "name another --label-column or model, or write the labels as the model has them"
    hint = f"{ways}, or as numbers from 0" if numbered else ways
    return TextError(f"the label '{odd}' is none of the model's ({', '.join(names)})", where=where, hint=hint)
