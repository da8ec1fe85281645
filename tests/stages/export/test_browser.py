"""The choice in a browser whose providers are imitated: what it answers is this CPU's, what it takes is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homoexport.choices import BrowserProvider
from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.budget import BudgetVerdict
from homoexport.errors import ParityError
from homoexport.report import candidate_table, export_lines
from homoexport.runtime.session import OnnxSession
from homoexport.stages.export.browser import Browser
from tests.stages.export.conftest import TARGET, TIMED_AT, export_package, needs_exact_sums

IN_BROWSER = {
    "target": TARGET.model_copy(update={"is_here": False, "provider": "wasm"}),
    "timed_at": TIMED_AT.model_copy(update={"device": "web"}),
    "held_on": "web",
}
GPU_MISSING = {"webgpu": "this browser offers no WebGPU adapter here"}
Run = tuple[Path, BrowserProvider, int]


def right(file: Path, batches: Sequence[Any]) -> list[np.ndarray]:
    session = OnnxSession(file, threads=1)
    taken = [node.name for node in session.get_inputs()]
    return [session.run(["sentence_embedding"], {name: batch[name] for name in taken})[0] for batch in batches]


def wrong(file: Path, batches: Sequence[Any]) -> list[np.ndarray]:
    return [-rows for rows in right(file, batches)]


def wrong_in_fp16(file: Path, batches: Sequence[Any]) -> list[np.ndarray]:
    return wrong(file, batches) if "fp16" in file.name else right(file, batches)


def race(runs: Sequence[Run]) -> list[float]:
    """WebAssembly is fast in int8 and with two threads, a GPU in fp16, whatever the threads."""
    by_scheme = {"wasm": {"int8": 6.0, "fp16": 12.0, "fp32": 10.0}, "webgpu": {"int8": 9.0, "fp16": 2.0, "fp32": 4.0}}

    def cost(file: Path, provider: BrowserProvider, threads: int) -> float:
        scheme = next((name for name in ("int8", "fp16") if name in file.name), "fp32")
        factor = {1: 1.0, 2: 0.5, 4: 0.75}[threads] if provider == "wasm" else 1.0
        return by_scheme[provider][scheme] * factor

    return [cost(*run) for run in runs]


def never(files: Sequence[Path]) -> list[float]:
    raise AssertionError(f"{files} were timed outside the browser's providers")


@pytest.fixture
def export(tiny_encoder: Any, export_once: None, tmp_path: Path) -> Any:
    def make(answers: dict[BrowserProvider, Any], *, threads: tuple[int, ...] = (1, 2, 4), **how: Any) -> Any:
        browser = Browser(answers, how.pop("race", race), threads, {} if "webgpu" in answers else GPU_MISSING)
        encoder = tiny_encoder("sentence-similarity")
        out = export_package(
            encoder, out_dir=tmp_path / "out", rank=never, browser=browser, graph="standard", **IN_BROWSER, **how
        )
        return verify(out, PackageManifest).details, out

    return make


@needs_exact_sums
def test_provider_threads_and_scheme_are_the_fastest(export: Any) -> None:
    details, out = export({"wasm": right, "webgpu": right})
    browser = details.browser
    assert (browser.provider, browser.threads, details.scheme, details.precision) == ("webgpu", 1, "fp16", "fp16")
    assert [(run.provider, run.threads, run.latency_p50_ms) for run in browser.runs] == [
        ("wasm", 1, 6.0),
        ("wasm", 2, 3.0),
        ("wasm", 4, 4.5),
        ("webgpu", 1, 2.0),
        ("webgpu", 2, 2.0),
        ("webgpu", 4, 2.0),
    ]
    timed = {(one.provider, one.threads, one.latency_p50_ms) for one in details.candidates if one.round == 3}
    assert timed == {("wasm", 2, cost) for cost in (3.0, 5.0, 6.0)} | {("webgpu", 1, cost) for cost in (9.0, 2.0, 4.0)}
    assert details.timed_at.threads == 1
    assert details.refused["wasm standard-int8"] == (
        "takes 1.50 times as long as webgpu standard-fp16 (3.000 ms against 2.000 ms)"
    )
    assert "takes 2.00 times as long as standard-fp16" in details.refused["webgpu standard-fp32"]
    card = (out / "README.md").read_text()
    assert "| **webgpu standard-fp16** |" in card
    assert "| wasm | 2 | standard-int8 | 3.000 |" in card
    assert 'device: "webgpu",\n  dtype: "fp16",' in card
    assert "numThreads = 1;" in card
    assert 'run(["a text", "another"], { pooling: "mean", normalize: true });' in card


@needs_exact_sums
def test_what_answers_wrongly_in_one_provider_ships_in_the_other(export: Any) -> None:
    details, _ = export({"wasm": right, "webgpu": wrong_in_fp16})
    assert (details.browser.provider, details.browser.threads, details.scheme) == ("wasm", 2, "int8")
    assert "breaks the gate: standard-fp16 on the target" in details.refused["webgpu standard-fp16"]
    held = {(one.provider, one.precision): one.parity_on_target.passed for one in details.candidates if one.round == 3}
    assert held[("wasm", "fp16")]
    assert ("webgpu", "fp16") not in held  # not timed: it was wrong


@needs_exact_sums
def test_provider_in_which_nothing_is_right_is_left_out(export: Any) -> None:
    details, _ = export({"wasm": right, "webgpu": wrong})
    assert details.browser.provider == "wasm"
    assert {run.provider for run in details.browser.runs} == {"wasm"}
    assert details.left_out["webgpu"].startswith("no graph answers as the model does")


def test_nothing_right_anywhere_is_refused(export: Any) -> None:
    with pytest.raises(ParityError, match="no graph answers as the model does"):
        export({"wasm": wrong, "webgpu": wrong})


@needs_exact_sums
def test_browser_without_webgpu_says_so_in_a_line(export: Any) -> None:
    details, out = export({"wasm": right})
    assert (details.browser.provider, details.browser.threads) == ("wasm", 2)
    manifest = verify(out, PackageManifest)
    lines = export_lines("out", manifest)
    assert "In the browser: wasm, 2 threads" in lines
    assert "Not tried: webgpu (this browser offers no WebGPU adapter here)" in lines
    assert "standard-fp32" in details.refused  # alone, no provider is named
    assert candidate_table(details).title == "Candidates, chosen: wasm standard-int8"
    card = (out / "README.md").read_text()
    assert "numThreads = 2;" in card
    assert "cross-origin isolated" in card
    assert "Not tried: webgpu" in card


@needs_exact_sums
def test_one_way_to_run_it_is_not_raced(export: Any) -> None:
    asked: list[int] = []

    def noted(runs: Sequence[Run]) -> list[float]:
        asked.append(len(runs))
        return race(runs)

    details, _ = export({"wasm": right}, threads=(2,), race=noted)
    (run,) = details.browser.runs
    assert (run.provider, run.threads, run.latency_p50_ms) == ("wasm", 2, None)
    assert 1 not in asked[1:]  # after the forms, the schemes alone


def test_threads_that_gain_nothing_are_not_taken(export: Any) -> None:
    details, _ = export(
        {"wasm": right}, quantize="none", race=lambda runs: [5.0 - 0.01 * threads for *_, threads in runs]
    )
    assert details.browser.threads == 1


@needs_exact_sums
def test_what_misses_the_floor_of_quality_ships_only_if_nothing_keeps_it(export: Any) -> None:
    def judge(file: Path, floor: float) -> BudgetVerdict:
        measured = {"wasm": 0.7, "webgpu": 0.6}[file.parent.name]
        kept = measured >= floor
        return BudgetVerdict(line="quality.x", limit=floor, measured=measured, interval=None, kept=kept)

    both = {"wasm": right, "webgpu": right}
    details, _ = export(both, judge=lambda file: judge(file, 0.65))
    assert (details.browser.provider, details.scheme) == ("wasm", "int8")  # though the other is faster
    assert details.refused["webgpu standard-fp16"] == "is below the floor: x 0.6000 of at least 0.6500"
    assert details.quality["wasm standard-int8"].kept
    details, _ = export(both, judge=lambda file: judge(file, 0.9), force=True)
    assert details.browser.provider == "wasm"  # the higher figure
    details, _ = export(both, judge=lambda file: judge(file, 0.5), force=True)
    assert details.browser.provider == "webgpu"
