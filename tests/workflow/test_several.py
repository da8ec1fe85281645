"""Runs of several students: one distillation, a run's folder for each, one comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from homoexport.documents.artifact import DistilledManifest, Manifest, PackageManifest, verify
from homoexport.documents.output import refuse_existing
from homoexport.documents.recipe import load_recipe
from homoexport.report import outlook_table
from homoexport.workflow import several
from homoexport.workflow.check import check
from tests.workflow.conftest import Finished, finished, write_recipe

pytestmark = pytest.mark.processes

NAMES = ("wide", "narrow")


def write_family(folder: Path) -> Path:
    path = write_recipe(folder, file_mb=5)
    tree = yaml.safe_load(path.read_text())
    del tree["student"]
    tree["students"] = [
        {"name": "wide", "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4},
        {"name": "narrow", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "finish": 0.5},
    ]
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="session")
def family(tmp_path_factory) -> Finished:
    return finished(tmp_path_factory, "family-run", write_family)


def test_each_student_has_a_runs_folder_and_one_page_compares_them(homoexport, family, tmp_path):
    run, outcome = family.run, family.outcome
    assert outcome.code == 0, outcome.err
    summaries = json.loads(outcome.out)
    assert [each["name"] for each in summaries] == list(NAMES)
    page = (run / "report.html").read_text()
    for name, summary in zip(NAMES, summaries, strict=True):
        assert summary == json.loads((run / name / "summary.json").read_text())
        student = verify(run / name / "1-student", DistilledManifest)
        assert student.digest == verify(run / "1-students" / name, Manifest).digest
        assert verify(run / name / "2-onnx", PackageManifest).parent == student.digest
        assert (run / name / "report.html").is_file()
        assert name in page
        assert (run / name / "1-student/model.safetensors").samefile(run / "1-students" / name / "model.safetensors")
        assert (run / name / "0-teacher/onnx/model.onnx").samefile(run / "0-teacher/onnx/model.onnx")
    assert "Pareto" in page
    widths = [verify(run / name / "1-student", DistilledManifest).details.widths.hidden_size for name in NAMES]
    assert widths == [24, 16]
    copy = family.copied_to(tmp_path)
    assert homoexport("report", copy / "wide").code == 0
    refuse_existing(copy, force=True, kind="run")  # nothing there is anybody else's


def test_a_stopped_one_goes_on(homoexport, family, tmp_path, monkeypatch):
    run, one = tmp_path / "run", several._run_of_one

    def stop_at_the_second(journey, recipe, folder, student):
        if recipe.name == "narrow":
            raise KeyboardInterrupt
        one(journey, recipe, folder, student)

    with monkeypatch.context() as patch:
        patch.setattr(several, "_run_of_one", stop_at_the_second)
        stopped = homoexport("run", family.recipe, "-o", run)
    assert (stopped.code, "this goes on: homoexport run" in stopped.err) == (130, True)
    before = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("manifest.json"))}
    resumed = homoexport("run", family.recipe, "-o", run, "--resume")
    assert resumed.code == 0, resumed.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (run / "narrow/summary.json").is_file()
    assert "narrow" in (run / "report.html").read_text()
    for name in NAMES:
        again, once = ((folder / name / "1-student/model.safetensors").read_bytes() for folder in (run, family.run))
        assert again == once
    other = homoexport("run", family.recipe, "-o", run, "--resume", "--set", "seed=3")
    assert (other.code, "other settings" in other.err) == (2, True)


def test_both_are_told_before(tmp_path):
    recipe = load_recipe(write_family(tmp_path))
    found = check(recipe)
    assert {name: shape.name for name, shape in found.students.items()} == {
        "wide": "1 x 24/48, 4 heads",
        "narrow": "1 x 16/24, 2 heads",
    }
    rows = outlook_table(found).rows
    assert ("Student", "wide: 1 x 24/48, 4 heads") in rows
    assert ("", "narrow: 1 x 16/24, 2 heads") in rows
    alone = check(recipe.of_student(recipe.students[0]))
    assert alone.students == {}
    assert found.time is not None
    assert alone.time is not None
    for time, students in ((found.time, 2), (alone.time, 1)):
        assert time.seconds["export"] == pytest.approx(students * time.seconds["teacher"], abs=0.2)


def test_a_name_of_the_runs_own_is_refused(homoexport, tmp_path):
    path = write_family(tmp_path)
    outcome = homoexport("run", path, "--check", "--set", "students.0.name=1-students")
    assert (outcome.code, "'1-students' is a name of the run's own" in outcome.err) == (2, True), outcome.err
