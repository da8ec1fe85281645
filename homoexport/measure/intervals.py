"""What timed rounds say: percentiles, ratios and their 95 % intervals.

Noise comes in bursts that hit many runs in a row, so runs are no independent samples. The block
bootstrap (Künsch 1989, The Jackknife and the Bootstrap for General Stationary Observations) draws
whole blocks instead; here a block is one round, in which every package has its turn.

R rounds, K runs of a round, T resamples.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Verdict = Literal["faster", "slower", "same", "too noisy to call"]

MARGIN = 0.05
_RESAMPLES = 1000
_TAILS = (2.5, 97.5)
_MAX_ELEMENTS = 4_000_000  # resampled at a time: 32 MB


def percentile_intervals(rounds_ms: FloatArray, percents: tuple[float, ...]) -> list[tuple[float, float]]:
    """95 % intervals of percentiles of all runs, by the bootstrap over rounds.

    Args:
        rounds_ms: [R, K], milliseconds.
        percents: which percentiles, 0 to 100.

    Returns:
        (low, high) in milliseconds for each of `percents`.
    """
    draws = _draws(len(rounds_ms))  # [T, R]
    chunks = np.array_split(draws, math.ceil(rounds_ms.size * len(draws) / _MAX_ELEMENTS))
    resampled = np.concatenate(
        [np.percentile(rounds_ms[chunk].reshape(len(chunk), -1), percents, axis=1) for chunk in chunks], axis=1
    )  # [percents, T]
    return [_interval(row) for row in resampled]


def speedup(against_ms: FloatArray, rounds_ms: FloatArray) -> tuple[float, tuple[float, float]]:
    """How many times faster a package is than another one that was timed in the same rounds.

    The medians of one round are a pair that has seen the same noise, so the ratio is taken within
    each round; the figure is the median of these ratios.

    Args:
        against_ms: [R, K] of the other package.
        rounds_ms: [R, K'] of this one.

    Returns:
        The ratio and its 95 % interval, by the bootstrap over rounds.
    """
    ratios = np.median(against_ms, axis=1) / np.median(rounds_ms, axis=1)  # [R]
    return float(np.median(ratios)), _interval(np.median(ratios[_draws(len(ratios))], axis=1))


def verdict_of(interval: tuple[float, float], margin: float = MARGIN) -> Verdict:
    """What may be said of a ratio with that interval.

    `same`: wholly within 1/(1 + margin) and 1 + margin. `faster` or `slower`: wholly on one side of
    1. Else the interval straddles 1 and is wide: `too noisy to call`.
    """
    low, high = interval
    if low >= 1 / (1 + margin) and high <= 1 + margin:
        return "same"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "too noisy to call"


def _draws(rounds: int) -> NDArray[np.intp]:
    """[T, R] numbers of rounds, drawn with replacement and the same every time."""
    return np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))


def _interval(resampled: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(resampled, _TAILS)
    return float(low), float(high)
