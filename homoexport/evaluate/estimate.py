"""Figures with an interval, and the rank correlation that several of them are.

N texts or pairs, P pairs of texts, T resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Quality:
    """One quality figure, its 95 % bootstrap interval, and what it was taken from."""

    metric: str
    value: float
    interval: tuple[float, float]
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict, with the details beside the value."""
        figures = asdict(self)
        details = figures.pop("details")
        return {**figures, "interval": list(self.interval), **details}


def bootstrap(statistic: Callable[[FloatArray], float], size: int, *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of `size` samples.

    Args:
        statistic: takes how often each sample was drawn, [size], and returns the figure.
        size: number of samples.
        resamples: number of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=resamples)  # [T, size]
    low, high = np.percentile([statistic(row.astype(np.float64)) for row in counts], _TAILS)
    return float(low), float(high)


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
