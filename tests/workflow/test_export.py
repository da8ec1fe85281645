"""The verb `export`: what cannot be is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from homoexport.workflow.export import _beside

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
