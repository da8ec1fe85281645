"""Work on a graph: constants and projections read and added, nodes put in the place of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Projection:
    """`x W + b` with constant W [K, N] and b [N]."""

    matmul: ir.Node
    add: ir.Node
    weight: NDArray[Any]
    bias: NDArray[Any]


def projection_of(value: ir.Value | None) -> Projection | None:
    """What makes a value, if that is a projection."""
    add = None if value is None else value.producer()
    if add is None or add.op_type != "Add":
        return None
    for product, addend in (add.inputs, add.inputs[::-1]):
        matmul, bias = None if product is None else product.producer(), array_of(addend)
        if matmul is None or matmul.op_type != "MatMul" or bias is None:
            continue
        weight = array_of(matmul.inputs[1])
        if weight is not None and weight.ndim == 2 and bias.shape == weight.shape[1:]:
            return Projection(matmul, add, weight, bias)
    return None


def add_projection(
    model: ir.Model, name: str, source: ir.Value | None, weight: NDArray[Any], bias: NDArray[Any], *, before: ir.Node
) -> ir.Value:
    """The value of a new projection, whose nodes stand before another."""
    weights, biases = add_constant(model, f"{name}.weight", weight), add_constant(model, f"{name}.bias", bias)
    product = ir.node("MatMul", [source, weights], name=f"{name}/MatMul")
    total = ir.node("Add", [product.outputs[0], biases], name=f"{name}/Add")
    model.graph.insert_before(before, [product, total])
    return total.outputs[0]


def put_in_place(model: ir.Model, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """Let the last of some new nodes answer in a node's place, under its answer's name."""
    graph, old, answer = model.graph, node.outputs[0], new[-1].outputs[0]
    graph.insert_before(node, new)
    answer.shape, answer.type = old.shape, old.type
    old.replace_all_uses_with(answer, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    name, old.name = old.name, None
    answer.name = name
