"""Searching documents of another model, and with vectors that are cut, against loops over queries."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from homoexport.documents.artifact import write_manifest
from homoexport.documents.evaluation import Evaluation
from homoexport.documents.student import VectorsDescription
from homoexport.errors import PackageError
from homoexport.report import evaluation_table
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate.retrieval import check_widths, retrieval_qualities
from tests.conftest import Outcome
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import weights, write_package

TEXTS = [f"w{i} w{i * 7 % 50} w{i * i % 40}" for i in range(30)]
Call = Callable[..., Outcome]


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher's package and one that answers nearly as it does; their texts lie in texts.txt."""
    arrays = weights()
    noise = np.random.default_rng(0).normal(size=arrays["embedding"].shape).astype(np.float32)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    near = {**arrays, "embedding": arrays["embedding"] + 0.5 * noise}
    return write_package(tmp_path / "teacher"), write_package(tmp_path / "student", arrays=near)


def search(queries: np.ndarray, documents: np.ndarray) -> list[list[int]]:
    """The ten nearest other texts to each query, by cosine, the nearest first."""
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (queries, documents)]
    found = []
    for number, query in enumerate(unit[0]):
        scores = {other: float(query @ unit[1][other]) for other in range(len(unit[1])) if other != number}
        found.append(sorted(scores, key=lambda other: -scores[other])[:10])
    return found


def figures_by_hand(reference: np.ndarray, queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
    overlaps, gains = [], []
    best = sum((10 - rank) / math.log2(rank + 2) for rank in range(10))
    for wanted, found in zip(search(reference, reference), search(queries, documents), strict=True):
        overlaps.append(len({*wanted} & {*found}) / 10)
        gained = [(10 - wanted.index(text)) if text in wanted else 0 for text in found]
        gains.append(sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gained)) / best)
    return {"overlap@10": float(np.mean(overlaps)), "ndcg@10": float(np.mean(gains))}


def figures(call: Call, *arguments: object) -> dict[int | None, dict[str, float]]:
    """Of the one model judged: by the width that its vectors were cut to, and the metric."""
    told = call("eval", *arguments, "--json")
    assert told.code == 0, told.err
    found: dict[int | None, dict[str, float]] = {}
    for each in json.loads(told.out)["results"][0]["metrics"]:
        found.setdefault(each.get("dimensions"), {})[each["metric"]] = each["value"]
    return found


def test_queries_search_the_documents_of_another_model(homoexport: Call, models: tuple[Path, Path]) -> None:
    teacher, student = models
    flags = (student, "--task", "fidelity", "--data", student.parent / "texts.txt", "--teacher", teacher)
    found = figures(homoexport, *flags, "--documents", teacher)[None]
    ours, theirs = (open_package(folder).embed(TEXTS) for folder in (student, teacher))
    expected = figures_by_hand(theirs, ours, theirs)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "similarity_spearman" not in found  # of the model's own vectors alone, which are not searched
    assert expected != figures_by_hand(theirs, ours, ours)
    by_itself = figures(homoexport, *flags)[None]
    assert {name: by_itself[name] for name in expected} == pytest.approx(figures_by_hand(theirs, ours, ours))
    told = homoexport("eval", *flags, "--documents", teacher)
    assert "searching" in told.out


@pytest.mark.parametrize("asymmetric", [False, True])
def test_cut_vectors_are_judged_beside_the_whole(homoexport: Call, models: tuple[Path, Path], asymmetric: bool) -> None:
    teacher, student = models
    flags = [student, "--task", "fidelity", "--data", student.parent / "texts.txt", "--teacher", teacher]
    flags += ["--documents", teacher] if asymmetric else []
    found = figures(homoexport, *flags, "--dimensions", "4, 8")
    ours, theirs = (open_package(folder).embed(TEXTS) for folder in (student, teacher))
    assert list(found) == [None, 4, 8]
    for size in (4, 8):
        expected = figures_by_hand(theirs, ours[:, :size], (theirs if asymmetric else ours)[:, :size])
        assert {name: found[size][name] for name in expected} == pytest.approx(expected)
    told = homoexport("eval", *flags, "--dimensions", "4", "--json")
    rows = evaluation_table(Evaluation.model_validate_json(told.out)).rows
    assert [row[0] for row in rows] == [str(student), f"{student}, cut to 4"]


def test_cosines_of_cut_vectors_are_judged_by_people_s_scores(homoexport: Call, models: tuple[Path, Path]) -> None:
    _, student = models
    rows = [{"sentence1": left, "sentence2": right, "score": i % 6} for i, (left, right) in enumerate(pairwise(TEXTS))]
    data = student.parent / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    found = figures(homoexport, student, "--task", "sts", "--data", data, "--dimensions", "4")
    left, right = (
        open_package(student).embed([row[name] for row in rows])[:, :4] for name in ("sentence1", "sentence2")
    )
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(left, right, strict=True)]
    assert found[4]["sts_pearson"] == pytest.approx(
        np.corrcoef(cosines, [row["score"] for row in rows])[0, 1], abs=1e-5
    )


@pytest.mark.parametrize(
    ("output", "source", "told"),
    [
        (
            "teacher",
            "v.npy",
            "are of 8; its vectors are those of v.npy; --documents needs the model that these came from",
        ),
        ("teacher", None, "its vectors are those of some/teacher; --documents needs the model"),
        ("student", "second", "are of 8; distil the student with student.output: teacher"),
        ("student", None, "are of 8; distil the student with student.output: teacher"),
    ],
)
def test_whose_vectors_a_student_gives_is_told_where_others_are_searched(
    models: tuple[Path, Path], output: str, source: str | None, told: str
) -> None:
    """Out of the student's manifest."""
    model, student, details = open_package(models[0]), models[0].parent / "distilled", student_details()
    student.mkdir()
    (student / "config.json").write_text("{}")
    vectors = source and VectorsDescription(source=source, width=16, digest="ef" * 32)
    text = details.text.model_copy(update={"vectors": vectors})
    write_manifest(student, "student", details=details.model_copy(update={"output": output, "text": text}))
    model.details = replace(model.details, folder=student)
    with pytest.raises(PackageError, match=f"distilled: has vectors of 16, .*{told}"):
        check_widths(model, model.embed(TEXTS), np.ones((len(TEXTS), 8)))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--dimensions", "64"), "has vectors of 16, which cannot be cut to 64"),
        (("--dimensions", "8,x"), "--dimensions: '8,x' is no list of widths"),
        (("--dimensions", "0"), "write such as 64,128,192"),
        (("--documents", "narrow"), "has vectors of 16, and the documents' are of 8"),
        (("--documents", "nowhere"), "nowhere"),
    ],
)
def test_widths_that_cannot_be_are_refused(
    homoexport: Call, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: str
) -> None:
    teacher, student = models
    monkeypatch.chdir(student.parent)
    write_package(Path("narrow"), arrays=weights(hidden=8))
    found = homoexport("eval", student, "--task", "fidelity", "--data", "texts.txt", "--teacher", teacher, *flags)
    assert (found.code, told in found.err) == (2, True), found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("flags", [("--documents", "teacher"), ("--dimensions", "8")])
def test_tasks_without_vectors_take_neither(
    homoexport: Call, models: tuple[Path, Path], flags: tuple[str, str]
) -> None:
    found = homoexport("eval", models[1], "--task", "masked-lm", "--data", "texts.txt", *flags)
    assert (found.code, "makes no difference here" in found.err) == (2, True)


def test_a_teacher_searches_its_own_index_as_before() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 6))
    own, other = (retrieval_qualities(vectors, vectors, seed=0, documents=given) for given in (None, vectors))
    assert own == other
    assert own[0].value == 1.0
