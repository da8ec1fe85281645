"""What timed rounds say: percentiles with 95 % intervals, ratios with 99 % ones.

A ratio decides, and more than once: rounds go on until it can be called. So its interval is the wider one.

Noise comes in bursts that hit many runs in a row, so runs are no independent samples. The block
bootstrap (Künsch 1989, The Jackknife and the Bootstrap for General Stationary Observations) draws
whole blocks instead; here a block is one round, in which every package has its turn.

R rounds, K runs of a round, T resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import TOO_NOISY, SpeedVerdict

FloatArray = NDArray[np.float64]

MARGIN = 0.05
_RESAMPLES = 1000
_TAILS = (2.5, 97.5)
_RATIO_TAILS = (0.5, 99.5)
_MAX_ELEMENTS = 4_000_000  # resampled at a time: 32 MB


def rounds_of(samples_ms: Sequence[float], runs_per_round: int) -> FloatArray:
    """[R, K] of the samples of R rounds, in the order in which they ran."""
    return np.array(samples_ms).reshape(-1, runs_per_round)


def percentile_intervals(rounds_ms: FloatArray, percents: tuple[float, ...]) -> list[tuple[float, float]]:
    """95 % intervals of percentiles (0 to 100) of all runs [R, K], by the bootstrap over rounds."""
    draws = _draws(len(rounds_ms))  # [T, R]
    chunks = np.array_split(draws, math.ceil(rounds_ms.size * len(draws) / _MAX_ELEMENTS))
    resampled = np.concatenate(
        [np.percentile(rounds_ms[chunk].reshape(len(chunk), -1), percents, axis=1) for chunk in chunks], axis=1
    )  # [percents, T]
    return [_interval(row) for row in resampled]


def mean_interval(rounds_ms: FloatArray) -> tuple[float, float]:
    """95 % interval of the mean of all runs [R, K], by the bootstrap over rounds."""
    means = rounds_ms.mean(axis=1)
    return _interval(means[_draws(len(means))].mean(axis=1))


def speedup(against_ms: FloatArray, rounds_ms: FloatArray) -> tuple[float, tuple[float, float]]:
    """How many times faster a package [R, K'] is than another one [R, K] that was timed in the same rounds.

    The medians of one round are a pair that has seen the same noise, so the ratio is taken within
    each round; the figure is the median of these ratios, with its 99 % interval by the bootstrap over rounds.
    """
    ratios = np.median(against_ms, axis=1) / np.median(rounds_ms, axis=1)  # [R]
    return float(np.median(ratios)), _interval(np.median(ratios[_draws(len(ratios))], axis=1), _RATIO_TAILS)


def independent_speedup(before_ms: FloatArray, after_ms: FloatArray) -> tuple[float, tuple[float, float]]:
    """How many times faster the second of two runs is at the median, where they share no rounds: [R, K], [R', K'].

    With its 99 % interval, by the bootstrap over the rounds of each.
    """
    medians = [np.median(rounds, axis=1) for rounds in (before_ms, after_ms)]
    before, after = (np.median(each[_draws(len(each), seed)], axis=1) for seed, each in enumerate(medians))
    return float(np.median(before_ms) / np.median(after_ms)), _interval(before / after, _RATIO_TAILS)


def verdict_of(ratio: float, interval: tuple[float, float]) -> SpeedVerdict:
    """What may be said of a ratio with that interval.

    `same`: the interval lies wholly within 1/(1 + `MARGIN`) and 1 + `MARGIN`. `faster` or `slower`: it lies
    wholly on one side of 1, and the ratio beyond the margin. Else `too noisy to call`. A difference
    within the margin is thus never called: two processes of the same file differ by a per cent or two
    for as long as they live, by where their memory happens to lie (Mytkowicz et al. 2009, Producing
    Wrong Data Without Doing Anything Obviously Wrong!).
    """
    low, high = interval
    if low >= 1 / (1 + MARGIN) and high <= 1 + MARGIN:
        return "same"
    if low > 1 and ratio > 1 + MARGIN:
        return "faster"
    if high < 1 and ratio < 1 / (1 + MARGIN):
        return "slower"
    return TOO_NOISY


def drift(rounds_ms: FloatArray) -> float:
    """How much slower the last third of at least three rounds is than the first: 0.05 is 5 %, at their medians."""
    third = len(rounds_ms) // 3
    return float(np.median(rounds_ms[-third:]) / np.median(rounds_ms[:third]) - 1)


def _draws(rounds: int, seed: int = 0) -> NDArray[np.intp]:
    """[T, R] numbers of rounds, drawn with replacement and the same every time."""
    return np.random.default_rng(seed).integers(0, rounds, (_RESAMPLES, rounds))


def _interval(resampled: NDArray[Any], tails: tuple[float, float] = _TAILS) -> tuple[float, float]:
    low, high = np.percentile(resampled, tails)
    return float(low), float(high)
