"""Every pooling of sentence-transformers in the graph, in other runtimes, and behind a prompt."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import openvino
import pytest
import torch
from transformers import AutoTokenizer

from homoexport.documents.artifact import PackageManifest, read_manifest, verify, write_manifest
from homoexport.documents.package import PROMPT_FOLDER, BrowserChoice, Pooling
from homoexport.encoder import Dense, Encoder, load_encoder
from homoexport.encoder.dense import write_dense
from homoexport.errors import PackageError, UserError
from homoexport.runtime.ctranslate2_session import CTranslate2Session
from homoexport.runtime.inference import open_package
from homoexport.runtime.session import OnnxSession
from homoexport.stages.evaluate import torch_package
from homoexport.stages.export.card import model_card
from homoexport.stages.export.ctranslate2_file import write_folder
from homoexport.stages.export.forms import Form, write_as
from homoexport.stages.export.graph import torch_to_onnx
from homoexport.stages.export.openvino_graph import as_openvino
from tests.conftest import tiny_bert, tiny_model, tiny_tokenizer
from tests.dense import TANH
from tests.pooling import BY_HAND, SEVERAL, pooled_by_hand, write_modules
from tests.stages.export.conftest import export_package

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22"]
SENTENCE = ["sentence_embedding"]
# Every pooling, its vectors made of length 1 or as they are; a third of them is quick.
POOLINGS = [
    pytest.param(modes, normalize, marks=[] if (row + normalize) % 3 == 0 else pytest.mark.slow)
    for row, modes in enumerate([*((mode,) for mode in BY_HAND), SEVERAL])
    for normalize in (False, True)
]


def pooled(encoder: Encoder, modes: tuple[str, ...], *, normalize: bool) -> Encoder:
    """The encoder with that pooling; several modes have a layer behind them."""
    torch.manual_seed(1)
    dense = (Dense(torch.randn(24, 32 * len(modes)) / 8, torch.randn(24), activation=TANH),) if len(modes) > 1 else ()
    return replace(encoder, pooling=Pooling(mode=modes[0], more=modes[1:], normalize=normalize), dense=dense)


@pytest.mark.parametrize(("modes", "normalize"), POOLINGS)
def test_every_pooling_lies_in_the_graph_and_in_other_runtimes(tiny_encoder, tmp_path, modes, normalize):
    encoder = pooled(tiny_encoder("sentence-similarity"), modes, normalize=normalize)
    expected = pooled_by_hand(encoder, TEXTS, modes, normalize=normalize)
    file = tmp_path / "portable.onnx"
    ir.save(write_as(torch_to_onnx(encoder, opset=18), Form("unfused")), file)
    tokens = dict(encoder.tokenizer(TEXTS, padding=True, return_tensors="np"))
    for session in (
        OnnxSession(file, threads=1),
        CTranslate2Session(write_folder(encoder, tmp_path / "ctranslate2", "fp32", work=tmp_path), threads=1),
    ):
        feeds = {node.name: tokens[node.name] for node in session.get_inputs()}
        (found,) = session.run(SENTENCE, feeds)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=type(session).__name__)
    in_floats = {"INFERENCE_PRECISION_HINT": "f32"}  # which some CPUs would round to bf16
    found = openvino.Core().compile_model(as_openvino(file), "CPU", in_floats)(tokens)[SENTENCE[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def in_order(files: list[Path]) -> list[float]:
    return [1.0 + index for index, _ in enumerate(files)]


def prompted(folder: Path, *, default: str | None = None) -> Path:
    """A folder of several poolings with a layer behind them, whose prompts are not pooled."""
    write_modules(folder, {"pooling_mode": list(SEVERAL), "include_prompt": False})
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    encoder = load_encoder(str(folder), task="feature-extraction")
    with_layer = pooled(encoder, SEVERAL, normalize=True)
    write_dense(with_layer.dense[0], folder / "2_Dense")
    settings = {"prompts": {"query": "w3 w4 : ", "none": ""}, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Encoder:
    folder = tmp_path_factory.mktemp("teacher")
    tiny_bert().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_encoder(str(prompted(folder)))


@pytest.fixture(scope="module")
def package(teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "package"
    return export_package(teacher, out_dir=out, rank=in_order, quantize="none", graph="unfused")


def test_what_stands_before_a_text_is_read_and_not_pooled(teacher, package):
    texts = [f"w3 w4 : {text}" for text in TEXTS]
    skipped = len(teacher.tokenizer("w3 w4 :")["input_ids"]) - 1  # but for [SEP]
    expected = pooled_by_hand(teacher, texts, SEVERAL, skipped=skipped)
    plain = pooled_by_hand(teacher, TEXTS, SEVERAL)
    details = verify(package, PackageManifest).details
    assert (details.prompts, details.pooling.width) == (teacher.prompts, 24)
    assert "- prompts, put before a text: query, none\n" in (package / "README.md").read_text()
    for opened in (open_package(package), torch_package(teacher)):
        np.testing.assert_allclose(opened.embed(TEXTS, prompt="query"), expected, atol=1e-5)
        np.testing.assert_allclose(opened.embed(TEXTS), plain, atol=1e-5)
        np.testing.assert_allclose(opened.embed(TEXTS, prompt="none"), plain, atol=1e-5)
    assert np.abs(pooled_by_hand(teacher, texts, SEVERAL) - expected).max() > 0.01  # pooled, it would be another vector
    assert json.loads((package / "1_Pooling/config.json").read_text())["include_prompt"] is False


def test_the_model_s_own_prompt_is_put_there_where_none_is_named(tiny_folder):
    model = torch_package(load_encoder(str(prompted(tiny_folder(), default="query"))))
    np.testing.assert_array_equal(model.embed(TEXTS), model.embed(TEXTS, prompt="query"))
    assert np.abs(model.embed(TEXTS) - model.embed(TEXTS, prompt="none")).max() > 0.01
    assert model.embed([]).shape == (0, 24)


@pytest.mark.parametrize("name", ["que", "", "\x1b[31m"])
def test_a_prompt_that_the_model_does_not_have_is_told_with_those_it_has(package, tiny_encoder, name):
    with pytest.raises(UserError, match="has no such prompt; name one of: query, none") as caught:
        open_package(package).embed(TEXTS, prompt=name)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(UserError, match="has no prompts; leave it out"):
        torch_package(tiny_encoder("sentence-similarity")).embed(TEXTS, prompt="query")


def test_a_package_whose_part_for_prompts_is_damaged_is_told_in_one_line(package, tmp_path):
    copy = shutil.copytree(package, tmp_path / "copy")
    (copy / PROMPT_FOLDER / "head.json").write_text("{")
    write_manifest(copy, "package", details=read_manifest(copy, PackageManifest).details)
    with pytest.raises(PackageError, match=f"{PROMPT_FOLDER}: cannot be read"):
        open_package(copy)
    facts = json.loads((package / PROMPT_FOLDER / "head.json").read_text())
    (copy / PROMPT_FOLDER / "head.json").write_text(json.dumps({**facts, "activations": ["Cosh"]}))
    write_manifest(copy, "package", details=read_manifest(copy, PackageManifest).details)
    with pytest.raises(PackageError, match=f"{PROMPT_FOLDER}: cannot be applied"):
        open_package(copy).embed(TEXTS, prompt="query")


@pytest.mark.parametrize("name", [None, "query", "none"])
def test_many_texts_are_embedded_behind_a_prompt(package, homoexport, tmp_path, name):
    """In streams, in batches of like length: as one by one, whatever prompt is the package's own."""
    copy = shutil.copytree(package, tmp_path / "copy")
    details = read_manifest(copy, PackageManifest).details
    prompts = details.prompts.model_copy(update={"default": "query"})
    write_manifest(copy, "package", details=details.model_copy(update={"prompts": prompts}))
    texts = [" ".join(f"w{(row * 7 + word) % 80}" for word in range(1 + row % 9)) for row in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    flags = ["--data", tmp_path / "texts.txt", "--streams", 2, "--batch-size", 3, "-o", tmp_path / "vectors.npy"]
    done = homoexport("embed", copy, *flags, *(["--prompt", name] if name else []))
    assert done.code == 0, done.err
    opened = open_package(copy)
    again = opened.beside(OnnxSession(opened.details.file, threads=1))
    for model in (opened, again):
        alone = np.concatenate([model.embed([text], prompt=name or "query") for text in texts])
        np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), alone, atol=1e-5)


def test_a_long_text_is_cut_on_the_side_that_its_tokenizer_says(tiny_folder, tmp_path):
    folder = write_modules(tiny_folder(), {})
    AutoTokenizer.from_pretrained(folder, truncation_side="left").save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    encoder = load_encoder(str(folder))
    out = export_package(encoder, out_dir=tmp_path / "package", rank=in_order, quantize="none", graph="unfused")
    words = [f"w{number}" for number in range(20)]
    expected = pooled_by_hand(encoder, [" ".join(words[-6:])], ["mean"])  # beside [CLS] and [SEP]
    for opened in (open_package(out), torch_package(encoder)):
        np.testing.assert_allclose(opened.embed([" ".join(words)]), expected, atol=1e-5)
    saved = AutoTokenizer.from_pretrained(out)(" ".join(words), truncation=True)["input_ids"]
    assert saved == encoder.tokenizer(" ".join(words[-6:]))["input_ids"]


def test_embed_takes_the_name_of_a_prompt(package, homoexport, monkeypatch, tmp_path):
    out = tmp_path / "vectors.npy"
    for flags, prompt in (([], None), (["--prompt", "query"], "query")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("\n".join(TEXTS).encode()), isatty=bool))
        assert homoexport("embed", package, "-o", out, *flags).code == 0
        np.testing.assert_allclose(np.load(out), open_package(package).embed(TEXTS, prompt=prompt), atol=1e-6)
    told = homoexport("embed", package, "-o", out, "--prompt", "passage")
    assert (told.code, "name one of: query, none" in told.err) == (2, True)


@pytest.mark.parametrize(("mode", "of_javascript"), [("mean", True), ("max", False)])
def test_a_card_s_javascript_pools_as_the_graph_where_its_own_cannot(package, mode, of_javascript):
    browser = BrowserChoice(provider="wasm", threads=1, runs=(), not_tried={})
    details = verify(package, PackageManifest).details
    details = details.model_copy(update={"browser": browser, "pooling": Pooling(mode=mode)})
    card = model_card("package", details, parent="teacher", source="teacher")
    assert (f'pooling: "{mode}"' in card) == of_javascript
    assert ("sentence_embedding: answer" in card) != of_javascript
    assert ("import { env, pipeline } from" in card) == of_javascript


def test_a_head_that_is_left_out_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    tiny_model("bert", "sequence").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    encoder = load_encoder(str(write_modules(tmp_path / "model", {})))
    out = export_package(encoder, out_dir=tmp_path / "package", rank=in_order, quantize="none", graph="unfused")
    left_out = verify(out, PackageManifest).details.left_out
    assert left_out["head"].startswith("its folder has a BertForSequenceClassification, of which a sentence-similarity")
    assert "- Left out: head (its folder has a BertForSequenceClassification" in (out / "README.md").read_text()
