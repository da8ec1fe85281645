"""The verb `measure`: what of a browser is taken from the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.documents.package import BrowserChoice
from homoexport.stages.measure.targets import web
from homoexport.workflow import measure as workflow
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
