from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate.masked_lm import masked_lm_qualities
from tests.stages.measure.tiny_onnx import WORDS, weights, write_package

MASK = WORDS.index("[MASK]")


def constant_answer(log_odds: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of a model whose logits are `log_odds` [V] wherever the mask token stands, and 0 elsewhere."""
    arrays = weights(hidden=4)
    arrays["embedding"][:] = 0
    arrays["embedding"][MASK, 0] = 1
    arrays["layer0"] = np.eye(4, dtype=np.float32) * 20  # tanh(20) = 1
    arrays["head"][:] = 0
    arrays["head"][0] = log_odds
    return arrays


def test_loss_and_top1_are_those_of_a_model_with_known_answers(tmp_path: Path) -> None:
    log_odds = np.random.default_rng(0).normal(size=64).astype(np.float32)
    log_odds[7] = 5
    package = open_package(
        write_package(tmp_path / "package", "fill-mask", arrays=constant_answer(log_odds)), threads=1
    )
    # All ordinary tokens of a sequence are the same word, so any choice of positions has the same labels.
    sequences = [[2, *[word] * 20, 3] for word in (7, 7, 9, 30)] + [[2, 11, 3]]
    quality, perplexity, top1, top5 = masked_lm_qualities(package, sequences, seed=0)
    labels = np.repeat([7, 7, 9, 30, 11], [3, 3, 3, 3, 1])  # 15 % of 20, and at least one
    assert quality.value == pytest.approx(-log_softmax(log_odds.astype(float))[labels].mean(), abs=1e-6)
    assert perplexity.value == pytest.approx(np.exp(quality.value))
    assert top1.value == pytest.approx(6 / 13)
    assert top1.value <= top5.value <= 1
    assert quality.counts["masked_tokens"] == 13
    assert quality.interval[0] < quality.value < quality.interval[1]


def test_seed_alone_decides_what_is_masked(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "package", "fill-mask"), threads=1)
    sequences = [[2, *row, 3] for row in np.random.default_rng(1).integers(5, 64, (12, 20)).tolist()]
    first, again, other = (masked_lm_qualities(package, sequences, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first.value != other.value


def test_batches_do_not_change_the_loss(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "package", "fill-mask"), threads=1)
    rng = np.random.default_rng(2)
    # Masked whole, so that the order of the draws does not matter.
    sequences = [[2, *rng.integers(5, 64, size).tolist(), 3] for size in rng.integers(1, 25, 21)]
    together = masked_lm_qualities(package, sequences, seed=0, mlm_probability=1.0)[0]
    single = [masked_lm_qualities(package, [sequence], seed=0, mlm_probability=1.0)[0] for sequence in sequences]
    tokens = [quality.counts["masked_tokens"] for quality in single]
    assert together.value == pytest.approx(np.average([quality.value for quality in single], weights=tokens), abs=1e-6)


def test_wrong_package_and_empty_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is a sentence-similarity model"):
        masked_lm_qualities(open_package(write_package(tmp_path / "sentence"), threads=1), [[2, 5, 3]], seed=0)
    package = open_package(write_package(tmp_path / "package", "fill-mask"), threads=1)
    with pytest.raises(TextError, match="no token to mask"):
        masked_lm_qualities(package, [[2, 3]], seed=0)
