"""Packages: what is chosen, what is refused, what is written."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx_ir.passes.common import RemoveUnusedNodesPass
from transformers import AutoTokenizer

from homoexport.data import sample_text
from homoexport.documents.artifact import PackageManifest, verify
from homoexport.encoder import load_encoder
from homoexport.encoder.sentence import read_dense_modules
from homoexport.errors import OutputError, PackageError, ParityError, UserError
from homoexport.runtime.inference import open_package
from homoexport.schemes import NO_TEXT
from homoexport.stages.export import candidates
from homoexport.stages.export.hub import push_to_hub
from homoexport.stages.export.ladder import make_batches
from homoexport.stages.export.parity import FEWER_BITS_MIN_COSINE, check_parity
from homoexport.stages.export.strings import extensions_library
from homoexport.text.awkward import awkward_texts
from tests.conftest import BERT_TINY, MINILM, tiny_model, tiny_tokenizer
from tests.dense import vectors_by_hand, write_layers
from tests.stages.export.conftest import SUMS_OVERFLOW, export_package
from tests.trimmed import FAMILIES, INSIDE, ids_alone, package_once, rows_of, texts_for, told_alike, trimmed_once
from tests.trimmed import TEXTS as PLAIN

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22", "w3 w4 " * 20]


def by_name(fastest: str):
    """A ranking under which the file named `fastest` is."""
    return lambda files: [1.0 if file.name == fastest else 2.0 for file in files]


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Path:
    """Temporary folders go here, so that a test sees what is left of them."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("quantize", "fastest", "model_file"),
    [
        ("none", "flash.onnx", "onnx/model.onnx"),
        ("auto", "flash-int8-int8-0.onnx", "onnx/model_quantized.onnx"),
        ("int8", "flash-int8-int8-0.onnx", "onnx/model_quantized.onnx"),
        ("int8-static", "flash-int8-static-min-max-0.onnx", "onnx/model_quantized.onnx"),
        ("int4", "flash-int4-0.onnx", "onnx/model_q4.onnx"),
        ("fp16", "flash-fp16-0.onnx", "onnx/model_fp16.onnx"),
    ],
)
def test_package_holds_the_fastest_graph_and_loads_with_stock_libraries(
    tiny_encoder, export_once, tmp_path, scratch, quantize, fastest, model_file
):
    encoder = tiny_encoder("sentence-similarity")
    graph = "auto" if quantize == "auto" else "flash"  # all forms once
    out = export_package(
        encoder, out_dir=tmp_path / "package", rank=by_name(fastest), texts=TEXTS, quantize=quantize, graph=graph
    )
    manifest = verify(out, PackageManifest)
    details = manifest.details.model_dump(mode="json")
    assert details["model_file"] == model_file
    assert details["graph"] == "flash"
    assert details["scheme"] == {"none": "fp32", "auto": "int8"}.get(quantize, quantize)
    assert [name for name in manifest.files if name.endswith(".onnx")] == [model_file]
    assert {"config.json", "tokenizer.json"} < set(manifest.files)
    assert (details["max_length"], details["vocab_size"], details["hidden_size"]) == (64, 100, 32)
    timed = [item for item in details["candidates"] if item["round"]]
    names = [(item["round"], item["name"]) for item in timed]
    assert len(names) == len(set(names))
    assert {(3, "flash-fp32"), (3, f"flash-{details['scheme']}")} <= set(names)
    assert {number for number, _name in names} == ({1, 2, 3} if graph == "auto" else {3})
    assert all(item["latency_p50_ms"] for item in timed)
    lost = [item for item in details["candidates"] if not item["round"]]
    # Of each calibrated scheme one method: the other answers more as torch does.
    calibrated = {"auto": ["flash-int8-static"], "int8-static": ["flash-int8-static", "flash-int8-qdq"]}
    assert [item["name"] for item in lost] == calibrated.get(quantize, [])
    assert details["batch_invariance"]["texts"] == len(TEXTS) + 1
    assert list(scratch.iterdir()) == []

    tokenizer = AutoTokenizer.from_pretrained(out)
    session = ort.InferenceSession(out / model_file, providers=["CPUExecutionProvider"])
    vectors = session.run(None, dict(tokenizer(TEXTS, padding=True, return_tensors="np")))[0]
    with torch.no_grad():
        tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
        hidden = encoder.model(**tokens).last_hidden_state
    mean = (hidden * tokens["attention_mask"][..., None]).sum(1) / tokens["attention_mask"].sum(1, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(mean, torch.from_numpy(vectors)).min().item()
    assert cosine > (0.99999 if quantize == "none" else FEWER_BITS_MIN_COSINE)

    properties = {item.key: item.value for item in onnx.load(out / model_file).metadata_props}
    assert (properties["homoexport.task"], properties["homoexport.opset"]) == ("sentence-similarity", "18")
    assert len(properties["homoexport.source"]) == 64


def test_mixed_lengths_in_a_batch_answer_as_each_alone(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    out = export_package(
        encoder, out_dir=tmp_path / "package", rank=by_name(""), texts=TEXTS, quantize="none", graph="unfused"
    )
    session = ort.InferenceSession(out / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    together = session.run(None, dict(encoder.tokenizer(TEXTS, padding=True, return_tensors="np")))[0]
    alone = [session.run(None, dict(encoder.tokenizer([text], return_tensors="np")))[0] for text in TEXTS]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


def test_poisoned_graph_is_refused_with_its_figures(tiny_encoder, export_once, tmp_path, scratch, monkeypatch):
    encoder = tiny_encoder("feature-extraction")

    def poison(model, form, *, max_opset):
        weight = next(value for name, value in model.graph.initializers.items() if name.endswith("LayerNorm.weight"))
        weight.const_value = ir.tensor(1.1 * weight.const_value.numpy(), name=weight.name)
        return model

    monkeypatch.setattr(candidates, "write_as", poison)
    with pytest.raises(ParityError, match=r"standard-fp32 \(last_hidden_state\) largest difference .* cosine"):
        export_package(encoder, out_dir=tmp_path / "package", rank=by_name(""), texts=TEXTS, quantize="int8")
    assert not (tmp_path / "package").exists()
    assert list(scratch.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_values_that_are_not_finite_do_not_pass(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("feature-extraction")
    batches = make_batches(encoder, TEXTS, max_length=64)
    exported = candidates.torch_to_onnx(encoder, opset=18)
    weight = next(value for name, value in exported.graph.initializers.items() if name.endswith("LayerNorm.bias"))
    weight.const_value = ir.tensor(np.nan * weight.const_value.numpy(), name=weight.name)
    ir.save(exported, tmp_path / "nan.onnx")
    figures = check_parity(tmp_path / "nan.onnx", batches.all, task="feature-extraction", precision="int8")
    assert (figures.passed, figures.max_difference) == (False, None)


def test_existing_folder_is_refused_and_replaced_by_force(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("feature-extraction")
    out = tmp_path / "package"
    arguments = {"out_dir": out, "rank": by_name(""), "texts": TEXTS, "quantize": "none", "graph": "unfused"}
    export_package(encoder, **arguments)
    with pytest.raises(OutputError, match="already exists"):
        export_package(encoder, **arguments)
    export_package(encoder, **arguments, force=True)
    assert verify(out, PackageManifest).details.task == "feature-extraction"


def test_graphs_that_fail_are_left_out_with_the_reason_and_the_others_ship(
    tiny_encoder, export_once, tmp_path, monkeypatch
):
    encoder = tiny_encoder("feature-extraction")

    def fail(_model: object, *, skip_layer_norm: bool) -> None:
        raise RuntimeError("no such\nfusion")

    def fail_to_quantize(source: Path, *_arguments: object, **_settings: object) -> None:
        raise RuntimeError(f"{source.stem} has no integers")

    monkeypatch.setattr(candidates, "fused_base", fail)
    arguments = {"texts": TEXTS, "rank": by_name("unfused+merged.onnx")}
    out = export_package(encoder, out_dir=tmp_path / "fp32", quantize="none", **arguments)
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    assert details["left_out"] == dict.fromkeys(["standard", "flash", "multi-head"], "RuntimeError: no such fusion")
    tried = {(item["name"], item["round"]) for item in details["candidates"]}
    assert tried == {
        ("unfused+merged-fp32", 1),
        ("unfused-fp32", 2),
        ("unfused+merged-fp32", 2),  # alone in fp32, it is not measured again
    }
    monkeypatch.setattr(candidates, "quantize", fail_to_quantize)
    with pytest.raises(ParityError, match=r"unfused\+merged-int8 RuntimeError: unfused\+merged has no integers"):
        export_package(encoder, out_dir=tmp_path / "int8", quantize="int8", **arguments)


def test_graphs_that_the_target_cannot_run_are_left_out(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("feature-extraction")

    def answer(file, batches):
        if not file.name.startswith("unfused"):
            raise PackageError("the worker cannot measure it (no such operator)", where=file.name)
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return [session.run(["last_hidden_state"], tokens)[0] for tokens in batches]

    arguments = {"texts": TEXTS, "rank": by_name("unfused-int8-int8-0.onnx"), "quantize": "int8", "answer": answer}
    out = export_package(encoder, out_dir=tmp_path / "package", **arguments)
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    assert (details["graph"], details["scheme"]) == ("unfused", "int8")
    for form in ("standard", "flash", "multi-head"):
        assert "no such operator" in details["left_out"][f"{form}-int8"]


def test_classifier_package_names_its_labels_and_its_tokenizer_feeds_it(tmp_path):
    torch.manual_seed(0)
    model = tiny_model("distilbert", "token")
    model.config.id2label = {0: "O", 1: "B-PER", 2: "I-PER"}
    model.save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    tokenizer.save_pretrained(tmp_path / "model")
    encoder = load_encoder(str(tmp_path / "model"))
    assert "token_type_ids" in encoder.tokenizer(TEXTS)
    out = export_package(
        encoder, out_dir=tmp_path / "package", rank=by_name(""), texts=TEXTS, quantize="none", graph="flash"
    )
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    assert (details["labels"], details["input_names"]) == (["O", "B-PER", "I-PER"], ["input_ids", "attention_mask"])
    session = ort.InferenceSession(out / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    tokens = AutoTokenizer.from_pretrained(out)(TEXTS, padding=True, return_tensors="np")
    answer = session.run(["logits"], dict(tokens))[0]
    opened = open_package(out, threads=1)
    assert opened.details.labels == ("O", "B-PER", "I-PER")
    for text, row, ours in zip(TEXTS, answer, opened.logits(TEXTS), strict=True):
        with torch.no_grad():
            alone = encoder.tokenizer([text], return_tensors="pt")
            expected = encoder.model(alone["input_ids"], attention_mask=alone["attention_mask"]).logits[0].numpy()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_sample_text_is_varied():
    words = [len(text.split()) for text in sample_text()]
    assert (len(set(sample_text())), min(words)) == (32, 3)
    assert 90 <= max(words) <= 110


def test_text_that_comes_with_the_package_is_the_same_each_time():
    digests = [
        hashlib.sha256(content.encode()).hexdigest()[:16]
        for content in ("\n".join(sample_text()), json.dumps(awkward_texts(["[SEP]", "<s>"])))
    ]
    assert digests == ["cbc10de0d1f73a3b", "65fc532a5c349eca"]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("source", [MINILM, BERT_TINY])
def test_trained_models_keep_every_bound(source, tmp_path):
    encoder = load_encoder(source)
    # Where sums overflow int8 may miss its bound; then it is smoothed, and its layers are searched: minutes.
    quantize = "none" if SUMS_OVERFLOW and source == BERT_TINY else "auto"
    out = export_package(
        encoder, out_dir=tmp_path / "package", rank=by_name("standard-int8-int8-0.onnx"), quantize=quantize
    )
    details = json.loads((out / "manifest.json").read_text())["details"]
    checked = [item for item in details["candidates"] if item["parity"] is not None]
    names = {item["name"] for item in checked}
    schemes = {"standard-fp32"} if quantize == "none" else {"standard-fp32", "standard-int8"}
    assert schemes <= names
    if quantize == "none" or not SUMS_OVERFLOW:
        assert names == schemes
        assert [item["name"] for item in checked if not item["parity"]["passed"]] == []
    assert details["left_out"] == ({} if quantize == "none" else {"int8-static": NO_TEXT})
    if source == MINILM:
        assert (details["max_length"], details["parity"]["output"]) == (256, "sentence_embedding")
        files = set(verify(out, PackageManifest).files)
        assert {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"} < files
        assert (out / details["model_file"]).stat().st_size < 23.5e6


def test_card_says_what_the_manifest_says(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    out = export_package(
        encoder,
        out_dir=tmp_path / "package",
        rank=by_name("standard-int8-int8-0.onnx"),
        texts=TEXTS,
        graph="standard",
    )
    manifest = verify(out, PackageManifest)
    details = manifest.details.model_dump(mode="json")
    front, card = (out / "README.md").read_text().removeprefix("---\n").split("\n---\n")
    assert yaml.safe_load(front)["pipeline_tag"] == "sentence-similarity"
    for words in (f"{details['parameters'] / 1e6:.2f} M parameters", details["quantization"], "1 x 16 tokens"):
        assert words in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| standard", "| **standard"))]
    assert len(rows) == sum(item["name"].startswith("standard") for item in details["candidates"])
    snippet = card.split("```python\n")[1].split("\n```")[0]
    names: dict[str, object] = {}
    exec(snippet.replace('"."', repr(str(out))).replace('"./', f'"{out}/').replace("a text", "w1 w2"), names)
    assert names["vectors"].shape == (2, 32)


class FakeHub:
    """What huggingface_hub's HfApi is asked for."""

    asked: ClassVar[list[tuple[str, dict[str, object]]]] = []
    error: ClassVar[Exception | None] = None

    def create_repo(self, repository: str, **settings: object) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        self.asked.append((repository, settings))
        return SimpleNamespace(repo_id=f"me/{repository}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
        self.asked.append((repo_id, {"folder_path": folder_path}))
        return SimpleNamespace(commit_url=f"https://hub.example/{repo_id}/commit/1")


def test_a_package_goes_to_the_hub_as_it_is(tiny_encoder, export_once, tmp_path, monkeypatch):
    encoder = tiny_encoder("feature-extraction")
    out = export_package(encoder, out_dir=tmp_path / "p", rank=by_name(""), quantize="none", graph="unfused")
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert push_to_hub(out, "small", private=True) == "https://hub.example/me/small/commit/1"
    assert FakeHub.asked == [("small", {"private": True, "exist_ok": True}), ("me/small", {"folder_path": out})]
    monkeypatch.setattr(FakeHub, "error", ConnectionError("no route\nto it"))
    with pytest.raises(UserError, match=r"did not reach the hub \(no route\)"):
        push_to_hub(out, "small")
    (out / "config.json").write_text("{}")
    with pytest.raises(PackageError, match=r"config\.json"):
        push_to_hub(out, "small")


def test_the_hub_that_is_switched_off_is_one_line(tiny_encoder, export_once, tmp_path, monkeypatch):
    encoder = tiny_encoder("feature-extraction")
    out = export_package(encoder, out_dir=tmp_path / "p", rank=by_name(""), quantize="none", graph="unfused")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="switched off"):
        push_to_hub(out, "me/small")
    with pytest.raises(UserError, match="repository's name"):
        push_to_hub(out, "no such/name/at all")


@pytest.mark.weights
@pytest.mark.slow
def test_with_its_tokenizer_inside_a_package_takes_texts(tmp_path):
    encoder = load_encoder(BERT_TINY)
    out = export_package(
        encoder, out_dir=tmp_path / "package", rank=by_name(""), quantize="none", graph="standard", with_tokenizer=True
    )
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    packed = details["with_tokenizer"]
    assert packed["strings"] >= 1000
    assert packed["differing_kinds"] == ["NUL"]
    options = ort.SessionOptions()
    options.register_custom_ops_library(extensions_library())
    session = ort.InferenceSession(out / packed["file"], options, providers=["CPUExecutionProvider"])
    texts = ["The kettle whistled.", "Ångström's café"]
    (answer,) = session.run(["logits"], {packed["input"]: np.array(texts, dtype=object)})
    tokens = dict(AutoTokenizer.from_pretrained(out)(texts, padding=True, return_tensors="np"))
    plain = ort.InferenceSession(out / details["model_file"], providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(answer, plain.run(["logits"], tokens)[0])


def session_of_texts(file: Path, *, ids_alone: bool = False) -> ort.InferenceSession:
    """A file with the tokenizer inside, or the part of it that makes the ids."""
    model = ir.load(file)
    if ids_alone:
        made = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs[:] = [made["input_ids"], made["attention_mask"]]
        RemoveUnusedNodesPass()(model)
    options = ort.SessionOptions()
    options.register_custom_ops_library(extensions_library())
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[pytest.mark.weights, pytest.mark.slow] * (name == "bert")) for name in FAMILIES],
)
def test_a_trimmed_package_has_the_same_ids_everywhere(family, tmp_path_factory):
    trimmed, out = trimmed_once(tmp_path_factory, family), package_once(tmp_path_factory, family)
    details = verify(out, PackageManifest).details
    package, tokenizer = open_package(out), AutoTokenizer.from_pretrained(out)
    texts = texts_for(out)
    expected = ids_alone(trimmed / "trimmed", texts, details.max_length)
    tokens = package.tokenize(texts)
    assert rows_of(tokens["input_ids"], tokens["attention_mask"]) == expected
    assert tokenizer(texts, truncation=True)["input_ids"] == expected

    told, vectors = told_alike(trimmed)
    feeds = dict(tokenizer(told, padding=True, truncation=True, return_tensors="np"))
    plain = ort.InferenceSession(out / details.model_file, providers=["CPUExecutionProvider"])
    (answer,) = plain.run(["sentence_embedding"], feeds)
    assert (answer * vectors).sum(axis=1).min() > FEWER_BITS_MIN_COSINE
    np.testing.assert_allclose(package.embed(told, batch_size=len(told)), answer, atol=1e-5)

    packed = details.with_tokenizer
    assert (packed is not None) == (family in INSIDE)
    if packed is not None:
        session = session_of_texts(out / packed.file, ids_alone=True)
        found = rows_of(*session.run(None, {"text": np.array(texts, dtype=object)}))
        differ = [text for text, ids, wanted in zip(texts, found, expected, strict=True) if ids != wanted]
        most = len(texts) / (7 if family == "xlm-roberta" else 20)
        assert len(differ) == packed.strings - packed.equal < most  # those that the export has told
        assert set(differ).isdisjoint(PLAIN)
        given = {"text": np.array(told, dtype=object)}
        (inside,) = session_of_texts(out / packed.file).run(["sentence_embedding"], given)
        np.testing.assert_array_equal(inside, answer)


@pytest.mark.parametrize("quantize", ["none", *(pytest.param(q, marks=pytest.mark.slow) for q in ("int8", "int4"))])
def test_dense_layers_lie_in_the_graph_and_in_the_folder(tiny_folder, tmp_path, quantize):
    encoder = load_encoder(str(write_layers(tiny_folder())))
    rank = by_name(f"standard-{quantize}-0.onnx")
    out = export_package(encoder, out_dir=tmp_path / "package", rank=rank, quantize=quantize, graph="standard")
    details = verify(out, PackageManifest).details
    assert details.pooling is not None
    scheme = "fp32" if quantize == "none" else quantize
    assert (details.hidden_size, details.pooling.width, details.scheme) == (32, 40, scheme)
    assert details.parameters == encoder.parameters
    fp32 = next(one for one in details.candidates if one.name == "standard-fp32")
    assert fp32.parity is not None
    assert fp32.parity.min_cosine > 0.99999
    expected = vectors_by_hand(encoder, TEXTS)
    assert (open_package(out).embed(TEXTS) * expected).sum(axis=1).min() > FEWER_BITS_MIN_COSINE
    assert "vectors of 40;" in (out / "README.md").read_text()
    # sentence-transformers pools the graph's hidden states and goes through the folder's own modules.
    stock = load_encoder(str(write_layers(tiny_folder("stock"))))
    modules = read_dense_modules(out, 32)
    assert [layer.state_dict().keys() for layer in modules] == [layer.state_dict().keys() for layer in stock.dense]
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(torch.nn.Sequential(*modules)(hidden), torch.nn.Sequential(*stock.dense)(hidden))
