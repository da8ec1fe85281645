import json
from pathlib import Path

import numpy as np
import pytest

from homoexport.errors import PackageError, TextError
from homoexport.evaluate import evaluate_packages, masked_lm_qualities, similarity_fidelity
from homoexport.runtime.inference import open_package
from tests.measure.tiny_onnx import weights, write_package

TEXTS = [f"w{i} w{i * 7 % 50} w{i * i % 40}" for i in range(30)]


def test_sentence_packages_are_judged_by_the_teacher(tmp_path: Path) -> None:
    arrays = weights()
    teacher = write_package(tmp_path / "teacher", arrays=arrays)
    noise = np.random.default_rng(0).normal(size=arrays["embedding"].shape).astype(np.float32)
    close = write_package(tmp_path / "close", arrays={**arrays, "embedding": arrays["embedding"] + 0.1 * noise})
    far = write_package(tmp_path / "far", arrays={**arrays, "embedding": arrays["embedding"] + 3 * noise})
    own, near, distant = evaluate_packages([teacher, close, far], TEXTS, teacher=teacher, seed=0, threads=1)
    assert (own["package"], own["metric"], own["value"]) == (str(teacher), "similarity_spearman", 1.0)
    vectors = [open_package(folder, threads=1).embed(TEXTS) for folder in (teacher, close)]
    assert near["value"] == pytest.approx(similarity_fidelity(*vectors), abs=1e-12)
    assert distant["interval"][1] < near["interval"][0]
    assert json.loads(json.dumps(near))["texts"] == 30


def test_more_texts_than_are_used_are_sampled_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homoexport.evaluate.packages.MAX_COMPARED", 20)
    teacher = write_package(tmp_path / "teacher")
    student = write_package(tmp_path / "student", arrays=weights(seed=1))
    first, again, other = (
        evaluate_packages([student], TEXTS, teacher=teacher, seed=seed, threads=1)[0] for seed in (0, 0, 1)
    )
    assert first == again
    assert first["texts"] == 20
    assert first["value"] != other["value"]


def test_fill_mask_packages_are_judged_by_the_text(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", "fill-mask")
    (result,) = evaluate_packages([package], TEXTS, teacher=package, seed=3, threads=1)
    opened = open_package(package, threads=1)
    sequences = [encoding.ids for encoding in opened.tokenizer.encode_batch(TEXTS)]
    quality = masked_lm_qualities(opened, sequences, seed=3)[0]
    assert result == {"package": str(package), **quality.as_json()}
    assert {"metric", "value", "interval", "masked_tokens"} <= set(result)


def test_teacher_without_vectors_and_no_text_are_refused(tmp_path: Path) -> None:
    student = write_package(tmp_path / "student")
    teacher = write_package(tmp_path / "teacher", "fill-mask")
    with pytest.raises(PackageError, match="gives no vectors"):
        evaluate_packages([student], TEXTS, teacher=teacher, seed=0, threads=1)
    with pytest.raises(TextError, match="no text"):
        evaluate_packages([student], [], teacher=student, seed=0, threads=1)
