"""Figures with an interval, and the statistics that several of them are.

N texts or pairs, P pairs of texts, T resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.evaluation import FEWEST_JUDGED, QualityFigure

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], float]  # of how often each sample was drawn

_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Quality:
    """One quality figure, what it was taken from, and what resamples made of it, [T].

    Of figures with the same number of samples and the same seed the draws are of the same samples, so that those of
    two models can be compared draw by draw.
    `biased`: resamples are on one side of the figure, a share, as of all distances.
    """

    metric: str
    value: float
    draws: FloatArray = field(repr=False, compare=False)
    counts: Mapping[str, int] = field(default_factory=dict)
    biased: bool = False
    less_is_better: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % bootstrap interval: percentiles of the draws; of a biased figure reflected at it, between 0 and 1
        (Efron & Tibshirani 1993, sections 13.3 and 13.7)."""
        low, high = (float(end) for end in np.percentile(self.draws, _TAILS))
        if not self.biased:
            return low, high
        return min(max(0.0, 2 * self.value - high), 1.0), min(max(0.0, 2 * self.value - low), 1.0)

    @property
    def figure(self) -> QualityFigure:
        """What a document keeps of it; no interval of too few queries."""
        few = self.counts.get("queries", FEWEST_JUDGED) < FEWEST_JUDGED
        interval = None if few else self.interval
        return QualityFigure(metric=self.metric, value=float(self.value), interval=interval, score=None, **self.counts)


def estimate(
    metric: str,
    statistic: Statistic,
    size: int,
    *,
    seed: int,
    counts: Mapping[str, int],
    resamples: int = 1000,
    biased: bool = False,
    less_is_better: bool = False,
) -> Quality:
    """A statistic of `size` samples as a quality figure, by the bootstrap.

    Args:
        counts: how much it is taken from, by the names of `QualityFigure`'s fields.
        resamples: T.
        biased: see `Quality`.
        less_is_better: whether the figure is a loss or a distance, under which there is no floor.
    """
    rng = np.random.default_rng(seed)
    times = rng.multinomial(size, np.full(size, 1 / size), size=resamples)  # [T, size]
    draws = np.array([statistic(row.astype(np.float64)) for row in times])
    return Quality(metric, statistic(np.ones(size)), draws, counts, biased, less_is_better)


def ratio(upper: NDArray[Any], lower: NDArray[Any]) -> Statistic:
    """The sum of `upper` over that of `lower`, [N] each; 0 where there is nothing below."""

    def of_drawn(counts: FloatArray) -> float:
        total = float(counts @ lower)
        return float(counts @ upper) / total if total else 0.0

    return of_drawn


def mean(values: NDArray[Any]) -> Statistic:
    """The mean of values [N]."""
    return ratio(values, np.ones(len(values)))


def spearman(left: NDArray[Any], right: NDArray[Any]) -> Statistic:
    """Spearman's correlation of two paired series [P], ties at their mean rank; 0 where one does not vary.

    The series are sorted once, so that a resample, which is nothing but integer weights, is cheap.
    """
    place, other_place = (np.unique(series, return_inverse=True)[1] for series in (left, right))  # of a value, [P]

    def of_drawn(counts: FloatArray) -> float:
        return _correlation(_ranks(place, counts), _ranks(other_place, counts), counts)

    return of_drawn


def pearson(left: FloatArray, right: FloatArray) -> Statistic:
    """Pearson's correlation of two paired series [P]; 0 where one does not vary."""
    return partial(_correlation, left, right)


def _ranks(places: NDArray[np.intp], weights: FloatArray) -> FloatArray:
    totals = np.bincount(places, weights=weights)
    ranks: FloatArray = (np.cumsum(totals) - totals / 2)[places]
    return ranks


def _correlation(left: FloatArray, right: FloatArray, weights: FloatArray) -> float:
    left, right = (series - np.sum(weights * series) / np.sum(weights) for series in (left, right))
    scale = float(np.sqrt(np.sum(weights * left**2) * np.sum(weights * right**2)))
    return float(np.sum(weights * left * right)) / scale if scale > 0 else 0.0
