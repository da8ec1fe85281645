"""95 % intervals hold the truth 95 times of 100: of 200 samples out of populations whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from homoexport.stages.evaluate.classification import classification_qualities, score_qualities
from homoexport.stages.evaluate.estimate import Quality

pytestmark = pytest.mark.slow

SPLITS, SIZE, POPULATION = 200, 300, 100_000
RNG = np.random.default_rng(0)
TASTE = RNG.normal(size=POPULATION)
SCORES, GIVEN = TASTE + 0.6 * RNG.normal(size=POPULATION), np.round(TASTE + 0.3 * RNG.normal(size=POPULATION))
LABELS = (RNG.random(POPULATION) < 0.45).astype(np.int64)
LOGITS = np.zeros((POPULATION, 2))  # of a classifier that is surer than it is right
LOGITS[:, 1] = 4 * (3 * LABELS - 1.5 + 1.2 * RNG.normal(size=POPULATION))
GUESSES = LOGITS.argmax(axis=1)
TRUTH = {
    "spearman": stats.spearmanr(SCORES, GIVEN).statistic,
    "pearson": stats.pearsonr(SCORES, GIVEN).statistic,
    "accuracy": accuracy_score(LABELS, GUESSES),
    "f1": f1_score(LABELS, GUESSES),
    "matthews": matthews_corrcoef(LABELS, GUESSES),
    "calibration_error": np.mean(1 / (1 + np.exp(-np.abs(LOGITS[:, 1])))) - np.mean(LABELS == GUESSES),
}


def qualities(rows: np.ndarray, seed: int) -> list[Quality]:
    return [
        *score_qualities(SCORES[rows], GIVEN[rows].tolist(), seed=seed),
        *classification_qualities(LOGITS[rows], LABELS[rows], seed=seed),
    ]


@pytest.fixture(scope="module")
def covered() -> dict[str, float]:
    rng = np.random.default_rng(1)
    hits = dict.fromkeys(TRUTH, 0)
    for split in range(SPLITS):
        for quality in qualities(rng.integers(0, POPULATION, SIZE), split):
            low, high = quality.interval
            hits[quality.metric] += low <= TRUTH[quality.metric] <= high
    return {name: count / SPLITS for name, count in hits.items()}


@pytest.mark.parametrize("metric", ["spearman", "pearson", "accuracy", "f1", "matthews"])
def test_intervals_cover_what_they_say(covered, metric):
    assert 0.93 <= covered[metric] <= 0.97


def test_a_distances_interval_is_a_little_short(covered):
    assert 0.85 <= covered["calibration_error"] <= 0.97
