"""Runs whose teacher learns its labels first: one recipe from labels to a package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from homoexport.documents.artifact import FinetunedManifest, Manifest, PackageManifest, StudentManifest, verify
from homoexport.documents.recipe import load_recipe
from homoexport.errors import UserError
from homoexport.report import outlook_table
from homoexport.stages.evaluate import open_model
from homoexport.workflow import run as running
from homoexport.workflow.check import check, check_recipe, inputs_of
from tests.workflow.conftest import Finished, finished, write_recipe

pytestmark = pytest.mark.processes

LEARNING = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "threads": 1}


def texts(start: int) -> list[str]:
    return [f"w{i % 37 + 2} w{i % 11} w{i % 2} w{i // 11}" for i in range(start, start + 120)]


def write_learning_recipe(folder: Path, **changes: object) -> Path:
    """A small recipe for a teacher that knows no labels, with labelled files beside it."""
    for name, start in (("train", 0), ("dev", 120)):
        rows = [f"{text},{'no' if place % 2 else 'yes'}" for place, text in enumerate(texts(start))]
        (folder / f"{name}.csv").write_text("\n".join(["review,verdict", *rows]))
    path = write_recipe(folder, file_mb=5)
    tree = yaml.safe_load(path.read_text())
    source = {"files": str(folder / "train.csv"), "column": "review", "label_column": "verdict"}
    columns = {"text_column": "review", "label_column": "verdict"}
    tree["text"] |= {"sources": [source], "held_out": 40}
    tree["distill"] |= {"objective": "classification", "int8_share": 0.5}
    tree["quality"] = {"task": "classification", "data": str(folder / "dev.csv"), "floor": "1%", **columns}
    path.write_text(yaml.safe_dump(tree | {"finetune": LEARNING} | changes))
    return path


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory) -> Finished:
    return finished(tmp_path_factory, "learned-run", write_learning_recipe)


def test_all_that_follows_is_out_of_the_teacher_that_learned(homoexport, learned_run, tmp_path):
    run, outcome = learned_run.copied_to(tmp_path), learned_run.outcome
    assert outcome.code == 0, outcome.err
    teacher = verify(run / "0-finetuned", FinetunedManifest)
    assert (teacher.kind, teacher.parent) == ("model", str(learned_run.recipe.parent / "teacher"))
    assert teacher.details.labels == ("no", "yes")
    assert teacher.details.finetune.max_length == 24  # the text's
    student, package = verify(run / "1-student", StudentManifest), verify(run / "2-onnx", PackageManifest)
    assert student.parent == verify(run / "0-teacher", PackageManifest).parent == teacher.digest
    assert (package.parent, package.details.labels) == (student.digest, ("no", "yes"))
    assert {each.recipe for each in (teacher, student, package)} == {load_recipe(learned_run.recipe).digest()}
    summary = json.loads(outcome.out)
    (floor,) = [line for line in summary["budget"] if line["line"].startswith("quality")]
    (accuracy,) = [each.value for each in teacher.details.finetuned.judged["dev"] if each.metric == "accuracy"]
    assert floor["teacher"] == pytest.approx(accuracy, abs=0.02)
    assert accuracy > 0.9  # before, it knew nothing of labels
    assert next(iter(summary["seconds"])) == "finetune"
    page = (run / "report.md").read_text()
    assert "was [fine-tuned](0-finetuned/report.md) on labels, and distilled" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| Fine-tuned teacher")]
    assert teacher.digest[:12] in row
    assert "fine-tuned: classification" in row
    assert "student" not in (run / "0-finetuned/report.md").read_text().lower()
    assert homoexport("report", run).code == 0
    (run / "0-finetuned/config.json").write_text("{}")
    assert homoexport("report", run).code == 2


def test_no_text_of_people_lies_in_what_is_published(learned_run):
    """In packages, and in the fine-tuned teacher; a student's folder has them in the one file that is left out."""
    run = learned_run.run
    held_out = (run / "1-student/held_out.txt").read_text().splitlines()
    private = [text.encode() for text in (*texts(120), *held_out)]
    found = {
        path.relative_to(run).as_posix()
        for folder in ("0-finetuned", "0-teacher", "1-student", "2-onnx")
        for path in (run / folder).rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in private)
    }
    assert found == {"1-student/held_out.txt"}
    assert (run / "1-student/.gitignore").read_text() == "held_out.txt\n"


@pytest.mark.slow
def test_a_stopped_run_does_not_learn_again(homoexport, learned_run, tmp_path, monkeypatch):
    run, path = tmp_path / "run", learned_run.recipe

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("homoexport.stages.finetune.train_classifier", stop)
        stopped = homoexport("run", path, "-o", run)
    assert (stopped.code, "nothing was done yet that could be kept" in stopped.err) == (130, True)
    assert not run.exists()
    with monkeypatch.context() as patch:
        patch.setattr(running, "distill", stop)
        stopped = homoexport("run", path, "-o", run)
    assert (stopped.code, "this goes on: homoexport run" in stopped.err) == (130, True)
    before = (run / "0-finetuned/manifest.json").stat().st_mtime_ns
    monkeypatch.setattr(running, "finetune_model", stop)
    resumed = homoexport("run", path, "-o", run, "--resume")
    assert resumed.code == 0, resumed.err
    assert (run / "0-finetuned/manifest.json").stat().st_mtime_ns == before
    for made in ("0-finetuned", "1-student"):
        again, once = ((folder / made / "model.safetensors").read_bytes() for folder in (run, learned_run.run))
        assert again == once


@pytest.mark.slow
def test_what_a_killed_process_left_of_it_is_made_anew(homoexport, learned_run, tmp_path):
    run, path = learned_run.copied_to(tmp_path), learned_run.recipe
    (run / "0-finetuned").rename(tmp_path / "0-finetuned")
    (run / "summary.json").unlink()
    resumed = homoexport("run", path, "-o", run, "--resume")
    assert resumed.code == 0, resumed.err  # and it is the same, so that all that followed still holds
    assert verify(run / "0-finetuned", Manifest).digest == verify(tmp_path / "0-finetuned", Manifest).digest


def test_another_model_in_its_place_is_refused(homoexport, learned_run, tmp_path):
    run = learned_run.copied_to(tmp_path)
    (run / "summary.json").unlink()
    (run / "0-finetuned").rename(tmp_path / "away")
    (run / "1-student").rename(run / "0-finetuned")
    outcome = homoexport("run", learned_run.recipe, "-o", run, "--resume")
    assert (outcome.code, "0-finetuned: was not made in this run" in outcome.err) == (2, True), outcome.err


def test_what_is_to_be_learned_is_told_before(tmp_path):
    recipe = load_recipe(write_learning_recipe(tmp_path, finetune=LEARNING | {"max_examples": 100}))
    before = sorted(tmp_path.rglob("*"))
    found = check(recipe, output=tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before
    assert found.finetuning is not None
    assert found.time is not None
    told = found.finetuning
    assert (told.labels, told.examples, told.of_examples, told.steps) == ({"no": 60, "yes": 60}, 100, 120, 6 * 7)
    assert found.time.seconds["finetune"] > 0
    (row,) = [row for row in outlook_table(found).rows if row[0] == "Learns first"]
    learned = "100 of 120 examples, 42 steps of 16"
    assert row[1] == f"2 labels (no 60, yes 60) by {tmp_path}/train.csv: {learned}; judged on {tmp_path}/dev.csv"
    assert {str(tmp_path / "train.csv"), str(tmp_path / "dev.csv")} <= set(inputs_of(recipe))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_column": "verdit"}, r"finetune\.train .*train\.csv: has no column 'verdit'"),
        ({"train": "no.csv"}, r"finetune\.train no\.csv: no file matches"),
        ({"dev": "no.csv"}, r"finetune\.dev no\.csv: no file matches"),
        ({"threads": 4096}, r"finetune\.threads: 4096 threads where"),
        ({"label_column": "review"}, "is none of the model's"),
    ],
)
def test_what_would_stop_it_is_told_before_a_model_is_loaded(homoexport, tmp_path, changes, said):
    path = write_learning_recipe(tmp_path, finetune=LEARNING | changes, teacher="nowhere")
    with pytest.raises(UserError, match=said):
        check_recipe(load_recipe(path))


def test_the_command_tells_a_misspelt_label_column_at_once(homoexport, tmp_path):
    path = write_learning_recipe(tmp_path)
    for flags in (["--check"], ["-o", tmp_path / "run"]):
        misspelt = ["--set", "text.sources.0.label_column=verdit"]
        outcome = homoexport("run", path, *misspelt, *flags)
        assert (outcome.code, "has no column 'verdit'" in outcome.err) == (2, True), outcome.err
        assert "Fine-tuning" not in outcome.err
    assert not (tmp_path / "run").exists()
    outcome = homoexport("run", path, "--check", "--set", "finetune.dev=no.csv")
    assert (outcome.code, "finetune.dev no.csv: no file matches" in outcome.err) == (2, True), outcome.err
    assert f"looked in {Path.cwd()} and {tmp_path}" in outcome.err


def test_labels_of_the_text_are_those_that_were_learned(tmp_path):
    path = write_learning_recipe(tmp_path)
    tree = yaml.safe_load(path.read_text())
    (tmp_path / "other.csv").write_text((tmp_path / "train.csv").read_text().replace(",yes", ",perhaps"))
    tree["text"]["sources"][0]["files"] = str(tmp_path / "other.csv")
    path.write_text(yaml.safe_dump(tree | {"finetune": LEARNING | {"train": str(tmp_path / "train.csv")}}))
    with pytest.raises(UserError, match="label 'perhaps' is not known; known labels: no"):
        check_recipe(load_recipe(path))


def test_distill_leaves_it_to_a_run(homoexport, tmp_path):
    path = write_learning_recipe(tmp_path)
    outcome = homoexport("distill", path, "-o", tmp_path / "out")
    assert (outcome.code, "finetune: the teacher is to be fine-tuned first" in outcome.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_fine_tuned_model_is_not_called_a_student(homoexport, learned_run, tmp_path):
    files = ("--train", learned_run.recipe.parent / "train.csv", "--dev", learned_run.recipe.parent / "dev.csv")
    columns = ("--text-column", "review", "--label-column", "verdict", "--epochs", "0.2", "--threads", "1")
    source = learned_run.recipe.parent / "teacher"
    told = homoexport("finetune", source, "--task", "classification", *files, *columns, "-o", tmp_path / "tuned")
    assert told.code == 0, told.err
    assert f"Model: {tmp_path / 'tuned'}" in told.out
    assert "student" not in (told.out + told.err).lower()
    manifest = json.loads((tmp_path / "tuned/manifest.json").read_text())
    assert (manifest["kind"], "student" in json.dumps(manifest)) == ("model", False)
    assert open_model(str(tmp_path / "tuned"), threads=1).details.labels == ("no", "yes")
    replaced = homoexport("finetune", source, "--task", "classification", *files, *columns, "-o", learned_run.run)
    assert (replaced.code, "already exists" in replaced.err) == (2, True)
