"""The portable graph and its rewrites, against torch and against the unrewritten graph."""

from __future__ import annotations

import gc
import linecache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch.fx.graph_module import _loader

from homoexport.encoder import Encoder, Pooling
from homoexport.errors import UserError
from homoexport.stages.export import graph
from homoexport.stages.export.attention import fold_mask, use_standard_attention
from homoexport.stages.export.forms import Form, NotThisForm, fused_base, variants_of, write_as
from homoexport.stages.export.fuse import merge_projections, split_projections, sum_residuals
from homoexport.stages.export.graph import torch_to_onnx
from homoexport.stages.export.surgery import array_of

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22"]


def run(file: Path, tokens: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session.run(None, tokens)


def save(model: ir.Model, file: Path) -> Path:
    ir.save(model, file)
    return file


UNFUSED = Form("unfused", merged=True)
FORMS = [
    Form(attention, merged, skip)
    for attention in ("standard", "flash", "multi-head")
    for merged in (False, True)
    for skip in (False, True)
]


def written(graph_file: Path, form: Form) -> ir.Model:
    """The exported graph in a form."""
    model = ir.load(graph_file)
    if form.attention != "unfused":
        model = fused_base(model, skip_layer_norm=form.skip_layer_norm)
    return write_as(model, form)


def tokens_of(encoder: Encoder, texts: list[str]) -> dict[str, np.ndarray]:
    return dict(encoder.tokenizer(texts, padding=True, return_tensors="np"))


@pytest.fixture
def encoder(tiny_encoder) -> Encoder:
    return tiny_encoder("sentence-similarity")


@pytest.fixture
def graph_file(exported) -> Path:
    return exported("sentence-similarity")


def sentence_oracle(encoder: Encoder, tokens: dict[str, np.ndarray], pooling: Pooling) -> np.ndarray:
    """Pooled by a loop over sentences, without their padding."""
    with torch.no_grad():
        hidden = encoder.model(**{name: torch.from_numpy(value) for name, value in tokens.items()}).last_hidden_state
    rows = []
    for states, length in zip(hidden.numpy(), tokens["attention_mask"].sum(axis=1), strict=True):
        row = states[0] if pooling.mode == "cls" else states[:length].mean(axis=0)
        rows.append(row / np.linalg.norm(row) if pooling.normalize else row)
    return np.stack(rows)


@pytest.mark.parametrize("pooling", [Pooling(mode="cls", normalize=True), Pooling(mode="mean", normalize=False)])
def test_pooling_lies_in_the_graph(encoder, tmp_path, pooling):
    encoder = Encoder(encoder.model, encoder.tokenizer, encoder.task, pooling, encoder.folder, encoder.source)
    file = save(write_as(torch_to_onnx(encoder, opset=18), UNFUSED), tmp_path / "portable.onnx")
    tokens = tokens_of(encoder, TEXTS)
    np.testing.assert_allclose(run(file, tokens)[0], sentence_oracle(encoder, tokens, pooling), atol=1e-5)


def test_mean_pooled_and_normalised_sentences(encoder, graph_file):
    tokens = tokens_of(encoder, TEXTS)
    np.testing.assert_allclose(run(graph_file, tokens)[0], sentence_oracle(encoder, tokens, Pooling()), atol=1e-5)


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction"])
def test_other_tasks_answer_as_torch(tiny_encoder, exported, tmp_path, task):
    encoder = tiny_encoder(task)
    file = save(write_as(ir.load(exported(task)), UNFUSED), tmp_path / "portable.onnx")
    tokens = tokens_of(encoder, TEXTS)
    with torch.no_grad():
        expected = encoder.model(**{name: torch.from_numpy(value) for name, value in tokens.items()})[0].numpy()
    present = tokens["attention_mask"].astype(bool)
    (actual,) = run(file, tokens)
    np.testing.assert_allclose(actual[present], expected[present], atol=1e-4)


def test_unfused_graph_has_standard_operators_and_dynamic_axes(encoder, graph_file, tmp_path):
    file = save(write_as(ir.load(graph_file), UNFUSED), tmp_path / "portable.onnx")
    model = onnx.load(file)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(item.domain, item.version) for item in model.opset_import if item.domain == ""] == [("", 18)]
    assert [value.name for value in model.graph.input] == list(encoder.tokenizer.model_input_names)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param for dim in dims] == ["batch", "sequence"]
    for texts in (["w1"], ["w1 w2 w3 w4 w5"] * 7, ["w9 " * 60]):
        tokens = tokens_of(encoder, texts)
        sentence, hidden = run(file, tokens)
        assert sentence.shape == (len(texts), 32)
        assert hidden.shape == (*tokens["input_ids"].shape, 32)


@pytest.mark.parametrize("form", [UNFUSED, Form("unfused"), *FORMS], ids=lambda form: form.name)
def test_every_form_equals_the_exported_graph(encoder, graph_file, tmp_path, form):
    tokens = tokens_of(encoder, TEXTS)
    present = tokens["attention_mask"].astype(bool)
    expected, hidden = run(graph_file, tokens)
    actual, rewritten_hidden = run(save(written(graph_file, form), tmp_path / "rewritten.onnx"), tokens)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(rewritten_hidden[present], hidden[present], atol=1e-4)


def operators_of(model: ir.Model) -> list[str]:
    return [f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph]


def test_rewrites_find_every_layer(graph_file):
    model = ir.load(graph_file)
    before = operators_of(model).count("MatMul")
    merge_projections(model)
    assert operators_of(model).count("MatMul") == before - 4
    split_projections(model)
    assert operators_of(model).count("MatMul") == before
    sum_residuals(model)
    assert operators_of(model).count("Sum") == 5  # two a layer, and the embeddings'
    operators = operators_of(written(graph_file, Form("multi-head")))
    counted = ("com.microsoft.MultiHeadAttention", "com.microsoft.Gelu", "Sum", "Split")
    assert [operators.count(name) for name in counted] == [2, 2, 5, 0]
    operators = operators_of(written(graph_file, Form("multi-head", merged=True, skip_layer_norm=True)))
    counted = ("com.microsoft.SkipLayerNormalization", "com.microsoft.BiasGelu", "Split")
    assert [operators.count(name) for name in counted] == [4, 2, 2]


def test_standard_form_has_standard_operators_alone(graph_file):
    model = written(graph_file, Form("standard"))
    assert {node.domain for node in model.graph} == {""}
    assert model.opset_imports[""] == 23
    operators = operators_of(model)
    assert [operators.count(name) for name in ("Attention", "Gelu", "Softmax")] == [2, 2, 0]


def test_flash_form_has_its_mask_in_one_more_dimension_of_each_head(graph_file):
    model = written(graph_file, Form("flash"))
    (first, second) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert [value is None for value in first.inputs] == [False] * 3  # no bias
    assert first.attributes["scale"].as_float() == pytest.approx(8**-0.5)  # of the heads as they were
    weights = [array_of(node.inputs[1]) for node in model.graph if node.op_type == "MatMul"]
    widths = [weight.shape[1] for weight in weights if weight is not None]
    assert sorted(widths) == sorted([4 * 9, 4 * 9, 32, 32, 64, 32] * 2)
    columns = {node.inputs[1].producer().inputs[1] for node in (first, second)}
    assert len(columns) == 1  # computed once for all layers


def test_a_bias_of_queries_and_keys_is_not_folded(graph_file):
    model = fused_base(ir.load(graph_file), skip_layer_norm=False)
    split_projections(model)
    for node in model.graph:
        if node.op_type == "MultiHeadAttention":
            node.inputs[5].producer().inputs[0].shape = ir.Shape(["batch", 1, "sequence", "sequence"])
    assert fold_mask(model) == 0
    assert use_standard_attention(model) == 2


def test_variants_change_one_thing_each(graph_file):
    assert variants_of(Form("flash")) == (Form("flash", merged=True), Form("flash", skip_layer_norm=True))
    assert variants_of(UNFUSED) == (Form("unfused"),)


def test_no_form_takes_newer_operators_than_it_may(graph_file):
    base = fused_base(ir.load(graph_file), skip_layer_norm=False)
    with pytest.raises(NotThisForm, match="opset 23"):
        write_as(base, Form("standard"), max_opset=22)


def test_newer_opset_is_written_and_the_model_left_alone(encoder):
    before = encoder.model.config._attn_implementation
    assert torch_to_onnx(encoder, opset=20).opset_imports[""] == 20
    assert encoder.model.config._attn_implementation == before
    assert all(parameter.requires_grad for parameter in encoder.model.parameters())


def test_an_opset_that_is_not_there_and_too_big_a_model_are_refused(encoder, monkeypatch):
    with pytest.raises(UserError, match="there is no opset 99"):
        torch_to_onnx(encoder, opset=99)
    monkeypatch.setattr(graph, "MAX_PARAMETER_BYTES", 1000)
    with pytest.raises(UserError, match="one ONNX file holds 2 GB"):
        torch_to_onnx(encoder, opset=18)


def test_an_export_keeps_nothing_of_what_was_traced(encoder):
    def kept() -> tuple[int, int]:
        torch_to_onnx(encoder, opset=20)
        gc.collect()
        traced = sum(type(each).__name__ in ("FakeTensor", "SymNode") for each in gc.get_objects())
        return traced, len(linecache.cache) + len(_loader.eval_cache)

    kept()
    first = kept()
    assert kept() == first
