"""Answers of a graph on a target, to texts of two kinds of tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from homoexport.stages.measure import answers_of_file

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture
def graph_of_pairs(tmp_path: Path) -> Path:
    """A graph whose answer says both of a token's numbers: 100 times the type, and the id, where there is a token."""
    nodes = [
        helper.make_node("Mul", ["token_type_ids", "hundred"], ["hundreds"]),
        helper.make_node("Add", ["hundreds", "input_ids"], ["both"]),
        helper.make_node("Mul", ["both", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["logits"], to=TensorProto.FLOAT),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(100), "hundred")],
    )
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


@pytest.mark.parametrize("second", [0, 1], ids=["one-text", "pairs"])
def test_a_target_gets_the_token_types_of_each_batch(graph_of_pairs: Path, second: int) -> None:
    ids = np.array([[2, 7, 3, 8, 3], [2, 9, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    types = second * np.array([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])
    batches = [dict(zip(INPUTS, (ids, mask, types), strict=True)), {"input_ids": ids, "attention_mask": mask}]
    ask = partial(answers_of_file, device="cpu", pad_token_id=0, output="logits")
    both, alone = ask(graph_of_pairs, batches)
    np.testing.assert_array_equal(both, (100 * types + ids) * mask)
    np.testing.assert_array_equal(alone, ids * mask)
