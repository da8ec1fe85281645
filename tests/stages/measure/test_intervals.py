import numpy as np
import pytest

from homoexport.stages.measure.intervals import (
    drift,
    independent_speedup,
    mean_interval,
    percentile_intervals,
    speedup,
    verdict_of,
)


def noisy_rounds(rng: np.random.Generator, rounds: int, runs: int) -> np.ndarray:
    """Runs around 10 ms whose noise is mostly shared by a whole round, as a busy machine's is."""
    return 10 + rng.normal(size=(rounds, 1)) + 0.1 * rng.normal(size=(rounds, runs))


def test_median_interval_covers_the_true_median_about_95_times_of_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = percentile_intervals(noisy_rounds(rng, 30, 10), (50,))[0]
        hits += low <= 10 <= high
    # A bootstrap over single runs would hold the noise for 300 samples and cover about 45 times of 100.
    assert 0.88 * 200 <= hits <= 200


def test_higher_percentiles_interval_covers_its_own_percentile() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        low, high = percentile_intervals(rng.exponential(size=(40, 20)), (50, 95))[1]
        hits += low <= np.log(20) <= high
    assert 0.88 * 100 <= hits <= 100


def test_means_interval_covers_the_true_mean_about_95_times_of_100() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        low, high = mean_interval(noisy_rounds(rng, 30, 10))
        hits += low <= 10 <= high
    assert 0.88 * 200 <= hits <= 200


def test_speedup_finds_the_ratio_under_noise_that_both_share() -> None:
    rng = np.random.default_rng(3)
    burst = rng.choice([1.0, 4.0], size=(40, 1))
    against = burst * 6 * rng.normal(1, 0.01, size=(40, 5))
    own = burst * 2 * rng.normal(1, 0.01, size=(40, 9))
    ratio, (low, high) = speedup(against, own)
    assert ratio == pytest.approx(3, rel=0.01)
    assert low <= 3 <= high
    assert high - low < 0.05


def test_speedup_of_like_with_like_is_seldom_called_faster() -> None:
    rng = np.random.default_rng(4)
    verdicts = [verdict_of(*speedup(noisy_rounds(rng, 20, 5), noisy_rounds(rng, 20, 5))) for _ in range(200)]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) <= 0.05 * 200


def test_independent_runs_have_a_wider_interval_than_paired_ones() -> None:
    rng = np.random.default_rng(6)
    shared = rng.normal(size=(40, 1))
    before, after = (10 + shared + 0.1 * rng.normal(size=(40, 5)) for _ in range(2))
    paired, independent = speedup(before, after)[1], independent_speedup(before, after)[1]
    assert independent[0] < 1 < independent[1]
    assert independent[1] - independent[0] > 3 * (paired[1] - paired[0])


def test_drift_is_the_last_thirds_against_the_firsts() -> None:
    assert drift(np.linspace(10, 10, 30)[:, None]) == 0
    rounds = np.repeat([10.0, 15.0, 12.0], 10)[:, None]
    assert drift(rounds) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("ratio", "interval", "verdict"),
    [
        (1.0, (0.99, 1.01), "same"),
        (1.03, (1.01, 1.04), "same"),
        (1.10, (1.01, 1.20), "faster"),
        (1.03, (1.01, 1.06), "too noisy to call"),
        (3.5, (3.0, 4.0), "faster"),
        (0.25, (0.2, 0.3), "slower"),
        (0.97, (0.93, 0.99), "too noisy to call"),
        (1.01, (0.96, 1.06), "too noisy to call"),
        (1.0, (0.5, 2.0), "too noisy to call"),
    ],
)
def test_verdict(ratio: float, interval: tuple[float, float], verdict: str) -> None:
    assert verdict_of(ratio, interval) == verdict
