"""Work on a graph: constants read and added, nodes put in the place of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initializer or a Constant node, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of the model's graph."""
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    model.graph.register_initializer(value)
    return value


def put_in_place(model: ir.Model, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """Let the last of some new nodes answer in a node's place, under its answer's name."""
    graph, old, answer = model.graph, node.outputs[0], new[-1].outputs[0]
    graph.insert_before(node, new)
    answer.shape, answer.type = old.shape, old.type
    old.replace_all_uses_with(answer, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    name, old.name = old.name, None
    answer.name = name
