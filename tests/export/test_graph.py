"""The portable graph and its rewrites, against torch and against the unrewritten graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from homoexport.encoder import Encoder, Pooling
from homoexport.errors import UserError
from homoexport.export import graph
from homoexport.export.fuse import (
    make_fused,
    make_fused_attention,
    make_fused_skip_layer_norm,
    make_portable,
    merge_projections,
    sum_residuals,
)
from homoexport.export.graph import torch_to_onnx
from homoexport.export.quantize import quantize_int8

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


@pytest.mark.parametrize("pooling", [Pooling("cls", True), Pooling("mean", False)])
def test_pooling_lies_in_the_graph(encoder, tmp_path, pooling):
    encoder = Encoder(encoder.model, encoder.tokenizer, encoder.task, pooling, encoder.folder, encoder.source)
    file = save(make_portable(torch_to_onnx(encoder, opset=18)), tmp_path / "portable.onnx")
    tokens = tokens_of(encoder, TEXTS)
    np.testing.assert_allclose(run(file, tokens)[0], sentence_oracle(encoder, tokens, pooling), atol=1e-5)


def test_mean_pooled_and_normalised_sentences(encoder, graph_file):
    tokens = tokens_of(encoder, TEXTS)
    np.testing.assert_allclose(run(graph_file, tokens)[0], sentence_oracle(encoder, tokens, Pooling()), atol=1e-5)


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction"])
def test_other_tasks_answer_as_torch(tiny_encoder, exported, tmp_path, task):
    encoder = tiny_encoder(task)
    file = save(make_portable(ir.load(exported(task))), tmp_path / "portable.onnx")
    tokens = tokens_of(encoder, TEXTS)
    with torch.no_grad():
        expected = encoder.model(**{name: torch.from_numpy(value) for name, value in tokens.items()})[0].numpy()
    present = tokens["attention_mask"].astype(bool)
    (actual,) = run(file, tokens)
    np.testing.assert_allclose(actual[present], expected[present], atol=1e-4)


def test_portable_graph_has_standard_operators_and_dynamic_axes(encoder, graph_file, tmp_path):
    file = save(make_portable(ir.load(graph_file)), tmp_path / "portable.onnx")
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


@pytest.mark.parametrize("rewrite", [make_portable, make_fused, make_fused_skip_layer_norm, make_fused_attention])
def test_rewritten_graphs_equal_the_exported_one(encoder, graph_file, tmp_path, rewrite):
    tokens = tokens_of(encoder, TEXTS)
    present = tokens["attention_mask"].astype(bool)
    expected, hidden = run(graph_file, tokens)
    actual, rewritten_hidden = run(save(rewrite(ir.load(graph_file)), tmp_path / "rewritten.onnx"), tokens)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(rewritten_hidden[present], hidden[present], atol=1e-4)


def test_rewrites_find_every_layer(graph_file):
    model = ir.load(graph_file)
    before = sum(node.op_type == "MatMul" for node in model.graph)
    assert merge_projections(model) == 2
    assert sum(node.op_type == "MatMul" for node in model.graph) == before - 4
    assert sum_residuals(model) == 5  # two a layer, and the embeddings'
    operators = [node.op_type for node in make_fused(ir.load(graph_file)).graph]
    assert (operators.count("MultiHeadAttention"), operators.count("Gelu")) == (2, 2)
    assert "SkipLayerNormalization" not in operators
    operators = [node.op_type for node in make_fused_skip_layer_norm(ir.load(graph_file)).graph]
    assert (operators.count("MultiHeadAttention"), operators.count("SkipLayerNormalization")) == (2, 4)
    operators = [node.op_type for node in make_fused_attention(ir.load(graph_file)).graph]
    assert (operators.count("Attention"), operators.count("MatMul")) == (2, 6)


@pytest.mark.parametrize("rewrite", [make_portable, make_fused, make_fused_skip_layer_norm])
def test_int8_leaves_no_matrix_in_fp32(graph_file, tmp_path, rewrite):
    fp32 = save(rewrite(ir.load(graph_file)), tmp_path / "fp32.onnx")
    int8 = tmp_path / "int8.onnx"
    quantize_int8(fp32, int8)
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(int8).graph.initializer}
    assert [name for name, array in constants.items() if array.ndim == 2 and array.dtype == np.float32] == []
    eight_bits = [array for array in constants.values() if array.ndim == 2 and array.itemsize == 1]
    # embeddings: words, positions, token types; each layer: query-key-value, attention output, FFN in and out
    assert sorted(array.shape for array in eight_bits) == sorted(
        [(100, 32), (64, 32), (2, 32), *[(32, 96), (32, 32), (32, 64), (64, 32)] * 2]
    )


def test_newer_opset_is_written_and_the_model_left_alone(encoder):
    before = encoder.model.config._attn_implementation
    assert torch_to_onnx(encoder, opset=20).opset_imports[""] == 20
    assert encoder.model.config._attn_implementation == before
    assert all(parameter.requires_grad for parameter in encoder.model.parameters())


def test_old_opset_and_too_big_a_model_are_refused(encoder, monkeypatch):
    with pytest.raises(UserError, match="opset 17 is too old"):
        torch_to_onnx(encoder, opset=17)
    monkeypatch.setattr(graph, "MAX_PARAMETER_BYTES", 1000)
    with pytest.raises(UserError, match="one ONNX file holds 2 GB"):
        torch_to_onnx(encoder, opset=18)
