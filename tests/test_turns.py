"""Planned runs on a tiny teacher: the plan, turns that miss, and going on where a run was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from homoexport.artifact import verify
from homoexport.plan import lab
from homoexport.plan.shapes import Shape
from homoexport.plan.table import Figures
from tests.conftest import write_sentences

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lab, "_SECONDS", 0.02)


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
            "export": {"quantize": "none"},
            "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
            "budget": budget,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def shape_of_student(folder: Path) -> Shape:
    details = verify(folder, kind="student")["details"]
    widths = details["widths"]
    sizes = (details["num_hidden_layers"], widths["hidden_size"], widths["intermediate_size"])
    return Shape(*sizes, round(widths["num_attention_heads"]))


def test_planned_run_keeps_its_budget_and_says_how(homoexport, recipe, tmp_path):
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(file_mb="60%", latency_p50_ms="50ms"), "-o", run, "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    plan = json.loads((run / "plan/plan.json").read_text())
    verify(run / "plan", kind="plan")
    (turn,) = summary["plan"]["turns"]
    assert turn["shape"] == plan["choice"]["shape"] == shape_of_student(run / "1-student").as_json()
    lines = {line["line"]: line for line in summary["budget"]}
    teacher_mb = summary["teacher"]["file_bytes"] / 1e6
    assert lines["file_mb"]["limit"] == pytest.approx(0.6 * teacher_mb)
    assert summary["student"]["file_bytes"] / 1e6 <= 0.6 * teacher_mb
    assert plan["choice"]["file_mb"] == pytest.approx(summary["student"]["file_bytes"] / 1e6, rel=0.05)
    assert "How the shape was chosen" in (run / "report.md").read_text()
    assert not list(run.rglob(".end.pt"))


@pytest.fixture
def lying(monkeypatch):
    """Files are measured as smaller than they are."""
    true = lab.Lab._timed

    def lie(self: lab.Lab, shapes: list[Shape]) -> dict[Shape, Figures]:
        return {shape: replace(each, file_mb=each.file_mb * 0.7) for shape, each in true(self, shapes).items()}

    monkeypatch.setattr(lab.Lab, "_timed", lie)


def test_turn_that_misses_is_pruned_on_until_the_budget_is_kept(homoexport, recipe, tmp_path, lying):
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(file_mb=0.03), "-o", run, "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    first, *_, last = summary["plan"]["turns"]
    assert first["budget"][0]["kept"] is False
    assert last["budget"][0]["kept"] is True
    before, after = shape_of_student(run / "turns/1/1-student"), shape_of_student(run / "1-student")
    assert after.within(before)
    assert after != before
    assert last["steps"] < 2 * first["steps"]
    losses = [json.loads(line) for line in (run / "1-student/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in losses] == list(range(last["steps"]))
    assert losses[first["steps"]]["widths"]["hidden_size"] == before.hidden


def test_killed_between_and_within_turns_it_ends_the_same(homoexport, recipe, tmp_path, lying, monkeypatch):
    path = recipe(file_mb=0.03)
    assert homoexport("run", path, "-o", tmp_path / "whole").code == 0

    class Stop(BaseException):
        """As a signal would."""

    def stopped_at(name: str, times: int = 1) -> None:
        from homoexport import pipeline

        true, calls = getattr(pipeline, name), []

        def stop(*args: object, **named: object) -> object:
            calls.append(name)
            if len(calls) == times:
                raise Stop
            return true(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, stop)
            resume = ["--resume"] if (tmp_path / "stopped").exists() else []
            with pytest.raises(Stop):
                homoexport("run", path, "-o", tmp_path / "stopped", *resume)

    stopped_at("export_folder")  # after the first student
    stopped_at("prune_on")  # between the turns
    stopped_at("summarize")
    done = homoexport("run", path, "-o", tmp_path / "stopped", "--resume", "--json")
    assert done.code == 0, done.err
    for folder in ("turns/1/1-student", "1-student"):
        one, other = (verify(tmp_path / run / folder)["files"]["model.safetensors"] for run in ("whole", "stopped"))
        assert one == other, folder


def test_hopeless_budget_is_refused_with_what_the_smallest_needs(homoexport, recipe, tmp_path):
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(file_mb=0.001), "-o", run)
    assert outcome.code == 2
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert "no student keeps file 0.001 MB: the smallest (" in line
    assert not run.exists()
