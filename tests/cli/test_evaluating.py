"""`homoexport eval` as a user calls it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from homoexport.artifact import verify
from tests.measure.tiny_onnx import write_package
from tests.snippets import snippets

ROWS = [(f"w{i} w{i + 1}", f"w{i * 3 % 40} w{i}", i % 6) for i in range(20)]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    lines = [f'{left} "quoted\t{right}\t{score}' for left, right, score in ROWS]  # a quote is but a character
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]), encoding="utf-8")
    return path


def test_models_are_judged_side_by_side_and_kept(homoexport, package, data, tmp_path):
    told = homoexport("eval", package, package, "--task", "sts", "--data", data, "-o", tmp_path / "kept")
    assert told.code == 0
    assert "20 examples" in told.out
    document = json.loads((tmp_path / "kept/evaluation.json").read_text())
    first, second = document["results"]
    assert first == second
    assert f"{first['metrics'][0]['value']:.4f}" in told.out
    manifest = verify(tmp_path / "kept", kind="evaluation")
    assert manifest["details"]["data"]["digest"] == document["data"]["digest"]
    again = homoexport("eval", package, package, "--task", "sts", "--data", data, "--json")
    assert json.loads(again.out) == document
    taken = homoexport("eval", package, "--task", "sts", "--data", data, "-o", tmp_path / "kept")
    assert (taken.code, "already exists" in taken.err) == (2, True)


def test_what_the_docs_say_can_be_said(homoexport, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "student", "student-onnx", "teacher-onnx"):
        write_package(tmp_path / name)
    write_package(tmp_path / "classifier-onnx", "text-classification", labels=["no", "yes", "perhaps"])
    write_package(tmp_path / "masked-lm-onnx", "fill-mask")
    for folder in ("STS-B", "SST-2"):
        (tmp_path / folder).mkdir()
    pairs = [f"{left}\t{right}\t{score}" for left, right, score in ROWS]
    (tmp_path / "STS-B/dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]))
    labelled = [f"{left}\t{score % 3}" for left, _, score in ROWS]
    (tmp_path / "SST-2/dev.tsv").write_text("\n".join(["sentence\tlabel", *labelled]))
    (tmp_path / "texts.txt").write_text("\n".join(left for left, _, _ in ROWS))
    commands = [line for block in snippets("evaluating.md", "Judging models", "bash") for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        told = homoexport(*shlex.split(command)[1:])
        assert told.code == 0, told.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "sts", "--label-column", "points"], ["no column 'points'", "score"]),
        (["--task", "sts", "--label-column", "sentence1"], ["is no number", "--label-column"]),
        (["--task", "fidelity", "--text-column", "sentence1"], ["--teacher"]),
        (["--task", "fidelity", "--label-column", "score"], ["takes no labels"]),
        (["--task", "masked-lm", "--text-column", "sentence1"], ["sentence-similarity package", "fill-mask"]),
        (
            ["--task", "classification", "--text-column", "sentence1", "--label-column", "score"],
            ["text-classification"],
        ),
        (["--task", "taste"], ["taste", "sts"]),
    ],
)
def test_bad_wishes_are_refused_in_one_line(homoexport, package, data, flags, words):
    told = homoexport("eval", package, "--data", data, *flags)
    assert told.code == 2
    assert all(word in told.err for word in words), told.err
    assert "Traceback" not in told.err
