"""Runs of several students or budgets: a run's folder for each, measured in turns, and one comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from homoexport.documents.artifact import (
    DistilledManifest,
    Manifest,
    PackageManifest,
    read_manifest,
    verify,
    write_manifest,
)
from homoexport.documents.budget import Budget
from homoexport.documents.document import read_document
from homoexport.documents.output import refuse_existing
from homoexport.documents.plan import Plan
from homoexport.documents.recipe import Recipe, load_recipe, parse_as
from homoexport.documents.summary import Summary
from homoexport.errors import BudgetError, DoesNotFit, RecipeError
from homoexport.report import outlook_table
from homoexport.shape import Shape
from homoexport.stages.plan.choice import Limits, best_of
from homoexport.workflow import run as running
from homoexport.workflow import several
from homoexport.workflow.check import check
from homoexport.workflow.run import Journey
from tests.stages.plan.test_choice import planned, row
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
    measured = json.loads((run / "3-measured/measurement.json").read_text())
    teacher, *results = measured["results"]
    for name, summary, result, faster in zip(NAMES, summaries, results, measured["comparisons"], strict=True):
        own = json.loads((run / name / "summary.json").read_text())
        assert {key for key in own if own[key] != summary[key]} <= {"teacher", "student", "ratios"}
        for model, figures in (("teacher", teacher), ("student", result)):
            timed = {key: figures[key] for key in ("latency_p50_ms", "latency_p95_ms", "peak_rss_mb")}
            assert summary[model] == own[model] | timed
        assert Path(result["package"]).parent.name == name
        assert summary["ratios"]["latency_p50_ms"] == faster["speedup_p50"]
        student = verify(run / name / "1-student", DistilledManifest)
        assert student.digest == verify(run / "1-students" / name, Manifest).digest
        assert verify(run / name / "2-onnx", PackageManifest).parent == student.digest
        assert (run / name / "report.html").is_file()
        assert name in page
        assert (run / name / "1-student/model.safetensors").samefile(run / "1-students" / name / "model.safetensors")
        assert (run / name / "0-teacher/onnx/model.onnx").samefile(run / "0-teacher/onnx/model.onnx")
    assert "Pareto" in page
    assert "one measurement in turns" in page
    assert set(json.loads((run / "run.json").read_text())["seconds"]) == {"distill", "teacher", "measure"}
    assert "for all" in page
    widths = [verify(run / name / "1-student", DistilledManifest).details.widths.hidden_size for name in NAMES]
    assert widths == [24, 16]
    copy = family.copied_to(tmp_path)
    assert homoexport("report", copy / "wide").code == 0
    refuse_existing(copy, force=True, kind="run")  # nothing there is anybody else's
    (copy / "report.html").unlink()
    again = homoexport("report", copy, "--json")
    assert json.loads(again.out) == summaries
    assert "for all" in (copy / "report.html").read_text()
    (copy / "wide/report.html").unlink()
    assert homoexport("run", family.recipe, "-o", copy, "--resume").code == 0
    assert (copy / "wide/report.html").is_file()


def test_what_is_no_page_of_several_runs_is_told(homoexport, family, tmp_path):
    run = family.copied_to(tmp_path)
    told = homoexport("report", run, run / "wide", "-o", tmp_path / "page.html")
    assert (told.code, "is the folder of several runs; name those in it: wide, narrow" in told.err) == (2, True), (
        told.err
    )
    measured = read_manifest(run / "3-measured", Manifest)
    write_manifest(run / "3-measured", "measurement", parent="0" * 64, recipe=measured.recipe)
    told = homoexport("report", run)
    assert (told.code, "was measured of other packages" in told.err) == (2, True), told.err
    shutil.rmtree(run / "3-measured")
    told = homoexport("report", run)
    assert (told.code, "is a run that is not finished" in told.err) == (2, True), told.err


def test_a_student_that_does_not_fit_is_left_out(homoexport, family, tmp_path, monkeypatch):
    run, whole = family.copied_to(tmp_path), Journey.run

    def refuse(self: Journey) -> Summary:
        if self.recipe.name in refused:
            raise DoesNotFit("its package does not fit", where="cpu")
        return whole(self)

    monkeypatch.setattr(Journey, "run", refuse)
    refused: tuple[str, ...] = NAMES
    for name in NAMES:
        (run / name / "summary.json").unlink()
    nothing = homoexport("run", family.recipe, "-o", run, "--resume")
    assert (nothing.code, "its package does not fit" in nothing.err) == (3, True), nothing.err
    refused = ("wide",)
    outcome = homoexport("run", family.recipe, "-o", run, "--resume")
    assert outcome.code == 0, outcome.err
    for told in (outcome.out, (run / "report.html").read_text()):
        assert "wide is left out" in " ".join(told.split())
    (_, narrow) = json.loads((run / "3-measured/measurement.json").read_text())["results"]
    assert Path(narrow["package"]).parent.name == "narrow"


def test_one_student_that_keeps_the_budget_is_enough_and_each_budget_counts(family):
    keeps, misses = (
        read_document(family.run / name / "summary.json", Summary).model_copy(update={"budget_kept": kept})
        for name, kept in zip(NAMES, (True, False), strict=True)
    )
    students = load_recipe(family.recipe)
    budgets = students.model_copy(update={"students": (), "budgets": dict.fromkeys(NAMES, Budget(file_mb=1))})
    for runs, of_students, of_budgets in (
        ({"wide": keeps, "narrow": keeps}, True, True),
        ({"wide": keeps, "narrow": misses}, True, False),
        ({"wide": keeps}, True, False),
        ({"wide": misses, "narrow": misses}, False, False),
    ):
        assert (several.is_kept(students, runs), several.is_kept(budgets, runs)) == (of_students, of_budgets)


@pytest.mark.slow
def test_a_stopped_one_goes_on(homoexport, family, tmp_path, monkeypatch):
    run = family.copied_to(tmp_path)
    for later in ("narrow", "3-measured"):
        shutil.rmtree(run / later)
    (run / "report.html").unlink()

    def stop(_: Journey) -> Summary:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journey, "run", stop)
        stopped = homoexport("run", family.recipe, "-o", run, "--resume")
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
    assert (other.code, "was started with seed 0 (now 3); give the same" in other.err) == (2, True), other.err


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
    alone = check(recipe.parts[0])
    assert alone.students == {}
    assert found.time is not None
    assert alone.time is not None
    for time, students in ((found.time, 2), (alone.time, 1)):
        assert time.seconds["export"] == pytest.approx(students * time.seconds["teacher"], abs=0.2)


def write_budgets(folder: Path, **budgets: object) -> Path:
    path = write_recipe(folder)
    tree = yaml.safe_load(path.read_text())
    del tree["student"], tree["budget"]
    path.write_text(yaml.safe_dump(tree | {"budgets": budgets}, sort_keys=False))
    return path


def planned_for(_teacher: object, *, budget: Budget, **_: object) -> Plan:
    """A plan of two shapes of the recipe's teacher, without measuring any."""
    wide, narrow = Shape(1, 24, 48, 4), Shape(1, 16, 24, 2)
    rows = [
        row(6, 32, p50=1.0, retained=kept).model_copy(update={"shape": shape, "file_mb": file_mb})
        for shape, kept, file_mb in ((wide, 0.9, 0.5), (narrow, 0.6, 0.1))
    ]
    limits = Limits.of(budget, 1, rows[0], rows[0].parameters)
    choice = best_of([each for each in rows if limits.kept_by(each)])
    if choice is None:
        raise BudgetError("no student keeps it", where="cpu")
    return planned(limits, choice, budget, rows)


def test_a_budget_that_nothing_keeps_is_told_before_a_student_is_made(homoexport, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "plan", planned_for)
    path, run = write_budgets(tmp_path, roomy={"file_mb": 5}, tight={"file_mb": 0.0001}), tmp_path / "run"
    hopeless = homoexport("run", path, "-o", run)
    assert (hopeless.code, "budgets.tight: no student keeps it" in hopeless.err) == (2, True), hopeless.err
    assert "Distilling" not in hopeless.err
    assert not run.exists()


@pytest.mark.slow
def test_each_budget_has_a_run_of_the_student_that_is_planned_for_it(homoexport, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "plan", planned_for)
    path, run = write_budgets(tmp_path, roomy={"file_mb": 5}, tight={"file_mb": 0.2}), tmp_path / "run"
    outcome = homoexport("run", path, "-o", run, "--json")
    assert outcome.code == 0, outcome.err
    roomy, tight = json.loads(outcome.out)
    assert (roomy["name"], tight["name"]) == ("roomy", "tight")
    assert roomy["student"]["file_bytes"] > tight["student"]["file_bytes"]
    assert tight["student"]["file_bytes"] <= 200_000
    for summary, limit in ((roomy, 5), (tight, 0.2)):
        assert [(line["line"], line["limit"]) for line in summary["budget"]] == [("file_mb", limit)]
        assert (run / summary["name"] / "plan/plan.json").is_file()
        assert homoexport("report", run / summary["name"]).code == 0
    assert len(json.loads((run / "3-measured/measurement.json").read_text())["results"]) == 3


def test_budgets_are_told_before(tmp_path):
    recipe = load_recipe(write_budgets(tmp_path, fast={"latency_p95_ms": "4ms"}, small={"file_mb": 5}))
    found = check(recipe)
    rows = outlook_table(found).rows
    assert ("Student", "planned for each budget") in rows
    assert ("Budget", "fast: Latency p95 4.00 ms") in rows
    assert ("", "small: File 5.00 MB") in rows
    alone = check(recipe.parts[0])
    assert found.time is not None
    assert alone.time is not None
    assert found.time.seconds["export"] == pytest.approx(2 * found.time.seconds["teacher"], abs=0.2)
    plans = [each.time.seconds["plan"] / each.time.seconds["teacher"] for each in (alone, found)]
    assert plans[0] < plans[1] < 2 * plans[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": {"file_mb": 3}}, "give either 'budget' (flags like --latency-p95 are of it) or 'budgets'"),
        ({"student": {"hidden_size": 16}}, "a student is planned for each of 'budgets'"),
        ({"budgets": {"one": {}}}, "budgets.one has no line to plan for"),
        ({"budgets": {"a": {"file_mb": 1}, "A": {"file_mb": 2}}}, "each of 'budgets' needs a name of its own"),
        ({"budgets": {"3-measured": {"file_mb": 1}}}, "'3-measured' is a name of the run's own"),
        ({"budgets": {"../up": {"file_mb": 1}}}, "budgets"),
    ],
)
def test_budgets_that_cannot_be_are_refused(tmp_path, changes, said):
    tree = yaml.safe_load(write_budgets(tmp_path, one={"file_mb": 5}).read_text())
    with pytest.raises(RecipeError) as caught:
        parse_as(Recipe, tree | changes, where="recipe")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("verb", "write", "said"),
    [
        (running.run, write_family, "students: there are several; `run_several` makes a run of each"),
        (several.run_several, write_recipe, "small: has neither 'students' nor 'budgets'; `run` is for one student"),
    ],
)
def test_each_verb_names_the_other(tmp_path, verb, write, said):
    with pytest.raises(RecipeError, match=said):
        verb(write(tmp_path), output=tmp_path / "run")


def test_a_name_of_the_runs_own_is_refused(homoexport, tmp_path):
    path = write_family(tmp_path)
    outcome = homoexport("run", path, "--check", "--set", "students.0.name=1-students")
    assert (outcome.code, "'1-students' is a name of the run's own" in outcome.err) == (2, True), outcome.err
