"""Planned runs on a tiny teacher: the plan, turns that miss, and going on where a run was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from homoexport.documents.artifact import Manifest, StudentManifest, verify
from homoexport.documents.measurement import Failure
from homoexport.documents.plan import Cost
from homoexport.documents.student import StepRecord
from homoexport.shape import Shape
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.loop import Run
from homoexport.stages.plan import choice, lab
from homoexport.workflow.measure import measure_once
from tests.conftest import QUICK, write_sentences

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    for name in ("_SECONDS", "_WHOLE_SECONDS", "_ALONE_SECONDS"):
        monkeypatch.setattr(lab, name, 0.02)


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    """A recipe without a student, on a tiny teacher."""
    text = write_sentences(tmp_path / "text.txt")

    def write(**budget: object) -> Path:
        tree = {
            "name": "planned",
            "teacher": str(tiny_folder(layers=2)),
            "text": {
                "sources": [{"files": str(text)}],
                "max_length": 24,
                "held_out": 20,
            },
            "distill": {
                "objective": "sentence-embedding",
                "steps": 10,
                "batch_size": 8,
                "prune_every": 2,
                "checkpoint_every": 2,
            },
            "export": {"quantize": "none", **QUICK},
            "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
            "budget": budget,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def shape_of_student(folder: Path) -> Shape:
    details = verify(folder, StudentManifest).details
    return details.widths


@pytest.fixture
def lying(monkeypatch):
    """Files are measured as smaller than they are."""
    true = lab.Lab._timed

    def lie(self: lab.Lab, shapes: list[Shape], **how: float) -> dict[Shape, Cost]:
        return {shape: each.times({"file_mb": 0.7}) for shape, each in true(self, shapes, **how).items()}

    monkeypatch.setattr(lab.Lab, "_timed", lie)


def stopped_at(monkeypatch, homoexport, run: Path, recipe: Path, name: str) -> None:
    """Begin a run, or go on with it, and stop it where the pipeline calls a function."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"homoexport.workflow.run.{name}", stop)
        assert homoexport("run", recipe, "-o", run, *(["--resume"] if run.exists() else [])).code == 130


def stopped_before_step(monkeypatch, homoexport, run: Path, recipe: Path, step: int) -> None:
    """Go on with a run, and stop it within a turn, before one of the turn's steps."""
    true = Run.advance

    def advance(self: Run, micro_batches: Sequence[MicroBatch]) -> StepRecord:
        if self.step == step:
            raise KeyboardInterrupt
        return true(self, micro_batches)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", advance)
        assert homoexport("run", recipe, "-o", run, "--resume").code == 130


@pytest.mark.slow
def test_turn_that_misses_is_pruned_on_and_a_stopped_run_ends_the_same(
    homoexport, recipe, tmp_path, lying, monkeypatch
):
    path, run = recipe(file_mb="75kB", latency_p50_ms="50ms"), tmp_path / "run"
    outcome = homoexport("run", path, "-o", run, "--json")
    assert outcome.code == 0, outcome.err
    summary, plan = json.loads(outcome.out), json.loads((run / "plan/plan.json").read_text())
    verify(run / "plan", Manifest)
    first, *_, last = summary["plan"]["turns"]
    assert first["shape"] == plan["choice"]["shape"]
    assert [line["kept"] for line in first["budget"]] == [True, False]
    assert [line["kept"] for line in last["budget"]] == [True, True]
    before, after = shape_of_student(run / "turns/1/1-student"), shape_of_student(run / "1-student")
    assert after.within(before)
    assert after != before
    assert first["steps"] < last["steps"] < 2 * first["steps"]
    log = [json.loads(line) for line in (run / "1-student/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(last["steps"]))
    assert log[first["steps"]]["widths"]["hidden_size"] == before.hidden_size
    report = (run / "report.md").read_text()
    assert "A turn that missed was pruned on from where its distillation ended." in report
    assert not list(run.rglob(".end.pt"))

    stopped = tmp_path / "stopped"
    for name in ("export_model", "prune_on"):  # after the first student, between turns
        stopped_at(monkeypatch, homoexport, stopped, path, name)
    half = (stopped / "turns/1").rename(stopped / "turns/.1.part")  # or while the turn was put aside
    (half / "3-measured").rename(stopped / "3-measured")
    stopped_before_step(monkeypatch, homoexport, stopped, path, last["steps"] - first["steps"] - 1)
    assert not list(stopped.rglob("*.part"))
    stopped_at(monkeypatch, homoexport, stopped, path, "write_summary")
    done = homoexport("run", path, "-o", stopped, "--resume", "--json")
    assert done.code == 0, done.err
    for folder in ("turns/1/1-student", "1-student"):
        one, other = (verify(one / folder, Manifest).files["model.safetensors"] for one in (run, stopped))
        assert one == other, folder


@pytest.mark.slow
def test_student_that_the_target_cannot_hold_is_pruned_on(homoexport, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "LIGHTER", 0.0005)  # tiny models hardly differ in memory
    packages = []

    def crowded(asked, settings, **rest):
        measured = measure_once(asked, settings, **rest)
        packages.append(asked[-1])
        if len(packages) > 1:
            return measured
        failure = Failure(package=str(asked[-1]), stage="load", reason="needs more than it was given")
        return measured.model_copy(update={"results": measured.results[:1], "failures": (failure,)})

    monkeypatch.setattr("homoexport.workflow.run.measure_once", crowded)
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(file_mb="1MB"), "-o", run, "--json")
    assert outcome.code == 0, outcome.err
    assert "cannot hold" in outcome.err
    before, after = shape_of_student(run / "turns/1/1-student"), shape_of_student(run / "1-student")
    assert after.within(before)
    assert after != before
    assert not (run / "turns/1/3-measured").exists()
    assert [len(turn["budget"]) for turn in json.loads(outcome.out)["plan"]["turns"]] == [0, 1]
    assert "| it does not fit into the target's memory |" in (run / "report.md").read_text()


@pytest.mark.slow
def test_hopeless_budget_is_refused_with_what_the_smallest_needs(homoexport, recipe, tmp_path):
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(file_mb=0.001), "-o", run)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert "no student keeps file 0.001 MB: the smallest (" in line
    assert not run.exists()


def test_distil_needs_a_shape(homoexport, recipe, tmp_path):
    outcome = homoexport("distill", recipe(file_mb=1), "-o", tmp_path / "student")
    assert (outcome.code, "the recipe names no student, only a budget" in outcome.err) == (2, True)
