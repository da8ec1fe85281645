"""`homoexport plan` on the command line; planning itself is tested where it is done."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from homoexport.documents.artifact import Manifest, verify
from homoexport.errors import BudgetError
from homoexport.report import plan_lines
from tests.conftest import MINILM
from tests.snippets import snippets
from tests.stages.plan.test_choice import plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `plan_encoder` is called with, for a teacher that is not loaded; it answers with a small plan."""
    calls: list[dict[str, Any]] = []

    def load(teacher: str, **_: Any) -> Any:
        return SimpleNamespace(source=teacher, task="sentence-similarity")

    def answer(encoder: Any, texts: Sequence[str], **arguments: Any) -> Any:
        calls.append({"teacher": encoder.source, "texts": texts, **arguments})
        return plan(latency_p50_ms=5.5, file_mb=13)

    monkeypatch.setattr("homoexport.encoder.load_encoder", load)
    monkeypatch.setattr("homoexport.workflow.plan.probe_of", lambda *_: None)
    monkeypatch.setattr("homoexport.stages.plan.planner.plan_encoder", answer)
    return calls


def test_flags_make_the_budget_and_the_conditions(homoexport, asked, tmp_path):
    words = "--teacher some/model --latency-p95 8ms --size 4x --memory 120MB --throughput 200/s --parameters 10M"
    conditions = "--device cpu --threads 1 --batch-size 2 --length 64 --quantize int8"
    done = homoexport("plan", *words.split(), *conditions.split(), "--json")
    assert done.code == 0, done.err
    (call,) = asked
    lines = {"latency_p95_ms": 8.0, "throughput_per_s": 200.0, "file_mb": "4x", "peak_rss_mb": 120.0, "parameters": 1e7}
    assert call["teacher"] == "some/model"
    assert call["budget"].lines() == lines
    measure = call["measure"]
    assert (measure.device, measure.threads, measure.batch_size, measure.length) == ("cpu", 1, 2, 64)
    assert call["instruments"].scheme.startswith("int8")
    assert json.loads(done.out)["choice"]["shape"]["hidden_size"] == 192


def test_recipe_target_and_flags_lie_over_each_other(homoexport, asked, monkeypatch):
    monkeypatch.setattr("homoexport.workflow.plan.check_measurement", lambda *_, **__: None)  # any number of cores
    recipe, target = ROOT / "recipes/budget.yaml", ROOT / "recipes/targets/laptop-core.yaml"
    assert homoexport("plan", recipe, "--target", target, "--size", "9MB", "--threads", "2").code == 0
    (call,) = asked
    assert call["teacher"] == MINILM
    assert call["budget"].lines() == {"latency_p95_ms": 10.0, "file_mb": 9.0}
    assert (call["measure"].length, call["measure"].threads) == (32, 2)
    assert call["distill"].objective == "sentence-embedding"
    assert len(call["texts"]) > 100


def test_people_read_a_table_what_to_write_and_what_more_would_buy(homoexport, asked, tmp_path):
    done = homoexport("plan", "--teacher", "some/model", "--latency-p50", "5.5ms", "-o", tmp_path / "plan")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "> 6 x 192/768, 6 heads" in done.out
    assert "student: {hidden_size: 192, intermediate_size: 768, num_attention_heads: 6, num_hidden_layers: 6}" in said
    assert "With Latency p50 at most 6.50 ms: 6 x 256/1024, 8 heads, which keeps 80.0 %" in said
    assert "224 wide is slower than 256 wide here: 6.50 ms against 6.00 ms" in said
    assert "Nothing was trained" in said
    manifest = verify(tmp_path / "plan", Manifest)
    assert set(manifest.files) == {"plan.json", "report.md", "report.html", "plots/front.png"}
    again = homoexport("plan", "--teacher", "some/model", "--latency-p50", "5.5ms", "-o", tmp_path / "plan")
    assert (again.code, "already exists" in again.err) == (2, True)
    assert len(asked) == 1


def test_the_runtime_of_the_students_and_those_that_were_not_tried_are_told():
    found = plan(latency_p50_ms=5.5)
    assert "; int8, standard graph)" in "\n".join(plan_lines(found))
    other = {"form": "ctranslate2", "not_tried": {"openvino": "it is not installed"}}
    said = plan_lines(found.model_copy(update=other))
    assert "; int8 in CTranslate2)" in "\n".join(said)
    assert "OpenVINO was not tried: it is not installed." in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--latency-p95", "8 parsecs"],
            "error: --latency-p95: '8 parsecs' is no time; write 8ms, or relative to the teacher: 4x, 25%",
        ),
        (["--size", "9MB", "--set", "budget.file_mb=lots"], "--set budget.file_mb: 'lots' is no size"),
        (["--size", "12 parsecs"], "'12 parsecs' is no size; write 12MB"),
        (["--throughput", "fast"], "'fast' is no rate; write 200/s"),
        (["--latency-p95", "8ms", "--device", "toaster"], "unknown device 'toaster'"),
        (["--latency-p95", "8ms", "--device", "arm64"], "its times are an emulator's"),
        (["--latency-p95", "8ms", "--target", "nowhere.yaml"], "no such recipe"),
        (["--latency-p95", "8ms", "--set", "export.quantize=int3"], "--set export.quantize: "),
        (["--latency-p95", "8ms", "--set", "measure.lenght=8"], "did you mean 'length'"),
        (["--latency-p95", "8ms", "--set", "studnet=8"], "unknown key 'studnet'"),
        (["--latency-p95", "8ms", "--data", "nothing/*.txt"], "nothing/*.txt"),
        (["--latency-p95", "8ms", "--threads", "999"], "999 threads"),
        (
            ["--latency-p95", "8ms", "--runtime", "ctranslate2", "--quantize", "int8-static"],
            "export.runtime: 'int8-static' cannot be had in CTranslate2",
        ),
        (
            ["--size", "8MB", "--runtime", "ctranslate2", "--device", "arm64"],
            "CTranslate2 runs on this machine's CPU alone",
        ),
        (
            ["--size", "8MB", "--vocab-size", "12k"],
            "error: --vocab-size: there is no text to choose the words by; give --data GLOB, or 'text' in the recipe",
        ),
        (["--size", "8MB", "--vocab-size", "many"], "--vocab-size: 'many' is no count"),
        (["--size", "8MB", "--set", "vocabulary.keep=no-such.txt"], "no-such.txt: no such file"),
        (["--download", "8MB", "--runtime", "openvino"], "budget.download_mb: a download is of the ONNX file"),
    ],
)
def test_mistakes_are_one_line(homoexport, asked, words, told):
    done = homoexport("plan", "--teacher", "some/model", *words)
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert (done.code, len(lines), asked) == (2, 1, []), done.err
    assert lines[0] == told if told.startswith("error:") else told in lines[0]


def test_plan_needs_a_teacher_and_a_line(homoexport):
    assert "'teacher' is missing" in homoexport("plan", "--latency-p95", "8ms").err
    none = homoexport("plan", "--teacher", MINILM)
    assert (none.code, "there is no line to plan for" in none.err) == (2, True)


def test_hopeless_budget_leaves_nothing(homoexport, monkeypatch, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise BudgetError("no student keeps latency_p95 0.1 ms", where="budget.latency_p95_ms", hint="allow more")

    monkeypatch.setattr("homoexport.workflow.plan.plan", refuse)
    done = homoexport("plan", "--teacher", "some/model", "--latency-p95", "0.1ms", "-o", tmp_path / "plan")
    assert (done.code, "no student keeps" in done.err, list(tmp_path.iterdir())) == (2, True, [])


def test_what_the_docs_say_can_be_said(homoexport, asked, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("homoexport.report.write_plan_report", lambda *_, **__: None)
    commands = [
        line for block in snippets("planning.md", "What can the budget afford?", "bash") for line in block.splitlines()
    ]
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "homoexport"
        assert homoexport(*words).code == 0, command
    assert len(asked) == len(commands) == 3


def test_runs_of_the_docs_are_recipes(homoexport, monkeypatch):
    recipes = []

    def keep(recipe: Any, **_: object) -> dict[str, Any]:
        recipes.append(recipe)
        raise BudgetError("enough")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("homoexport.workflow.run.run", keep)
    for block in snippets("planning.md", "The loop", "bash"):
        for command in block.splitlines():
            assert homoexport(*shlex.split(command)[1:]).code == 2
    plain, other = recipes
    assert plain.is_planned
    assert other.is_planned
    assert other.budget.lines() == {"latency_p95_ms": "4x", "file_mb": 10.0, "peak_rss_mb": 150.0}
    assert (other.quality.task, other.quality.floor) == ("fidelity", "90%")
