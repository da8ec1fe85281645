"""Figures with an interval, and the rank correlation that several of them are.

N texts or pairs, P pairs of texts, T resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.evaluation import QualityFigure

FloatArray = NDArray[np.float64]

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
        """What a document keeps of it."""
        return QualityFigure(
            metric=self.metric, value=float(self.value), interval=self.interval, score=None, **self.counts
        )


def estimate(
    metric: str,
    statistic: Callable[[FloatArray], float],
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
        metric: its name.
        statistic: takes how often each sample was drawn, [size], and returns the figure.
        size: number of samples.
        seed: of the draws.
        counts: how much it is taken from, by the names of `QualityFigure`'s fields.
        resamples: number of draws, T.
        biased: see `Quality`.
        less_is_better: whether the figure is a loss or a distance, under which there is no floor.
    """
    rng = np.random.default_rng(seed)
    times = rng.multinomial(size, np.full(size, 1 / size), size=resamples)  # [T, size]
    draws = np.array([statistic(row.astype(np.float64)) for row in times])
    return Quality(metric, statistic(np.ones(size)), draws, counts, biased, less_is_better)


class RankCorrelation:
    """Spearman's correlation of two paired series, ties at their mean rank, for any weights of the pairs.

    The series are sorted once, so that a resample, which is nothing but integer weights, is cheap.
    """

    def __init__(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        """Sort two series of the same length, [P] each."""
        # For each value its place among the distinct ones, [P].
        self._places = [np.unique(series, return_inverse=True)[1] for series in (left, right)]

    def __call__(self, weights: FloatArray | None = None) -> float:
        """The correlation where each pair counts `weights` times, [P]; once, where there are none.

        A series that does not vary has no ranks to compare: its correlation is 0.
        """
        if weights is None:
            weights = np.ones(len(self._places[0]))
        left, right = (self._ranks(places, weights) for places in self._places)
        return correlation(left, right, weights)

    @staticmethod
    def _ranks(places: NDArray[np.intp], weights: FloatArray) -> FloatArray:
        totals = np.bincount(places, weights=weights)
        ranks: FloatArray = (np.cumsum(totals) - totals / 2)[places]
        return ranks


def correlation(left: FloatArray, right: FloatArray, weights: FloatArray | None = None) -> float:
    """Pearson's correlation of two series [P], where each pair counts `weights` times; 0 where one does not vary."""
    if weights is None:
        weights = np.ones(len(left))
    left, right = (series - np.sum(weights * series) / np.sum(weights) for series in (left, right))
    scale = float(np.sqrt(np.sum(weights * left**2) * np.sum(weights * right**2)))
    return float(np.sum(weights * left * right)) / scale if scale > 0 else 0.0
