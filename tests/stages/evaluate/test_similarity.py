from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from homoexport.errors import TextError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import sts_qualities
from homoexport.stages.evaluate.estimate import estimate, spearman
from homoexport.stages.evaluate.similarity import similarity_quality
from tests.stages.measure.tiny_onnx import write_package


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(vectors), k=1)]


def test_fidelity_is_scipys_spearman_of_the_cosines() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(40, 12))
    student = teacher[:, :7] + rng.normal(size=(40, 7))
    expected = stats.spearmanr(cosines(teacher), cosines(student)).statistic
    assert similarity_quality(teacher, student, seed=0).value == pytest.approx(expected, abs=1e-12)
    assert similarity_quality(teacher, 3 * teacher, seed=0).value == pytest.approx(1, abs=1e-12)


def test_rank_correlation_with_ties_and_weights_is_scipys_of_the_repeated_pairs() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 6, 50), rng.integers(0, 4, 50)
    correlation = spearman(left, right)
    assert correlation(np.ones(50)) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)
    weights = rng.integers(0, 4, 50)
    repeated = stats.spearmanr(np.repeat(left, weights), np.repeat(right, weights)).statistic
    assert correlation(weights.astype(float)) == pytest.approx(repeated, abs=1e-12)


def test_correlation_with_what_does_not_vary_is_zero() -> None:
    assert spearman(np.ones(5), np.arange(5))(np.ones(5)) == 0.0


def test_interval_of_the_bootstrap_is_scipys() -> None:
    sample = np.random.default_rng(2).exponential(size=200)
    quality = estimate(
        "mean", lambda counts: float(counts @ sample / counts.sum()), 200, resamples=4000, seed=0, counts={}
    )
    expected = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    np.testing.assert_allclose(quality.interval, expected, atol=0.01)


def test_interval_covers_the_fidelity_of_all_texts() -> None:
    rng = np.random.default_rng(3)
    teacher = rng.normal(size=(1000, 8))
    student = teacher + 0.7 * rng.normal(size=(1000, 8))
    truth = stats.spearmanr(cosines(teacher), cosines(student)).statistic
    hits = 0
    for start in range(0, 1000, 50):
        quality = similarity_quality(teacher[start : start + 50], student[start : start + 50], seed=0)
        assert quality.interval[0] < quality.value < quality.interval[1]
        hits += quality.interval[0] <= truth <= quality.interval[1]
    assert hits >= 16  # of 20


def test_sts_is_scipys_spearman_of_the_packages_cosines(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "package"), threads=1)
    rng = np.random.default_rng(4)
    pairs = [(f"w{a} w{b}", f"w{c} w{a}") for a, b, c in rng.integers(0, 50, (30, 3))]
    scores = rng.integers(0, 6, 30).astype(float).tolist()
    cosine = [float(np.dot(*package.embed(pair, batch_size=1))) for pair in pairs]
    quality = sts_qualities(package, pairs, scores)[0]
    assert quality.value == pytest.approx(stats.spearmanr(cosine, scores).statistic, abs=0.01)
    assert quality.interval[0] < quality.value < quality.interval[1]
    assert quality.figure.model_dump(mode="json") == {
        "metric": "sts_spearman",
        "value": quality.value,
        "interval": list(quality.interval),
        "pairs": 30,
    }


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="2 texts"):
        similarity_quality(np.ones((2, 3)), np.ones((2, 3)), seed=0)
    package = open_package(write_package(tmp_path / "package"), threads=1)
    with pytest.raises(TextError, match="1 pairs of texts and 2 scores"):
        sts_qualities(package, [("w0", "w1")], [1, 2])
    with pytest.raises(TextError, match="1 pairs of texts"):
        sts_qualities(package, [("w0", "w1")], [1])
