"""The verb `measure`: what of a browser is taken from the package, and verdicts by what was quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.documents.budget import Budget
from homoexport.documents.measurement import Comparison
from homoexport.documents.package import BrowserChoice
from homoexport.stages.measure.targets import web
from homoexport.workflow import measure as workflow
from tests.stages.measure.test_compare import QUIET, figures, measurement
from tests.stages.measure.tiny_onnx import write_package


class Asked(Exception):
    """Stops before anything is measured."""


def asked_for(monkeypatch: pytest.MonkeyPatch, *packages: Path, **how: Any) -> tuple[str, int | None]:
    def check(device: str, workloads: list[tuple[int | None, int, int]], **_: object) -> None:
        raise Asked(device, workloads[0][0])

    monkeypatch.setattr(web, "available_cores", lambda: 4)
    monkeypatch.setattr(workflow, "check_measurement", check)
    with pytest.raises(Asked) as raised:
        workflow.measure(packages, length=8, **how)
    return raised.value.args


def test_a_browser_runs_packages_as_the_last_one_was_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, package = write_package(tmp_path / "plain"), write_package(tmp_path / "package")
    details = read_manifest(package, PackageManifest).details
    chosen = BrowserChoice(provider="webgpu", threads=2, runs=(), not_tried={})
    (package / "manifest.json").unlink()
    write_manifest(package, "package", details=details.model_copy(update={"browser": chosen}))
    assert asked_for(monkeypatch, plain, package, device="web") == ("web:backend=webgpu", 2)
    assert asked_for(monkeypatch, package, device="web", threads=[1]) == ("web:backend=webgpu", 1)
    assert asked_for(monkeypatch, package, device="web:backend=wasm") == ("web:backend=wasm", 2)
    assert asked_for(monkeypatch, package, plain, device="web") == ("web", None)
    assert asked_for(monkeypatch, package, device="cpu") == ("cpu", None)


def test_times_are_judged_by_the_quiet_rounds() -> None:
    """The same package, with others on its cores in 8 of 20 rounds, and in all."""
    calm = figures("a", 10)
    calm = calm.model_copy(update={"latency_p95_ms": 10.2, "throughput_per_s": 100.0})
    samples = (*[23.0] * 80, *calm.samples_ms[80:])
    busy = calm.model_copy(
        update={
            "samples_ms": samples,
            "latency_p95_ms": 23.0,
            "throughput_per_s": 200 * 1000 / sum(samples),
            "disturbed_rounds": tuple(range(8)),
        }
    )
    budget = Budget(latency_p95_ms=12, throughput_per_s=90)
    latency, throughput = workflow.judge_package(budget, busy)
    assert (latency.kept, latency.quiet_share) == (True, 0.6)
    assert latency.measured == pytest.approx(10.2, rel=0.02)
    assert throughput.measured == pytest.approx(100, rel=0.02)
    assert throughput.kept is True
    always = busy.model_copy(update={"disturbed_rounds": tuple(range(20))})
    lines = workflow.judge_package(budget, always)
    assert [(line.kept, line.quiet_share) for line in lines] == [(None, 0.0)] * 2
    slowed = QUIET.model_copy(update={"slowed": True})
    assert workflow.judge_package(Budget(latency_p95_ms=8), calm, noise=slowed)[0].kept is None
    assert workflow.judge_package(Budget(latency_p95_ms=8), calm, noise=QUIET)[0].kept is False


def test_a_gate_that_cannot_decide_is_not_passed() -> None:
    one = measurement(figures("a", 10), figures("b", 10))
    line = Comparison(package="b", against="a", speedup_p50=1.0, interval=(0.9, 1.1), verdict="too noisy to call")
    undecided = one.model_copy(update={"comparisons": (line,)})
    assert workflow.is_proven(undecided)
    assert not workflow.is_proven(undecided, allowed_slowdown=0.05)
    assert workflow.is_proven(undecided, allowed_slowdown=0.2)
