"""docs/adding-a-target.md: its toy target measures as it stands there."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import pytest

from homoexport.errors import DeviceError
from homoexport.stages.measure import measure_packages
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import KINDS, find_target, open_target
from tests.snippets import snippets
from tests.stages.measure.tiny_onnx import write_package

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _nice(monkeypatch):
    """The page's module, and its line in the table of kinds."""
    code, lines = snippets("adding-a-target.md", "An example: this machine, at a low priority", "python")
    module = ModuleType("homoexport.stages.measure.targets.nice")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    imported, line = lines.split("\n\n")
    names: dict[str, object] = {}
    exec(imported, names)
    for name, kind in eval(f"{{{line}}}", names).items():
        monkeypatch.setitem(KINDS, name, kind)


@pytest.mark.parametrize(("device", "level"), [("nice", 19), ("nice:level=7", 7)])
def test_the_worker_has_the_priority(device, level):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with open_target(device) as target, Worker(target, subject="nothing") as worker:
        assert os.getpriority(os.PRIO_PROCESS, worker.process_id) == min(19, own + level)


def test_a_package_is_measured_there(tmp_path):
    found = measure_packages([write_package(tmp_path / "package")], device="nice", length=8, min_seconds=0.05)
    assert found.device == "nice"
    assert found.results[0].latency_p50_ms > 0


def test_what_is_no_priority_is_refused():
    with pytest.raises(DeviceError, match="level"):
        find_target("nice:level=20")
