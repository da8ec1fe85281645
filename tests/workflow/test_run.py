"""The whole journey on a tiny model, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModel, AutoTokenizer

from homoexport.documents.artifact import Manifest, PackageManifest, StudentManifest, verify
from homoexport.documents.budget import Budget
from homoexport.documents.measurement import Failure, PackageFigures
from homoexport.errors import DeviceError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate.models import open_model
from homoexport.stages.evaluate.retrieval import retrieval_qualities
from homoexport.workflow.measure import judge_package, measure_once
from tests.conftest import WORDS, Outcome, tiny_model, word_tokenizer
from tests.workflow.conftest import write_recipe

pytestmark = pytest.mark.processes


@pytest.fixture
def recipe(tmp_path):
    """A small recipe on a tiny teacher, for either objective."""
    return partial(write_recipe, tmp_path)


def test_run_leaves_everything_and_the_package_answers_as_the_student(kept_run):
    run = kept_run.run
    assert_run_left_everything(kept_run.outcome, run)
    texts = (run / "1-student" / "held_out.txt").read_text().splitlines()
    tokens = AutoTokenizer.from_pretrained(run / "1-student")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(run / "1-student")(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    vectors = open_package(run / "2-onnx", threads=1).embed(texts)
    assert (vectors * expected).sum(axis=1).min() > 0.97
    teacher = open_package(run / "0-teacher", threads=1).embed(texts)
    assert np.abs(np.linalg.norm(teacher, axis=1) - 1).max() < 1e-5


@pytest.mark.slow
def test_run_of_another_objective_leaves_everything_too(homoexport, recipe, tmp_path):
    outcome = homoexport("run", recipe("masked-lm", file_mb=5), "-o", tmp_path / "run", "--json")
    assert_run_left_everything(outcome, tmp_path / "run")


@pytest.mark.slow
def test_run_without_training_leaves_everything_too(homoexport, recipe, tmp_path):
    path = recipe(file_mb=5)
    path.write_text(re.sub(r"  steps: 6\n", "  method: repair\n", path.read_text()))
    outcome = homoexport("run", path, "-o", tmp_path / "run", "--json")
    assert_run_left_everything(outcome, tmp_path / "run")
    assert verify(tmp_path / "run" / "1-student", StudentManifest).details.steps == 0


@pytest.mark.slow
def test_a_run_is_judged_by_the_model_that_taught_its_vectors(homoexport, recipe, tmp_path):
    """The floor, the summary and the report; the second model is another family's, with its own tokenizer."""
    torch.manual_seed(1)
    path, second, run = recipe(floor="1%", file_mb=5), tmp_path / "second", tmp_path / "run"
    tiny_model("distilbert", hidden_size=40, layers=1).save_pretrained(second)
    word_tokenizer(WORDS[:4:-1], pre_tokenizers.Whitespace(), model_max_length=64).save_pretrained(second)
    in_its_space = ("--set", f"distill.vectors_from={second}", "--set", "student.output=teacher")
    outcome = homoexport("run", path, "-o", run, "--json", *in_its_space)
    summary = json.loads(outcome.out)
    texts = (run / "1-student/held_out.txt").read_text().splitlines()
    models = [open_package(run / "0-teacher"), open_package(run / "2-onnx"), open_model(str(second), threads=1)]
    teacher, student, asked = (model.embed(texts) for model in models)
    assert student.shape == asked.shape
    for name, vectors in (("teacher", teacher), ("student", student)):
        expected = retrieval_qualities(asked, vectors, seed=0)[0].value
        assert summary["quality_detail"][name]["value"] == pytest.approx(expected, abs=0.02), name
    assert summary["budget"][-1]["measured"] == summary["quality_detail"]["student"]["value"]
    assert summary["vectors_from"] == str(second)
    assert f"learned the vectors of `{second}`" in (run / "report.md").read_text()
    assert homoexport("report", run).code == 0
    replaced = homoexport("run", path, "-o", second, "--force", *in_its_space)
    assert replaced.code == 2
    nothing = homoexport("run", path, "-o", tmp_path / "other", "--set", f"distill.vectors_from={tmp_path}/no.npy")
    assert (nothing.code, "no.npy: cannot be read" in nothing.err) == (2, False)
    assert "with 'unit: row'" in nothing.err


def assert_run_left_everything(outcome: Outcome, run: Path) -> None:
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert summary == json.loads((run / "summary.json").read_text())
    for model in ("teacher", "student"):
        figures = summary[model]
        assert figures["latency_p95_ms"] >= figures["latency_p50_ms"] > 0
        assert figures["peak_rss_mb"] > 10
    for model, folder in (("teacher", "0-teacher"), ("student", "2-onnx")):
        manifest = verify(run / folder, PackageManifest)
        size = (run / folder / manifest.details.model_file).stat().st_size
        assert (summary[model]["file_bytes"], summary[model]["parameters"]) == (size, manifest.details.parameters)
    assert summary["ratios"]["file_bytes"] == summary["teacher"]["file_bytes"] / summary["student"]["file_bytes"]
    assert summary["budget_kept"] is True
    student = verify(run / "1-student", StudentManifest)
    assert verify(run / "2-onnx", Manifest).parent == student.digest
    text = (run / "report.md").read_text()
    assert all((run / link).is_file() for link in re.findall(r"\]\((plots/[^)]+)\)", text))


def test_missed_budget_exits_with_3_and_resume_does_not_work_twice(homoexport, missed_run, tmp_path):
    run, path = missed_run.copied_to(tmp_path), missed_run.recipe
    assert missed_run.outcome.code == 3
    lines = {line["line"]: line["kept"] for line in json.loads(missed_run.outcome.out)["budget"]}
    assert lines == {"file_mb": False, "quality.overlap@10": False}
    package = verify(run / "2-onnx", Manifest).created
    again = homoexport("run", path, "-o", run, "--resume")
    assert again.code == 3
    line = r"Quality \(overlap@10, held-out text\): .* of at least (100 % of 1.00 = )?1.00: missed"
    assert re.search(line, again.out)
    assert verify(run / "2-onnx", Manifest).created == package
    other = homoexport("run", path, "-o", run, "--resume", "--set", "seed=3")
    assert (other.code, "was started with seed 0 (now 3); give the same" in other.err) == (2, True), other.err


def test_force_keeps_the_old_run_until_the_new_one_has_begun(homoexport, kept_run, tmp_path):
    run = kept_run.copied_to(tmp_path)
    before = (run / "summary.json").read_text()
    no_text = ("text.sources=[{files: 'none*.txt'}]", "no file matches")
    for change, word in (("teacher=./nope", "nope"), ("measure.device=phone", "phone"), no_text):
        outcome = homoexport("run", kept_run.recipe, "-o", run, "--force", "--set", change)
        assert (outcome.code, word in outcome.err) == (2, True), outcome.err
        assert (run / "summary.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_report_is_written_again_from_what_the_stages_left_alone(homoexport, kept_run, missed_run, tmp_path):
    run = kept_run.copied_to(tmp_path)
    first = (run / "report.md").read_text()
    (run / "report.md").unlink()
    assert homoexport("report", run).code == 0
    assert (run / "report.md").read_text() == first
    whole = json.loads((run / "summary.json").read_text())
    for name in ("budget", "student", "quality_detail", "ratios"):
        figures = json.dumps(whole[name]).replace(".", ".1").replace("1", "2")
        (run / "summary.json").write_text(json.dumps(whole | {name: json.loads(figures)}))
        outcome = homoexport("report", run)
        assert (outcome.code, "is not the summary of what lies beside it" in outcome.err) == (2, True), outcome.err
    (run / "summary.json").write_text(json.dumps(whole))
    for stage in ("3-measured", "2-onnx"):  # of another run
        shutil.rmtree(run / stage)
        shutil.copytree(missed_run.run / stage, run / stage)
        assert homoexport("report", run).code == 2
        again = homoexport("run", kept_run.recipe, "-o", run, "--resume")
        assert (again.code, "was not made in this run" in again.err) == (2, True), again.err
    assert (run / "report.md").read_text() == first


def test_floor_of_quality_is_a_line_of_the_budget(homoexport, kept_run, missed_run, tmp_path):
    (line,) = [line for line in json.loads(kept_run.outcome.out)["budget"] if line["line"] == "quality.overlap@10"]
    assert (line["limit"], line["kept"]) == (0.01, True)
    manifest = verify(kept_run.run / "2-onnx", PackageManifest)
    judged = manifest.details.quality
    assert list(judged) == [f"{manifest.details.graph}-{manifest.details.scheme}"]
    details = verify(missed_run.run / "2-onnx", PackageManifest).details.model_dump(mode="json")
    assert len(details["quality"]) > 1  # none kept it, so all were asked, and the best was shipped
    best = max(details["quality"].values(), key=lambda verdict: verdict["measured"])
    shipped = details["quality"][f"{details['graph']}-{details['scheme']}"]
    assert shipped == {**best, "interval": pytest.approx(best["interval"])}  # of a tie the sums' order differs
    assert "below the floor: overlap@10" in json.dumps(details["refused"])
    other = "quality={floor: 1%, metric: f1}"
    wrong = homoexport("run", kept_run.recipe, "-o", tmp_path / "x", "--set", other)
    assert (wrong.code, "there is no 'f1'" in wrong.err, (tmp_path / "x").exists()) == (2, True, False)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["student", "teacher"])
def test_search_is_judged_in_the_index_that_the_student_answers_for(homoexport, recipe, tmp_path, output):
    path = recipe()
    texts = (tmp_path / "text.txt").read_text().splitlines()[:60]
    pairs = [{"query": " ".join(text.split()[:3]), "document": text} for text in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    quality = f"quality={{task: search, data: {tmp_path}/pairs.jsonl, floor: 1%}}"
    flags = ("--set", f"student.output={output}", "--set", quality, "--json")
    outcome = homoexport("run", path, "-o", tmp_path / "run", *flags)
    assert outcome.code == 0, outcome.err
    (line,) = json.loads(outcome.out)["budget"]
    assert line["line"] == f"quality.ndcg@10, documents by the {output}"
    flags = ("--task", "search", "--data", tmp_path / "pairs.jsonl", "--json")
    among = ("--documents", tmp_path / "run/0-teacher") if output == "teacher" else ()
    told = homoexport("eval", tmp_path / "run/2-onnx", *flags, *among)
    assert json.loads(told.out)["results"][0]["metrics"][0]["value"] == pytest.approx(line["measured"])
    assert f"Quality (ndcg@10, documents by the {output}, " in (tmp_path / "run/report.md").read_text()


@pytest.mark.slow
def test_run_stopped_after_distilling_goes_on(homoexport, kept_run, tmp_path):
    run, path = kept_run.copied_to(tmp_path), kept_run.recipe
    student = verify(run / "1-student", Manifest)
    for left in ("2-onnx/manifest.json", "3-measured/manifest.json", "summary.json"):
        (run / left).unlink()
    for half_written in ("2-onnx", "3-measured"):
        for file in (run / half_written).rglob("*"):
            if file.is_file():
                file.unlink()
        for folder in sorted((run / half_written).rglob("*"), reverse=True):
            folder.rmdir()
    assert homoexport("run", path, "-o", run, "--resume").code == 0
    assert verify(run / "1-student", Manifest) == student
    assert (run / "summary.json").is_file()


def test_a_teacher_that_does_not_fit_the_device_is_left_out(homoexport, kept_run, tmp_path, monkeypatch):
    def without_teacher(packages, settings, *, runtime, **rest):
        measured = measure_once(packages[1:], settings, runtime=runtime[1:], **rest)
        failure = Failure(package=str(packages[0]), stage="load", reason="needs more than it was given")
        return measured.model_copy(update={"failures": (failure,)})

    monkeypatch.setattr("homoexport.workflow.run.measure_once", without_teacher)
    run = kept_run.copied_to(tmp_path)
    shutil.rmtree(run / "3-measured")  # stopped before measuring
    (run / "summary.json").unlink()
    outcome = homoexport("run", kept_run.recipe, "-o", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert "does not fit" in outcome.out
    page = (tmp_path / "run" / "report.md").read_text()
    assert "| Latency p50 | does not fit |" in page
    assert "0-teacher does not fit (load): needs more than it was given." in page
    assert (tmp_path / "run" / "plots" / "latency.png").is_file()
    assert homoexport("report", tmp_path / "run").code == 0


def test_a_relative_line_is_refused_before_distilling_where_the_teacher_does_not_fit(homoexport, recipe, tmp_path):
    run = tmp_path / "run"
    outcome = homoexport("run", recipe(latency_p50_ms="2x"), "-o", run, "--set", "measure.device=cpu:memory=4MB")
    assert outcome.code == 2
    assert re.search(
        r"cpu:memory=4MB: the teacher does not fit \(start: .*latency_p50_ms is relative to it", outcome.err
    )
    assert "Distilling" not in outcome.out + outcome.err
    assert not run.exists()


def test_a_runtime_that_cannot_hold_the_student_is_refused_before_distilling(homoexport, recipe, tmp_path):
    settings = ["--set", "export.runtime=ctranslate2", "--set", "export.quantize=int4"]
    outcome = homoexport("run", recipe(), "-o", tmp_path / "run", *settings)
    assert (outcome.code, "'int4' cannot be had in CTranslate2" in outcome.err) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_student_that_does_not_fit_the_device_exits_with_3(homoexport, recipe, tmp_path):
    run, path = tmp_path / "run", recipe()
    outcome = homoexport("run", path, "-o", run, "--set", "measure.device=cpu:memory=4MB")
    assert outcome.code == 3
    assert re.search(r"cpu:memory=4MB: .*2-onnx does not fit \(start: .*; ask for a smaller student", outcome.err)
    assert not (run / "3-measured").exists()
    verify(run / "2-onnx", PackageManifest)


def test_budget_lines_are_judged_by_their_intervals():
    result = PackageFigures.model_construct(
        latency_p50_ms=5.0,
        latency_p95_ms=8.0,
        latency_p99_ms=9.0,
        latency_p50_interval_ms=(4.9, 5.1),
        latency_p95_interval_ms=(7.0, 9.0),
        throughput_per_s=1000 / 5.3,
        peak_rss_mb=80.0,
        parameters=8_700_000,
        file_bytes=9_000_000,
        samples_ms=(5.0, 5.4, 5.2, 5.6) * 5,
        runs_per_round=2,
    )
    budget = Budget(latency_p50_ms=5.2, latency_p95_ms=8.5, file_mb=8.9, peak_rss_mb=80.0, parameters="9M")
    kept = {verdict.line: verdict.kept for verdict in judge_package(budget, result)}
    lines = {"latency_p50_ms": True, "latency_p95_ms": None, "file_mb": False, "peak_rss_mb": True, "parameters": True}
    assert kept == lines
    teacher = result.model_copy(update={"latency_p50_ms": 20.0, "latency_p99_ms": 16.0, "file_bytes": 90_000_000})
    shares = Budget(latency_p50_ms="4x", latency_p99_ms="50%", file_mb="9x")
    found = {verdict.line: (verdict.limit, verdict.kept) for verdict in judge_package(shares, result, teacher=teacher)}
    assert found == {"latency_p50_ms": (5.0, None), "latency_p99_ms": (8.0, False), "file_mb": (10.0, True)}
    for limit, expected in ((185, True), (188.5, None), (192, False)):
        (verdict,) = judge_package(Budget(throughput_per_s=limit), result)
        assert verdict.interval is not None
        assert 1000 / 5.4 <= verdict.interval[0] < 1000 / 5.3 < verdict.interval[1] <= 1000 / 5.2
        assert verdict.kept is expected
    with pytest.raises(DeviceError, match="latency_p50_ms is relative to the teacher, which could not be measured"):
        judge_package(shares, result)


def test_several_runs_are_laid_side_by_side(homoexport, kept_run, missed_run, tmp_path):
    page, folders = tmp_path / "pages" / "both.html", (kept_run.run, missed_run.run)
    before = [sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) for folder in folders]
    outcome = homoexport("report", *folders, "-o", page, "--json")
    assert outcome.code == 0, outcome.err
    assert [summary["budget_kept"] for summary in json.loads(outcome.out)] == [True, False]
    assert [sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) for folder in folders] == before
    text = page.read_text()
    assert text.count("<svg") == 2
    assert 'class="kept">' in text
    assert 'class="missed">' in text
    shown = homoexport("report", *folders, "-o", page)
    assert f"Report: {page}" in shown.out
    for arguments, word in (
        ((kept_run.run, kept_run.run), "named twice"),
        ((kept_run.run, "-o", page), "--output: is for several runs"),
        ((kept_run.run, tmp_path / "none"), "none: does not exist or is not a folder"),
        ((*folders, "-o", tmp_path), str(tmp_path)),
    ):
        refused = homoexport("report", *arguments)
        assert (refused.code, word in refused.err) == (2, True), refused.err


def test_what_bench_measured_and_eval_judged_is_one_page(homoexport, kept_run, tmp_path):
    packages, texts = (kept_run.run / "0-teacher", kept_run.run / "2-onnx"), kept_run.run / "1-student/held_out.txt"
    measured, judged, page = tmp_path / "measured", tmp_path / "judged", tmp_path / "models.html"
    conditions = ("--length", 16, "--threads", 1, "--min-seconds", 0.1)
    assert homoexport("bench", *packages, *conditions, "-o", measured).code == 0
    asked = ("--task", "fidelity", "--teacher", packages[0], "--data", texts)
    assert homoexport("eval", packages[1], *asked, "-o", judged).code == 0
    outcome = homoexport("report", judged, measured, "-o", page)
    assert outcome.code == 0, outcome.err
    assert f"{packages[0]} was measured and not judged" in outcome.out
    assert page.read_text().count("<svg") == 2
    for lengths, asked_of, word in (
        ("16", packages[:1], "has no model that"),
        ("16,24", packages, "several conditions"),
    ):
        conditions = ("--length", lengths, "--threads", 1, "--min-seconds", 0.1)
        assert homoexport("bench", *asked_of, *conditions, "-o", measured, "--force").code == 0
        refused = homoexport("report", measured, judged, "-o", page)
        assert (refused.code, word in refused.err) == (2, True), refused.err


def test_a_run_of_an_earlier_version_is_reported_or_told_why_not(homoexport, kept_run, tmp_path):
    run = kept_run.copied_to(tmp_path)
    whole = json.loads((run / "summary.json").read_text())
    younger = {"asked", "data", "quiet_share"}
    budget = [{name: line[name] for name in line.keys() - younger} for line in whole["budget"]]
    (run / "summary.json").write_text(json.dumps(whole | {"schema_version": "2.2", "budget": budget}))
    outcome = homoexport("report", run, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == whole
    mark = json.loads((run / "run.json").read_text())
    mark["recipe"]["seed"] = 7
    (run / "run.json").write_text(json.dumps(mark))
    refused = homoexport("report", run)
    assert (refused.code, "other defaults in this homoexport" in refused.err) == (2, True), refused.err
