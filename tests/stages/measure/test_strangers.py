"""Workers and packages of strangers: a graph without end, an answer that does not come, an answer without end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import PackageError
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu
from tests.stages.measure.test_process import GREETING
from tests.stages.measure.tiny_onnx import write_package


class Saying(LocalCpu):
    """A target whose workers greet, and then do what a line of Python says."""

    def __init__(self, then: str) -> None:
        super().__init__()
        self._then = f"import sys, time; print({json.dumps(json.dumps(GREETING))}, flush=True); {then}"

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self._then]


def endless_package(folder: Path) -> Path:
    """A package whose graph goes around as often as an int64 can count."""
    write_package(folder)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["state", "one"], ["next"]),
        ],
        "around",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Loop", ["times", "yes", "floats"], ["looped"], body=body),
        helper.make_node("Identity", ["looped"], ["sentence_embedding"]),
        helper.make_node("Unsqueeze", ["looped", "axis"], ["last_hidden_state"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", "sequence"]),
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", 1]),
    ]
    constants = {
        "times": np.array(2**62),
        "yes": np.array(True),
        "one": np.array(1, dtype=np.float32),
        "axis": np.array([2]),
    }
    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "endless", inputs, outputs, arrays)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "onnx/model.onnx"
    )
    details = read_manifest(folder, PackageManifest).details
    (folder / "manifest.json").unlink()
    write_manifest(folder, "package", details=details)
    return folder


@pytest.mark.processes
@pytest.mark.parametrize(
    "command", ["embed", *(pytest.param(command, marks=pytest.mark.slow) for command in ("bench", "eval"))]
)
def test_a_graph_without_end_is_ended(homoexport, tmp_path, monkeypatch, command):
    package = endless_package(tmp_path / "package")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"sentence1": f"w{i}", "sentence2": "w2", "score": i}) + "\n" for i in range(9)))
    arguments = {
        "bench": ["--threads", "1", "--length", "8", "--min-seconds", "0.1"],
        "embed": ["-o", tmp_path / "vectors.npy"],
        "eval": ["--task", "sts", "--data", text],
    }[command]
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "answer_seconds=1")
    began = time.monotonic()
    with text.open() as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        outcome = homoexport(command, package, *arguments)
    assert time.monotonic() - began < 40
    assert outcome.code == 2
    assert "--limit answer_seconds=N" in outcome.err.splitlines()[-1]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("time.sleep(60)", "does not answer 'warm' within 1 seconds.*--limit answer_seconds=N"),
        ("print('{', end='', flush=True); time.sleep(60)", "does not answer 'warm' within 1 seconds"),
        ("[sys.stdout.write('x' * 100000) for _ in range(1000)]; time.sleep(60)", "has no end.*--limit whole_mb=N"),
    ],
    ids=["silence", "half a line", "a line without end"],
)
def test_a_worker_is_not_waited_for_without_end(monkeypatch, then, told):
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "answer_seconds=1,whole_mb=1")
    with Worker(Saying(then), subject="the package") as worker, pytest.raises(PackageError, match=told):
        worker.warm(seconds=0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": 5},
        {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {"x": 1}}},
        {"truncation": {"max_length": -1}},
    ],
    ids=["a panic", "a number", "a template", "a length"],
)
def test_a_packages_tokenizer_is_refused_in_one_line(homoexport, tmp_path, monkeypatch, changes):
    package = write_package(tmp_path / "package")
    path = package / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    details = read_manifest(package, PackageManifest).details
    (package / "manifest.json").unlink()
    write_manifest(package, "package", details=details)
    outcome = homoexport("embed", package, "-o", tmp_path / "vectors.npy")
    assert outcome.code == 2
    assert "tokenizers cannot load it" in outcome.err.splitlines()[-1]
