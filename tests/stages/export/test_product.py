"""Product quantization of words: codes against a search by hand, the graph against the table they stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from homoexport.errors import UserError
from homoexport.stages.export.product import gather_product, product_codes


def _table(rows, width=12):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_each_code_is_the_nearest_of_its_values():
    table = _table(1000)
    found = product_codes(table)
    assert found.codes.shape == (1000, 3)
    assert found.values.shape == (3, 256, 4)
    for number in range(3):
        part, values = table[:, 4 * number : 4 * number + 4], found.values[number].astype(np.float32)
        distances = ((part[:, None] - values[None]) ** 2).sum(2)
        chosen = distances[np.arange(1000), found.codes[:, number]]
        assert (chosen <= distances.min(1) + 1e-2).all()  # values are fp16, and the last round moved them
    error = ((found.rows() - table) ** 2).sum() / (table**2).sum()
    assert error < 0.1  # of numbers by chance, 1,000 of them for 256 values; by 2 bits a number each alone it is 0.12


def test_few_different_rows_are_kept_as_they_are():
    table = _table(100)[np.arange(3000) % 100]
    np.testing.assert_allclose(product_codes(table).rows(), table, rtol=1e-3, atol=1e-4)


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"--embeddings pq: the table is 10 wide, and a code stands for 4 numbers"):
        product_codes(_table(300, 10))


def test_the_graph_looks_up_what_the_codes_stand_for():
    table = _table(300)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    out = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "length", 12])
    node = helper.make_node("Gather", ["table", "input_ids"], ["rows"])
    graph = helper.make_graph([node], "words", [ids], [out], [numpy_helper.from_array(table, "table")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = ir.from_proto(made)
    gather_product(model, "table", table, list(model.graph))
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    places = np.array([[0, 5, 299], [7, 7, 1]])
    (rows,) = session.run(None, {"input_ids": places})
    np.testing.assert_array_equal(rows, product_codes(table).rows()[places])
