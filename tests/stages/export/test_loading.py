"""What packages tell other loaders, and which onnxruntime a graph needs: against docs/loading.md's table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
from transformers import AutoConfig

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.encoder import load_encoder, save_encoder
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.forms import Form
from homoexport.stages.export.runtimes import oldest_onnxruntime
from tests.snippets import table
from tests.stages.export.conftest import export_package

SCHEMES = ("fp32", "int8", "int8-static", "int8-qdq", "int4", "fp16")


def in_order(files: list[Path]) -> list[float]:
    return [1.0 + index for index, _ in enumerate(files)]


def graphs_of(form: Form, encoder, folder: Path) -> Callable[[str, str], Path]:
    texts = [f"w{i} w{i + 1} w{i + 2}" for i in range(12)]
    maker = Maker(encoder, folder, max_length=64, texts=texts)
    assert maker.write(form) is not None

    def write(scheme: str, words: str) -> Path:
        made = maker.quantize(form, scheme, words)
        assert made is not None, maker.left_out
        return made.file

    return write


@pytest.mark.parametrize(
    ("quantize", "dtype", "file_name"),
    [("none", "fp32", None), ("int8", "q8", "model_quantized.onnx"), ("fp16", "fp16", "model_fp16.onnx")],
)
def test_other_loaders_are_told_which_file_to_load(tiny_encoder, export_once, tmp_path, quantize, dtype, file_name):
    package = export_package(
        tiny_encoder("sentence-similarity"),
        out_dir=tmp_path / "package",
        rank=in_order,
        quantize=quantize,
        graph="standard",
    )
    config = json.loads((package / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": dtype}
    assert AutoConfig.from_pretrained(package).hidden_size == 32
    settings = json.loads((package / "sentence_bert_config.json").read_text())
    assert settings["max_seq_length"] == 64
    assert settings.get("model_args", {}).get("file_name") == file_name
    oldest = verify(package, PackageManifest).details.oldest_onnxruntime
    assert f"onnxruntime {oldest} is the oldest" in (package / "README.md").read_text()


def test_prompts_go_along(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    (tmp_path / "teacher").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "teacher")
    prompts = {"prompts": {"query": "query: "}, "similarity_fn_name": "dot"}
    (tmp_path / "teacher/config_sentence_transformers.json").write_text(json.dumps(prompts))
    teacher = load_encoder(str(tmp_path / "teacher"))
    package = export_package(teacher, out_dir=tmp_path / "package", rank=in_order, quantize="none", graph="unfused")
    assert json.loads((package / "config_sentence_transformers.json").read_text()) == prompts


@pytest.mark.parametrize("attention", ["unfused", "flash", "multi-head", "standard"])
def test_the_oldest_onnxruntime_is_what_the_docs_say(tiny_encoder, export_once, tmp_path, attention):
    write = graphs_of(Form(attention), tiny_encoder("sentence-similarity"), tmp_path)
    said = {}
    for forms, schemes, tables, oldest in table("loading.md", "The oldest onnxruntime"):
        for scheme in SCHEMES:
            if f"`{attention}`" in forms and schemes.startswith("any") != (f"`{scheme}`" in schemes):
                said |= {(scheme, words): oldest for words in ("fp32", "int4") if tables == "any" or words in tables}
    assert set(said) >= {(scheme, "fp32") for scheme in SCHEMES} | {("int8", "int4"), ("int8-static", "int4")}
    found = {(scheme, words): oldest_onnxruntime(ir.load(write(scheme, words))) for scheme, words in said}
    assert found == said


def test_newer_operator_sets_need_newer_releases(exported):
    model = ir.load(exported("feature-extraction"))
    found = {}
    for opset in (18, 21, 22, 23, 24):
        model.opset_imports[""] = opset
        found[opset] = oldest_onnxruntime(model)
    assert found == {18: "1.18", 21: "1.18", 22: "1.21", 23: "1.23", 24: "1.24"}
