from pathlib import Path

import numpy as np
import pytest

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import Package, open_package
from homoexport.stages.evaluate import quality_of_run
from homoexport.stages.evaluate.masked_lm import masked_lm_qualities
from homoexport.stages.evaluate.retrieval import retrieval_qualities
from homoexport.stages.evaluate.similarity import similarity_quality
from tests.stages.measure.tiny_onnx import weights, write_package

TEXTS = [f"w{i} w{i * 7 % 50} w{i * i % 40}" for i in range(30)]


def opened(folder: Path, *arguments: object, **named: object) -> Package:
    return open_package(write_package(folder, *arguments, **named), threads=1)


def test_sentence_packages_are_judged_by_the_teacher(tmp_path: Path) -> None:
    arrays = weights()
    teacher = opened(tmp_path / "teacher", arrays=arrays)
    noise = np.random.default_rng(0).normal(size=arrays["embedding"].shape).astype(np.float32)
    close = opened(tmp_path / "close", arrays={**arrays, "embedding": arrays["embedding"] + 0.1 * noise})
    far = opened(tmp_path / "far", arrays={**arrays, "embedding": arrays["embedding"] + 3 * noise})
    found = quality_of_run(teacher, close, TEXTS, seed=0)
    own, near, distant = found.teacher, found.student, quality_of_run(teacher, far, TEXTS, seed=0).student
    assert (own.package, own.metric, own.value) == (str(tmp_path / "teacher"), "overlap@10", 1.0)
    expected = retrieval_qualities(teacher.embed(TEXTS), close.embed(TEXTS), seed=0)[0]
    assert near.value == pytest.approx(expected.value, abs=1e-12)
    assert distant.interval[1] < near.interval[0]
    assert near.texts == 30


def test_both_are_judged_by_the_second_model_that_taught_the_vectors(tmp_path: Path) -> None:
    arrays = weights()
    teacher, second = opened(tmp_path / "teacher", arrays=arrays), opened(tmp_path / "second", arrays=weights(seed=2))
    found = quality_of_run(teacher, second, TEXTS, seed=0, second=second)
    expected = retrieval_qualities(second.embed(TEXTS), teacher.embed(TEXTS), seed=0)[0]
    assert found.teacher.value == pytest.approx(expected.value, abs=1e-12)
    assert found.teacher.value < 0.9
    assert (found.student.value, found.student.metric) == (1.0, "overlap@10")


def test_a_student_in_the_teachers_space_searches_the_teachers_vectors(tmp_path: Path) -> None:
    teacher, student = opened(tmp_path / "teacher"), opened(tmp_path / "student", arrays=weights(seed=1))
    theirs, ours = teacher.embed(TEXTS), student.embed(TEXTS)
    found = quality_of_run(teacher, student, TEXTS, seed=0, output="teacher")
    expected = retrieval_qualities(theirs, ours, seed=0, documents=theirs)[0]
    assert (found.documents, found.student.value) == ("teacher", pytest.approx(expected.value, abs=1e-12))
    own = quality_of_run(teacher, student, TEXTS, seed=0)
    assert (own.documents, own.student.value != found.student.value) == ("student", True)
    few = quality_of_run(teacher, student, TEXTS[:11], seed=0, output="teacher")
    assert (few.documents, few.student.metric) == ("student", "similarity_spearman")


def test_too_few_texts_to_search_among_are_judged_by_their_similarities(tmp_path: Path) -> None:
    teacher, student = opened(tmp_path / "teacher"), opened(tmp_path / "student", arrays=weights(seed=1))
    found = quality_of_run(teacher, student, TEXTS[:11], seed=0).student
    expected = similarity_quality(teacher.embed(TEXTS[:11]), student.embed(TEXTS[:11]), seed=0)
    assert (found.metric, found.value) == ("similarity_spearman", pytest.approx(expected.value, abs=1e-12))


def test_more_texts_than_are_used_are_sampled_by_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homoexport.stages.evaluate.fidelity.MAX_COMPARED", 20)
    teacher = opened(tmp_path / "teacher")
    student = opened(tmp_path / "student", arrays=weights(seed=1))
    first, again, other = (quality_of_run(teacher, student, TEXTS, seed=seed).student for seed in (0, 0, 1))
    assert first == again
    assert first.texts == 20
    assert first.value != other.value


def test_fill_mask_packages_are_judged_by_the_text(tmp_path: Path) -> None:
    package = opened(tmp_path / "package", "fill-mask")
    found = quality_of_run(package, package, TEXTS, seed=3)
    sequences = [encoding.ids for encoding in package.tokenizer.encode_batch(TEXTS)]
    figure = masked_lm_qualities(package, sequences, seed=3)[0].figure
    assert found.student == found.teacher
    assert found.student.model_dump() == {"package": str(tmp_path / "package"), **figure.model_dump()}
    assert {"metric", "value", "interval", "masked_tokens"} <= set(found.student.model_dump())


def test_teacher_without_vectors_and_no_text_are_refused(tmp_path: Path) -> None:
    student, teacher = opened(tmp_path / "student"), opened(tmp_path / "teacher", "fill-mask")
    with pytest.raises(PackageError, match="gives no vectors"):
        quality_of_run(teacher, student, TEXTS, seed=0)
    with pytest.raises(TextError, match="no text"):
        quality_of_run(student, student, [], seed=0)
