"""Graphs in OpenVINO's operators: the same answers, and int8 where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import openvino
import pytest

from homoexport.stages.export.calibrate import calibrate
from homoexport.stages.export.forms import Form, write_as
from homoexport.stages.export.openvino_graph import as_openvino, quantize_products
from homoexport.stages.export.quantize import products_of

TOKENS = {
    "input_ids": np.array([[2, 9, 8, 7, 3, 0, 0], [2, 5, 6, 7, 8, 9, 3]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1, 0, 0], [1] * 7]),
}


@pytest.fixture
def file(exported) -> Path:
    return exported("sentence-similarity")


def answer(model: openvino.Model) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(TOKENS)["sentence_embedding"]


def of_type(model: openvino.Model, kind: str) -> list[openvino.Node]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def added_to_scores(model: openvino.Model) -> set[str]:
    adds = [node.input_value(0).get_node() for node in of_type(model, "Softmax")]
    return {add.input_value(index).get_node().get_type_name() for add in adds for index in range(2)}


def test_attention_is_as_it_fuses_best_and_answers_the_same(file):
    plain, ours = openvino.Core().read_model(file), as_openvino(file)
    assert "Broadcast" in added_to_scores(plain)  # the mask is spread, and keys are turned
    assert "Broadcast" not in added_to_scores(ours)
    orders = [tuple(node.input_value(1).get_node().data) for node in of_type(ours, "Transpose")]
    assert (0, 2, 3, 1) in [tuple(node.input_value(1).get_node().data) for node in of_type(plain, "Transpose")]
    assert set(orders) == {(0, 2, 1, 3)}
    np.testing.assert_allclose(answer(ours), answer(plain), atol=1e-6)


def test_one_product_of_queries_keys_and_values_is_parted_without_copies(file, tmp_path):
    merged = tmp_path / "merged.onnx"
    ir.save(write_as(ir.load(file), Form("unfused", merged=True)), merged)
    plain, ours = openvino.Core().read_model(merged), as_openvino(merged)
    assert len(of_type(plain, "VariadicSplit")) == 2  # layers
    assert not of_type(ours, "VariadicSplit")
    assert {int(node.input_value(1).get_node().data) for node in of_type(ours, "Split")} == {0}
    np.testing.assert_allclose(answer(ours), answer(plain), atol=1e-6)


def test_vectors_are_pooled_by_sums(file):
    plain, ours = openvino.Core().read_model(file), as_openvino(file)
    products = [
        len([one for one in of_type(model, "MatMul") if one.output(0).get_partial_shape()[1] == 1])
        for model in (plain, ours)
    ]
    assert products == [1, 0]


def test_products_alone_are_in_int8(file, tmp_path):
    texts = [{name: values[row : row + 1] for name, values in TOKENS.items()} for row in (0, 1)]
    ranges = calibrate(file, texts, method="min-max", work=tmp_path)
    products, expected = products_of(file), answer(as_openvino(file))
    model = as_openvino(file)
    quantize_products(model, ranges, keep=products[:1])
    quantized = of_type(model, "FakeQuantize")
    users = [port.get_node() for node in quantized for port in node.output(0).get_target_inputs()]
    assert {node.get_type_name() for node in users} == {"MatMul"}  # residuals are in floats
    assert sorted(node.get_friendly_name() for node in users) == sorted(products[1:])
    weights = [node for node in of_type(model, "Constant") if node.get_element_type() == openvino.Type.i8]
    assert len(weights) == len(products) - 1
    assert np.abs(answer(model) - expected).max() < 0.05
    assert np.abs(answer(model) - expected).max() > 0


def test_attention_is_in_int8_where_it_is_asked_for(file, tmp_path):
    """Also where keys are turned, and queries, keys and values parted, by other nodes than the ONNX file's."""
    merged = tmp_path / "merged.onnx"
    ir.save(write_as(ir.load(file), Form("unfused", merged=True)), merged)
    texts = [{name: values[row : row + 1] for name, values in TOKENS.items()} for row in (0, 1)]
    expected = answer(as_openvino(file))
    for source in (file, merged):
        ranges, model = calibrate(source, texts, method="min-max", work=tmp_path), as_openvino(source)
        quantize_products(model, ranges, attention=True)
        products = [node for node in of_type(model, "MatMul") if node.get_output_partial_shape(0).rank == 4]
        operands = [node.input_value(index).get_node() for node in products for index in range(2)]
        assert len(operands) == 2 * 2 * 2  # layers, products of each, operands of each
        assert {node.get_type_name() for node in operands} == {"FakeQuantize"}
        lowest = [float(node.input_value(1).get_node().data) for node in operands]
        highest = [float(node.input_value(2).get_node().data) for node in operands]
        of_probabilities = [low == 0 for low in lowest]
        assert sum(of_probabilities) == 2
        np.testing.assert_allclose(
            [low / -128 for low, positive in zip(lowest, of_probabilities, strict=True) if not positive],
            [high / 127 for high, positive in zip(highest, of_probabilities, strict=True) if not positive],
            rtol=1e-5,
        )
        assert 0 < np.abs(answer(model) - expected).max() < 0.05
