"""`homoexport export` as a user calls it: what it tells, what it refuses, and what docs/exporting.md promises."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import onnxruntime_extensions
import pytest

from homoexport.data import sample_text
from homoexport.documents.artifact import PackageManifest, StudentManifest, verify, write_manifest
from homoexport.encoder import load_encoder, save_encoder
from homoexport.stages.measure import find_target
from tests.conftest import BERT_TINY, MINILM, sentence_vectors, tiny_bert, tiny_tokenizer
from tests.samples import student_details
from tests.snippets import snippets
from tests.stages.measure.sshd import missing, running

QUICK = ("--threads", 1, "--length", 16, "--seconds", 0.02)
FP32 = ("--quantize", "none", "--graph", "standard", *QUICK)  # where the choice is not the matter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_bert().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"w{i} w{i + 1} w{i + 2}" for i in range(20)))
    return path


@pytest.mark.slow
def test_what_was_tried_and_why_not_the_others_is_told(homoexport, model, texts, tmp_path):
    out = tmp_path / "package"
    told = homoexport("export", "--onnx", model, "-o", out, "--text", texts, *QUICK)
    assert told.code == 0
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    schemes = [f"{details['graph']}-{scheme}" for scheme in ("int8", "int8-static", "fp32")]
    for name in ("standard-int8", "unfused+merged-int8", *schemes):
        assert f" {name}" in told.out
    assert f"{details['graph']} graph, {details['scheme']}" in told.out
    assert details["refused"]
    assert set(details["refused"]) == set(re.findall(r"^Not (\S+):", told.out, re.M))
    assert details["timed_at"].pop("cpu")
    assert details["timed_at"] == {"device": "cpu", "threads": 1, "batch_size": 1, "length": 16, "unit": "ms"}
    assert "Timed on cpu with 1 x 16 tokens" in told.out


def test_a_length_that_no_text_can_have_is_told(homoexport, model, tmp_path):
    told = homoexport("export", model, "-o", tmp_path / "p", *FP32, "--length", 65)
    assert told.code == 0
    assert "timing with 64 tokens, the model's longest text" in told.err.splitlines()
    assert verify(tmp_path / "p", PackageManifest).details.timed_at.length == 64


def test_a_graph_that_is_asked_for_is_taken_without_measuring_the_others(homoexport, model, tmp_path):
    out = tmp_path / "package"
    told = homoexport("export", model, "-o", out, "--quantize", "int8", "--graph", "flash", *QUICK)
    assert told.code == 0
    details = verify(out, PackageManifest).details
    assert details.graph == "flash"
    assert {(one.name.split("-")[0], one.round) for one in details.candidates} == {("flash", 3)}


def test_force_replaces_nothing_but_a_package(homoexport, tmp_path):
    (tmp_path / "student").mkdir()
    encoder = load_encoder(BERT_TINY)
    save_encoder(encoder, encoder.model, tmp_path / "student")
    write_manifest(tmp_path / "student", "student", details=student_details())
    told = homoexport("export", BERT_TINY, "-o", tmp_path / "student", "--force", *QUICK)
    assert told.code == 2
    assert "is a student, not a package" in told.err
    assert verify(tmp_path / "student", StudentManifest)


def test_json_is_the_manifest(homoexport, model, tmp_path):
    out = tmp_path / "package"
    told = homoexport("export", "--onnx", model, "-o", out, "--json", *FP32)
    assert json.loads(told.out) == json.loads((out / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--quantize", "int8-static"], ["int8-static", "--text"]),
        (["--with-tokenizer"], ["WordLevel"]),
        (["--device", "toaster"], ["toaster"]),
        (["--provider", "toaster"], ["toaster", "'cpu', 'cuda', 'openvino'"]),
        (["--provider", "cuda", "--device", "cpu"], ["--provider", "--device is cpu, too"]),
        (["--provider", "openvino"], ["OpenVINOExecutionProvider", "pip install onnxruntime-openvino"]),
        (["--text", "nowhere.txt"], ["nowhere.txt"]),
        (["--opset", "99"], ["opset 99"]),
        (["--private"], ["--private", "--push-to-hub"]),
        (["--push-to-hub", "a/b/c"], ["a/b/c", "OWNER/NAME"]),
        (["--push-to-hub", "me/small"], ["HF_HUB_OFFLINE", "switched off"]),
        (["--quantize", "fp16", "--embeddings", "int4"], ["--embeddings", "fp16"]),
        (["--runtime", "openvino", "--device", "x86:haswell"], ["x86:haswell", "this machine's CPU alone"]),
        (["--runtime", "openvino", "--quantize", "int4"], ["export.runtime", "'int4' cannot be had in OpenVINO"]),
        (["--runtime", "ctranslate2", "--quantize", "int4"], ["export.runtime", "'int4' cannot be had in CTranslate2"]),
    ],
)
def test_bad_wishes_are_refused_in_one_line_and_leave_nothing(homoexport, model, tmp_path, flags, words):
    out = tmp_path / "package"
    told = homoexport("export", "--onnx", model, "-o", out, *QUICK, *flags)
    assert told.code == 2
    *steps, line = told.err.splitlines()
    assert set(steps) <= {f"Exporting {model}", "exporting the graph"}
    assert all(word in line for word in words), told.err
    assert "Traceback" not in told.err
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.weights
def test_what_the_docs_promise_of_texts_sizes_and_batches(homoexport, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(sample_text()))
    encoder = load_encoder(BERT_TINY, task="sentence-similarity")
    (tmp_path / "student").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "student")
    flags = ["--text", "texts.txt", "--quantize", "int8-static", "--embeddings", "int4", "--with-tokenizer"]
    flags.append("--with-ort-format")
    assert homoexport("export", "--onnx", "student", "-o", "package", *flags, *QUICK).code == 0
    manifest = verify(tmp_path / "package", PackageManifest)
    details = manifest.details.model_dump(mode="json")
    bits = 8 * manifest.files[details["model_file"]].bytes / details["parameters"]
    assert bits < 5.5  # 3.9 M of the 4.4 M parameters are the word table's
    assert details["scheme"].startswith("int8-")
    assert details["batch_invariance"]["max_difference"] < 1e-5
    assert details["with_tokenizer"]["differing_kinds"] == ["NUL"]
    names: dict[str, object] = {}
    exec(snippets("exporting.md", "Texts in place of token ids", "python")[0], names)
    options = ort.SessionOptions()
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    session = ort.InferenceSession("package/strings/text_model.onnx", options)
    (together,) = session.run(["sentence_embedding"], {"text": np.array(["A text.", sample_text()[-1]], dtype=object)})
    np.testing.assert_allclose(together[0], names["vectors"][0], atol=1e-5)
    exec(snippets("loading.md", "onnxruntime", "python")[0], names)
    expected = sentence_vectors(encoder, ["A cat sat on the mat.", "Why?"])
    assert (names["vectors"] * expected).sum(1).min() > 0.95
    operators = (tmp_path / "package/ort/required_operators.config").read_text()
    assert re.search(r"^com\.microsoft;1;.*GatherBlockQuantized", operators, re.M)
    tokens = dict(encoder.tokenizer(["A text."], return_tensors="np"))
    answers = [
        ort.InferenceSession(f"package/{file}").run(["sentence_embedding"], tokens)[0]
        for file in (details["model_file"], "ort/model.ort")
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.emulated
def test_for_an_emulated_processor_the_gate_is_held_and_instructions_are_counted_there(homoexport, tmp_path):
    for need in find_target("x86:haswell").needs_to_count():
        pytest.skip(f"{need.what} is missing ({need.command})")
    out = tmp_path / "package"
    told = homoexport("export", "--onnx", MINILM, "-o", out, "--device", "x86:haswell", "--quantize", "int8", *QUICK)
    assert told.code == 0
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    name = f"{details['graph']}-{details['scheme']}"
    (chosen,) = [item for item in details["candidates"] if (item["round"], item["name"]) == (3, name)]
    assert chosen["parity_on_target"]["passed"]
    assert chosen["instructions"] > 1e6
    assert chosen["latency_p50_ms"] is None
    assert (details["timed_at"]["device"], details["timed_at"]["unit"]) == ("x86:haswell", "instructions")
    assert "Instructions counted, for its times are an emulator's, on x86:haswell with 1 x 16 tokens" in told.out
    tried = {item["name"].split("-", 1)[1] for item in details["candidates"] if item["parity_on_target"]}
    assert {"int8", "int8-7-bit", "int8-unsigned"} <= tried


@pytest.mark.ssh
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_over_ssh_candidates_are_timed_by_the_boards_own_clock(homoexport, model, tmp_path, monkeypatch):
    out = tmp_path / "package"
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as short, running(tmp_path / "sshd") as server:
        monkeypatch.setattr(tempfile, "tempdir", short)  # paths of sockets are short
        monkeypatch.setenv("HOMOEXPORT_SSH", server.command)
        device = server.device()
        told = homoexport(
            "export",
            "--onnx",
            model,
            "-o",
            out,
            "--device",
            device,
            "--quantize",
            "int8",
            "--graph",
            "standard",
            *QUICK,
        )
    assert told.code == 0, told.err
    details = verify(out, PackageManifest).details
    assert (details.timed_at.device, details.timed_at.unit, details.held_on) == (device, "ms", device)
    assert all(
        item.latency_p50_ms > 0 and item.parity_on_target.passed for item in details.candidates if item.round == 3
    )
    assert f"Timed on {device} with 1 x 16 tokens" in told.out
