"""Agreement of decisions, against counting them one by one."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import label_agreement, quality_of_run
from tests.stages.measure.tiny_onnx import weights, write_package

TEXTS = [f"w{i} w{i * 7 % 50} w{i * i % 40}" for i in range(30)]
LABELS = ["ham", "spam", "jam"]


def classifier(folder: Path, task: str, *, noise: float = 0.0, labels: list[str] = LABELS, **details: object) -> Path:
    arrays = weights()
    rng = np.random.default_rng(1)
    arrays["embedding"] = arrays["embedding"] + noise * rng.normal(size=arrays["embedding"].shape).astype(np.float32)
    arrays["head"] = rng.normal(size=(16, len(labels))).astype(np.float32)
    return write_package(folder, task, arrays=arrays, labels=labels, **details)


def test_share_of_decisions_kept_over_texts_of_unlike_length():
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=(length, 4)).astype(np.float32) for length in (1, 5, 0, 9, 2)]
    logits = [rows + rng.normal(size=rows.shape).astype(np.float32) for rows in reference]
    kept = [
        int(np.argmax(theirs) == np.argmax(ours))
        for text, other in zip(reference, logits, strict=True)
        for theirs, ours in zip(text, other, strict=True)
    ]
    quality = label_agreement(reference, logits, seed=0)
    assert 0 < sum(kept) < len(kept) == 17
    assert (quality.metric, quality.value) == ("label_agreement", pytest.approx(sum(kept) / 17))
    assert (quality.counts["texts"], quality.counts["decisions"]) == (4, 17)
    low, high = quality.interval
    assert low < quality.value < high


def test_interval_covers_what_a_binomial_would():
    reference = [np.array([1.0, 0.0], dtype=np.float32)] * 400
    logits = [np.array([1.0, 0.0 if row % 5 else 2.0], dtype=np.float32) for row in range(400)]
    quality = label_agreement(reference, logits, seed=0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert quality.value == pytest.approx(0.8)
    np.testing.assert_allclose(quality.interval, (0.8 - half, 0.8 + half), atol=0.01)


def test_scores_of_one_label_are_compared_by_rank():
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=1).astype(np.float32) for _ in range(50)]
    logits = [row + 0.5 * rng.normal(size=1).astype(np.float32) for row in reference]
    quality = label_agreement(reference, logits, seed=0)
    expected = spearmanr(np.concatenate(reference), np.concatenate(logits)).statistic
    assert (quality.metric, quality.value) == ("score_spearman", pytest.approx(expected, abs=1e-12))
    with pytest.raises(TextError, match="2 texts"):
        label_agreement(reference[:2], logits[:2], seed=0)
    with pytest.raises(TextError, match="no text"):
        label_agreement([], [], seed=0)


def test_token_classifiers_are_judged_by_the_teachers_decisions_on_ordinary_tokens(tmp_path: Path) -> None:
    teacher = classifier(tmp_path / "teacher", "token-classification")
    student = classifier(tmp_path / "student", "token-classification", noise=1.0)
    found = quality_of_run(open_package(teacher, threads=1), open_package(student, threads=1), TEXTS, seed=0)
    own, result = found.teacher, found.student
    assert (own.metric, own.value, own.interval) == ("label_agreement", 1.0, (1.0, 1.0))
    assert (result.texts, result.decisions) == (30, 90)  # three words each, without [CLS] and [SEP]
    kept = 0
    for text in TEXTS:
        (theirs,), (ours,) = (open_package(folder, threads=1).logits([text]) for folder in (teacher, student))
        kept += int((theirs[1:-1].argmax(axis=1) == ours[1:-1].argmax(axis=1)).sum())
    assert result.value == pytest.approx(kept / 90)
    assert 0.3 < result.value < 1


def test_text_classifiers_are_judged_by_the_teachers_decisions(tmp_path: Path) -> None:
    teacher = open_package(classifier(tmp_path / "teacher", "text-classification"), threads=1)
    found = quality_of_run(teacher, teacher, TEXTS, seed=0).student
    assert (found.metric, found.value, found.decisions) == ("label_agreement", 1.0, 30)


def test_packages_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    teacher = open_package(classifier(tmp_path / "teacher", "token-classification"), threads=1)
    other_task = classifier(tmp_path / "task", "text-classification")
    other_labels = classifier(tmp_path / "labels", "token-classification", labels=["a", "b", "c"])
    longer = write_package(tmp_path / "longer", "token-classification", labels=LABELS, max_length=64)
    for folder, what in [(other_task, "task"), (other_labels, "labels"), (longer, "max_length 64")]:
        with pytest.raises(PackageError, match=f"its {what}.* is not the teacher's"):
            quality_of_run(teacher, open_package(folder, threads=1), TEXTS, seed=0)
