"""The verb `export`: what cannot be is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homoexport.choices import BrowserProvider
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.documents.target import TargetHost
from homoexport.encoder import load_encoder
from homoexport.stages.measure.browsers import OpenChoice
from homoexport.workflow import export as workflow
from homoexport.workflow.export import _beside
from tests.conftest import tiny_bert, tiny_tokenizer

SCRIPT = """
import sys
from homoexport.errors import UserError
from homoexport.workflow.export import export

wishes = [
    {"opset": 17},
    {"opset": 99},
    {"quantize": "int8-static"},
    {"quantize": "int7"},
    {"quantize": "fp16", "embeddings": "int4"},
    {"device": "toaster"},
    {"threads": 0},
    {"threads": 4000},
    {"text": "nowhere.txt"},
]
for wish in wishes:
    try:
        export("some/model", output="package", **wish)
    except UserError as error:
        print(str(error).split(":")[0], *wish)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_what_cannot_be_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "export opset",
        "opset opset",
        "int8-static quantize",
        "export quantize",
        "--embeddings quantize embeddings",
        "device device",
        "export threads",
        "threads threads",
        "nowhere.txt text",
        "[]",
    ]
    assert list(tmp_path.iterdir()) == []


def test_auto_says_of_each_runtime_why_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _beside("auto", "cpu", answer)
    assert here == {"openvino": answer, "ctranslate2": answer}
    assert _beside("onnxruntime", "cpu", answer) == {}
    assert _beside("ctranslate2", "cpu", answer) == {"ctranslate2": answer}
    there = "runs on this machine's CPU alone; measure on cpu"
    assert _beside("auto", "x86:haswell", answer) == {
        name: f"the package is for {name}, which {there}" for name in here
    }
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert _beside("auto", "cpu", answer) == {
        name: f"the package is for {name}, which is not installed; pip install 'homoexport[{name}]'" for name in here
    }


def answer(*_asked: object) -> list[object]:
    """Stands for what runs a file on a device."""
    return []


def test_on_an_emulated_device_instructions_are_counted_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = TargetHost(is_here=False, emulated=True, provider="", cpu="A core", x86=False, instruction_sets=())
    asked: dict[str, Any] = {}
    passed: dict[str, Any] = {}

    def count(files: list[Path], **conditions: Any) -> list[float]:
        asked.update(conditions)
        return [1.0e6 for _ in files]

    monkeypatch.setattr(workflow, "host_of", lambda device: there)
    for name in ("refuse_uncounted", "check_measurement", "rank_files", "verify"):
        monkeypatch.setattr(workflow, name, lambda *_args, **_named: None)
    monkeypatch.setattr(workflow, "count_files", count)
    monkeypatch.setattr("homoexport.stages.export.package.export_encoder", lambda *_, **named: passed.update(named))
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    workflow.export_model(
        load_encoder(str(tmp_path / "model"), task="feature-extraction"),
        tmp_path / "package",
        settings=ExportSettings(),
        measure=MeasureSettings(device="arm64:cortex-a53", length=16),
    )
    assert passed["rank"]([tmp_path / "one", tmp_path / "other"]) == [1.0e6, 1.0e6]
    timed_at = passed["timed_at"]
    assert (timed_at.device, timed_at.cpu, timed_at.unit) == ("arm64:cortex-a53", "A core", "instructions")
    assert (asked["device"], asked["batch_size"], asked["length"]) == ("arm64:cortex-a53", 1, 16)


def test_in_a_browser_each_provider_is_asked_by_its_own_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = TargetHost(is_here=False, emulated=False, provider="wasm", cpu="A CPU", x86=True, instruction_sets=())
    devices: dict[BrowserProvider, str] = {"wasm": "web:backend=wasm", "webgpu": "web:backend=webgpu"}
    passed: dict[str, Any] = {}
    raced: list[Any] = []
    asked: list[str] = []
    monkeypatch.setattr(workflow, "host_of", lambda device: there)
    monkeypatch.setattr(workflow, "left_open", lambda device, threads: OpenChoice(devices, {}, (1, 2)))
    monkeypatch.setattr(workflow, "rank_runs", lambda runs, **how: raced.append((runs, how)) or [3.0, 2.0])
    monkeypatch.setattr(workflow, "answers_of_file", lambda file, batches, **how: asked.append(how["device"]))
    for name in ("check_measurement", "verify"):
        monkeypatch.setattr(workflow, name, lambda *_args, **_named: None)
    monkeypatch.setattr("homoexport.stages.export.package.export_encoder", lambda *_, **named: passed.update(named))
    tiny_bert().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    workflow.export_model(
        load_encoder(str(tmp_path / "model"), task="feature-extraction"),
        tmp_path / "package",
        settings=ExportSettings(seconds=0.5),
        measure=MeasureSettings(device="web", length=16),
    )
    browser, one = passed["browser"], tmp_path / "one"
    assert browser.threads == (1, 2)
    assert browser.race([(one, "webgpu", 1), (one, "wasm", 2)]) == [3.0, 2.0]
    ((runs, how),) = raced
    assert runs == [(one, "web:backend=webgpu", 1), (one, "web:backend=wasm", 2)]
    assert (how["batch_size"], how["length"], how["min_seconds"]) == (1, 16, 0.5)
    for answer in browser.answers.values():
        answer(one, [])
    assert asked == list(devices.values())
