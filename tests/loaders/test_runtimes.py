"""Forms and schemes on older releases of onnxruntime, and all of them on onnxruntime-web."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from homoexport.data import sample_text
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.forms import ATTENTION_FORMS, Form
from homoexport.stages.export.runtimes import oldest_onnxruntime
from homoexport.stages.measure.targets.web import runtime_folder
from tests.conftest import sentence_vectors
from tests.loaders.conftest import SET_UP, TEXTS, run_node

pytestmark = [pytest.mark.loaders, pytest.mark.weights]
SCHEMES = ("fp32", "int8", "int8-static", "int8-qdq", "int4", "fp16")
RELEASES = ("1.17.3", "1.18.1", "1.21.0", "1.21.1", "1.22.1", "1.23.2", "1.24.1")
RIGHT = 0.95  # cosine: 4-bit graphs reach 0.97, and those whose mask is misread 0.90


@pytest.fixture(scope="module")
def graphs(encoder, tmp_path_factory) -> Path:
    """Every form of attention in every scheme, and 4-bit tables."""
    folder, work = tmp_path_factory.mktemp("graphs"), tmp_path_factory.mktemp("work")
    maker = Maker(encoder, work, 128, sample_text())
    for form in (*ATTENTION_FORMS, Form("flash", skip_layer_norm=True)):
        assert maker.write(form) is not None, maker.left_out
        for scheme, tables in [*((scheme, "fp32") for scheme in SCHEMES), ("int8", "int8"), ("int8", "int4")]:
            made = maker.quantize(form, scheme, tables)
            assert made is not None, maker.left_out
            (folder / f"{form.name}.{scheme}.{tables}.onnx").write_bytes(made.file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def tokens(encoder) -> str:
    return json.dumps(dict(encoder.tokenizer(TEXTS, padding=True)))


def right(answers, encoder) -> set[str]:
    """The graphs that answer as torch does."""
    expected = sentence_vectors(encoder, TEXTS)
    return {
        name
        for name, answer in answers.items()
        if not isinstance(answer, str) and (np.array(answer) * expected).sum(1).min() > RIGHT
    }


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_runs_what_needs_no_newer_one(encoder, graphs, tokens, release):
    packages = f"{SET_UP / f'onnxruntime-{release}'}:{SET_UP / 'numpy'}"
    command = [sys.executable, Path(__file__).with_name("runs.py"), graphs, tokens]
    environment = {**os.environ, "PYTHONPATH": packages}
    told = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert told["version"] == release
    numbers = tuple(map(int, release.split(".")))
    oldest = {
        file.name: tuple(map(int, oldest_onnxruntime(ir.load(file)).split("."))) for file in graphs.glob("*.onnx")
    }
    assert right(told["answers"], encoder) == {name for name, needed in oldest.items() if needed <= numbers}


def test_onnxruntime_web_runs_every_form_in_every_scheme(encoder, graphs, tokens):
    script = f"""import fs from "node:fs";
import * as ort from "onnxruntime-web";
const answers = {{}}, tokens = {tokens};
for (const name of fs.readdirSync(".").filter((name) => name.endsWith(".onnx"))) {{
  const session = await ort.InferenceSession.create(fs.readFileSync(name), {{ logSeverityLevel: 4 }});
  const feeds = {{}};
  for (const input of session.inputNames)
    feeds[input] = new ort.Tensor("int64", tokens[input].flat().map(BigInt), [2, tokens[input][0].length]);
  const {{ sentence_embedding: found }} = await session.run(feeds);
  const width = found.dims[1], numbers = Array.from(found.data);
  answers[name] = [numbers.slice(0, width), numbers.slice(width)];
  await session.release();
}}"""
    answers = run_node(script, folder=graphs, modules=runtime_folder() / "node_modules", result="answers")
    assert right(answers, encoder) == {file.name for file in graphs.glob("*.onnx")}
