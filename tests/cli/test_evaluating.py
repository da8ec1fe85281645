"""`homoexport eval` as a user calls it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import get_args

import pytest

from homoexport.choices import EVALUATION_TASKS, AskedTask
from homoexport.documents.artifact import Manifest, verify
from homoexport.stages.evaluate import GLUE, TASKS
from tests.snippets import snippets
from tests.stages.measure.tiny_onnx import weights, write_package

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
    assert "dev.tsv(20examples)" in "".join(told.out.split())  # the title is folded where the path is long
    document = json.loads((tmp_path / "kept/evaluation.json").read_text())
    first, second = document["results"]
    assert first == second
    assert f"{first['metrics'][0]['value']:.4f}" in told.out
    manifest = verify(tmp_path / "kept", Manifest)
    assert (manifest.kind, "evaluation.json" in manifest.files) == ("evaluation", True)
    again = homoexport("eval", package, package, "--task", "sts", "--data", data, "--json")
    assert json.loads(again.out) == document
    taken = homoexport("eval", package, "--task", "sts", "--data", data, "-o", tmp_path / "kept")
    assert (taken.code, "already exists" in taken.err) == (2, True)


def test_what_figures_come_from_is_kept(homoexport, package, data, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"w{i % 40} w{i % 37}" for i in range(1100)))
    flags = ("--task", "fidelity", "--teacher", package, "--data", tmp_path / "texts.txt", "--seed", "3", "--json")
    document = json.loads(homoexport("eval", package, *flags).out)
    assert document["teacher_digest"] == verify(package, Manifest).digest
    assert (document["data"]["examples"], document["data"]["drawn"], document["seed"]) == (1100, 1000, 3)
    assert document["columns"] == {"text": "text", "pair": None, "label": None}
    labelled = ("--task", "classification", "--text-column", "sentence1", "--label-column", "score", "--data", data)
    document = json.loads(homoexport("eval", package, *labelled, "--train", data, "--json").out)
    assert document["train"] == document["data"]
    assert document["columns"] == {"text": "sentence1", "pair": None, "label": "score"}
    bad = homoexport("eval", package, *labelled, "--train", tmp_path / "nothing.csv")
    assert (bad.code, f"--train {tmp_path}/nothing.csv: no file matches" in bad.err) == (2, True)


def test_a_bad_model_is_told_before_the_others_are_judged(homoexport, package, data, tmp_path):
    told = homoexport("eval", package, tmp_path / "nowhere", "--task", "sts", "--data", data)
    assert (told.code, "no such model folder" in told.err, "judging" in told.err) == (2, True, False)


def test_what_the_docs_say_can_be_said(homoexport, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "student", "student-onnx", "teacher-onnx"):
        write_package(tmp_path / name)
    write_package(tmp_path / "classifier-onnx", "text-classification", labels=["no", "yes", "perhaps"])
    write_package(tmp_path / "masked-lm-onnx", "fill-mask")
    arrays = weights()
    arrays["head"] = arrays["head"][:, :3]
    write_package(tmp_path / "tagger-onnx", "token-classification", arrays=arrays, labels=["O", "B-X", "I-X"])
    (tmp_path / "ner.jsonl").write_text(
        "\n".join(json.dumps({"tokens": left.split(), "ner_tags": [score % 3, 0]}) for left, _, score in ROWS)
    )
    for folder in ("glue/STS-B", "SST-2"):
        (tmp_path / folder).mkdir(parents=True)
    pairs = [f"{left}\t{right}\t{score}" for left, right, score in ROWS]
    (tmp_path / "glue/STS-B/dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]))
    labelled = [f"{left}\t{score % 3}" for left, _, score in ROWS]
    (tmp_path / "SST-2/dev.tsv").write_text("\n".join(["sentence\tlabel", *labelled]))
    (tmp_path / "texts.txt").write_text("\n".join(left for left, _, _ in ROWS))
    found = [json.dumps({"query": left, "document": right}) for left, right, _ in ROWS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(found))
    blocks = [
        block
        for heading in ("Judging models", "Search against labels")
        for block in snippets("evaluating.md", heading, "bash")
    ]
    commands = [line for block in blocks for line in block.splitlines()]
    (tmp_path / "glue/CoLA").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / f"glue/CoLA/{name}.tsv").write_text("\n".join(f"x\t{i % 2}\t\tw{i % 2} w5" for i in range(40)))
    assert len(commands) == 8
    for command in commands:
        told = homoexport(*shlex.split(command)[1:])
        assert told.code == 0, told.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--task", "sts", "--label-column", "points"],
            ["no column 'points'", "set --label-column to one of", "score"],
        ),
        (["--task", "search"], ["no column 'query'", "set --text-column to one of: sentence1"]),
        (["--task", "sts", "--label-column", "sentence1"], ["is no number", "--label-column"]),
        (["--task", "fidelity", "--text-column", "sentence1"], ["--teacher"]),
        (["--task", "fidelity", "--label-column", "score"], ["--label-column", "no difference"]),
        (["--task", "masked-lm", "--text-column", "sentence1"], ["sentence-similarity model", "fill-mask"]),
        (
            ["--task", "classification", "--text-column", "sentence1", "--label-column", "score"],
            ["text-classification"],
        ),
        (["--task", "sst2"], ["--data", "no difference"]),
        (["--task", "sts", "--probe"], ["--probe", "no difference"]),
        (["--task", "sts", "--train", "x"], ["--train", "no difference"]),
        (["--task", "mteb"], ["has no data to judge on", "--name"]),
        (["--task", "sts", "--name", "STS12"], ["--name", "no difference"]),
        (["--task", "sts", "--teacher", "x"], ["--teacher", "no difference"]),
        (["--task", "taste"], ["taste", "sts"]),
    ],
)
def test_bad_wishes_are_refused_in_one_line(homoexport, package, data, flags, words):
    told = homoexport("eval", package, "--data", data, *flags)
    assert told.code == 2
    assert all(word in told.err for word in words), told.err
    assert "Traceback" not in told.err


def test_mteb_is_asked_for_where_it_is_missing(homoexport, package, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    told = homoexport("eval", package, "--task", "mteb", "--name", "STS12")
    assert (told.code, "mteb is not installed; pip install" in told.err) == (2, True)


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    """Three tasks as GLUE has them; a word tells the label."""
    for folder, head, row in (
        ("CoLA", None, "gj04\t{label}\t*\tw{label} {text}"),
        ("SST-2", "sentence\tlabel", "w{label} {text}\t{label}"),
        ("STS-B", "index\tsentence1\tsentence2\tscore", "{label}\t{text}\tw1 w2\t{label}"),
    ):
        (tmp_path / folder).mkdir()
        for name, count in (("train", 200), ("dev", 60)):
            lines = [row.format(label=i % 2, text=f"w{i % 7 + 2} w{i % 11 + 9}") for i in range(count)]
            (tmp_path / folder / f"{name}.tsv").write_text("\n".join(filter(None, [head, *lines])))
    return tmp_path


def test_glue_is_judged_by_its_official_metrics(homoexport, package, glue, tmp_path):
    def judged(*flags: object) -> dict[str, float]:
        told = homoexport("eval", *flags, "--data-dir", glue, "--json")
        assert told.code == 0, told.err
        (result,) = json.loads(told.out)["results"]
        return {each["metric"]: each["value"] for each in result["metrics"]}

    (matthews,) = judged(package, "--task", "cola", "--probe").items()
    assert matthews == ("matthews", pytest.approx(1, abs=0.1))  # the first word tells
    (accuracy,) = judged(package, "--task", "sst2", "--probe").items()
    assert accuracy == ("accuracy", pytest.approx(1, abs=0.05))
    assert set(judged(package, "--task", "stsb")) == {"sts_spearman", "sts_pearson"}
    arrays, figures = weights(), []
    arrays["head"] = arrays["head"][:, :2]
    for labels in (["LABEL_0", "LABEL_1"], ["NEGATIVE", "POSITIVE"], ["Positive", "Negative"]):
        classifier = write_package(tmp_path / labels[0], "text-classification", arrays=arrays, labels=labels)
        figures.append(judged(classifier, "--task", "sst2"))
    assert figures[0] == figures[1]
    assert figures[2] == {"accuracy": pytest.approx(1 - figures[0]["accuracy"])}  # the same model, named upside down
    strange = write_package(tmp_path / "strange", "text-classification", labels=["bad", "good"])
    told = homoexport("eval", strange, "--task", "sst2", "--data-dir", glue)
    assert (told.code, "the label 'negative' is none of the model's (bad, good)" in told.err) == (2, True)


def test_glue_that_cannot_be_judged_is_refused_in_one_line(homoexport, package, glue, tmp_path):
    for flags, words in (
        (["--task", "sst2"], ["is a sentence-similarity model", "--probe"]),
        (["--task", "rte", "--probe"], ["RTE/dev.tsv", "no such file", "--data-dir"]),
    ):
        told = homoexport("eval", package, "--data-dir", glue, *flags)
        assert (told.code, [word for word in words if word not in told.err]) == (2, [])
    (glue / "SST-2/dev.tsv").write_text("sentence\tlabel\nw1\tgood\n")
    told = homoexport("eval", package, "--data-dir", glue, "--task", "sst2", "--probe")
    assert (told.code, "'good'" in told.err) == (2, True)
    (glue / "SST-2/dev.tsv").write_text("text\tlabel\nw1\t1\n")
    told = homoexport("eval", package, "--data-dir", glue, "--task", "sst2", "--probe")
    assert (told.code, "no column 'sentence'" in told.err) == (2, True)


def test_glues_own_tsv_can_be_named_as_data_and_csv_must_be_quoted(homoexport, package, tmp_path):
    path = tmp_path / "STS-B.tsv"
    path.write_text('sentence1\tsentence2\tscore\na\tb\t1\n"Oh," he said.\tb\t2\nc\td "e\t3\n')
    told = homoexport("eval", package, "--task", "sts", "--data", path, "--json")
    assert json.loads(told.out)["results"][0]["metrics"][0]["pairs"] == 3
    path.with_suffix(".csv").write_text(path.read_text().replace("\t", ","))
    told = homoexport("eval", package, "--task", "sts", "--data", path.with_suffix(".csv"))
    assert told.code == 2
    assert "STS-B.csv, row 2: has a quoted cell that does not end as one; a bare quote?" in told.err


def test_a_probe_on_data_of_ones_own(homoexport, package, glue):
    flags = ["--task", "classification", "--text-column", "sentence", "--data", glue / "SST-2/dev.tsv"]
    told = homoexport("eval", package, *flags, "--train", glue / "SST-2/train.tsv", "--json")
    metrics = json.loads(told.out)["results"][0]["metrics"]
    assert {each["metric"]: each["value"] for each in metrics}["accuracy"] > 0.95
    assert {each["probe_trained_on"] for each in metrics} == {200}


def test_the_command_knows_every_task():
    assert set(get_args(AskedTask)) == {*TASKS, *GLUE, "mteb"}
    assert EVALUATION_TASKS.keys() == TASKS.keys()


@pytest.mark.parametrize("data", ["none.tsv", "reviews.csv"])
def test_a_classifier_is_told_which_tasks_it_has_before_its_data_are_blamed(homoexport, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    write_package(tmp_path / "classifier", "text-classification", labels=["no", "yes", "perhaps"])
    (tmp_path / "reviews.csv").write_text("text,label\na,yes\n")
    told = homoexport("eval", "classifier", "--task", "sts", "--data", data)
    assert (told.code, told.err.splitlines()[-1]) == (
        2,
        "error: classifier: is a text-classification model of 3 labels, which --task sts cannot judge; judge it with "
        "--task fidelity or classification, or name a sentence-similarity model",
    )
