"""Dynamic int8 against onnxruntime's own quantizer, which makes the same of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from homoexport.stages.export.dynamic import quantize_columns, quantize_products

SCHEMES = {
    "signed": ({"low": -127, "high": 127}, {"weight_type": QuantType.QInt8}),
    "7 bits": ({"low": -64, "high": 64}, {"weight_type": QuantType.QInt8, "reduce_range": True}),
    "unsigned": ({"low": 0, "high": 255}, {"weight_type": QuantType.QUInt8}),
}


def _weights():
    chance = np.random.default_rng(0)
    query, key, last = (chance.normal(size=size).astype(np.float32) for size in ((16, 24), (16, 8), (24, 5)))
    key[:, 3] = 0  # a column without any value
    query[:, 5] = np.abs(query[:, 5])  # and one without a negative one
    return {"query": query, "key": key, "last": last, "bias": chance.normal(size=24).astype(np.float32)}


@pytest.fixture
def file(tmp_path):
    """Two products of one value, one of them with a bias, a product of two values, and a last one."""
    nodes = [
        helper.make_node("MatMul", ["x", "query"], ["xq"], "first"),
        helper.make_node("Add", ["xq", "bias"], ["queries"]),
        helper.make_node("MatMul", ["x", "key"], ["keys"], "second"),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "queries"], ["scores"], "of values"),
        helper.make_node("MatMul", ["scores", "last"], ["y"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 5])],
        [numpy_helper.from_array(array, name) for name, array in _weights().items()],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _answer(path):
    x = np.random.default_rng(1).normal(size=(3, 7, 16)).astype(np.float32)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("keep", [(), ("second",)], ids=["all", "one kept"])
def test_it_is_what_onnxruntime_makes(file, tmp_path, scheme, keep):
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    limits, settings = SCHEMES[scheme]
    model = ir.load(file)
    quantize_products(model, **limits, keep=keep)
    ir.save(model, ours)
    quantize_dynamic(
        file, theirs, op_types_to_quantize=["MatMul"], per_channel=True, nodes_to_exclude=list(keep), **settings
    )
    np.testing.assert_allclose(_answer(ours), _answer(theirs), rtol=1e-5, atol=1e-5)
    graphs = [onnx.load(path).graph for path in (ours, theirs)]
    counts = [sorted(node.op_type for node in graph.node) for graph in graphs]
    assert counts[0] == counts[1]
    assert counts[0].count("MatMulInteger") == 3 - len(keep)
    assert counts[0].count("DynamicQuantizeLinear") == 2
    arrays = [
        {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
        for path in (ours, theirs)
    ]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)
        assert array.dtype == arrays[1][name].dtype


def test_columns_are_as_near_as_8_bits_can_be():
    weight = np.random.default_rng(2).normal(size=(3, 40, 30)).astype(np.float32)
    for low, high in ((-127, 127), (-64, 64), (0, 255)):
        values, scales, zeros = quantize_columns(weight, low, high)
        assert values.min() >= low
        assert values.max() <= high
        error = np.abs((values.astype(np.float32) - zeros) * scales - weight)
        assert (error <= scales * 0.501).all()
