"""Dynamic int8: weights in 8 bits, a scale for each output column; activations in 8 bits, scaled as they come.

It is what `onnxruntime.quantization.quantize_dynamic` makes of products by channel, and a test holds it against that.
But that takes seconds where this takes a tenth of one, and every candidate graph is quantized.

K inputs of a product, N outputs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from homoexport.stages.export.surgery import add_constant, array_of, put_in_place

_TINY = np.finfo(np.float32).tiny


class Columns(NamedTuple):
    """A weight in 8 bits, signed or not, and for each output column [N] what a step is worth, and what stands for 0."""

    values: NDArray[Any]
    scales: NDArray[np.float32]
    zeros: NDArray[Any]


def quantize_columns(weight: NDArray[np.float32], low: int, high: int) -> Columns:
    """A weight [..., K, N] in whole numbers from `low` to `high`: about 0 where `low` is below it, else from 0 on."""
    signed, others = low < 0, tuple(range(weight.ndim - 1))
    least, most = np.minimum(weight.min(axis=others), 0), np.maximum(weight.max(axis=others), 0)
    if signed:
        most = np.maximum(-least, most)
        least = -most
    scales = (most.astype(np.float64) - least) / (high - low)
    scales = np.where(scales < _TINY, 1.0, scales).astype(np.float32)
    zeros = np.zeros_like(scales) if signed else np.rint(-least / scales)
    kind = np.int8 if signed else np.uint8
    values = np.clip(np.rint(weight / scales) + zeros, low, high)
    return Columns(values.astype(kind), scales, zeros.astype(kind))


def quantize_products(model: ir.Model, *, low: int, high: int, keep: Collection[str] = ()) -> None:
    """Let every product with a constant matrix, but for those of the names in `keep`, be one of integers, in place."""
    inputs: dict[ir.Value, ir.Node] = {}  # products of one value share what it is rounded to
    weights: dict[ir.Value, list[ir.Value]] = {}
    for node in list(model.graph):
        weight = array_of(node.inputs[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.dtype != np.float32 or weight.ndim < 2 or node.name in keep:
            continue
        value, matrix = node.inputs[0], node.inputs[1]
        assert value is not None
        assert matrix is not None
        if matrix not in weights:
            parts = zip(("quantized", "scale", "zero_point"), quantize_columns(weight, low, high), strict=True)
            weights[matrix] = [add_constant(model, f"{matrix.name}_{part}", array) for part, array in parts]
        if value not in inputs:
            inputs[value] = ir.node("DynamicQuantizeLinear", [value], num_outputs=3)
            model.graph.insert_before(node, inputs[value])
        (whole, step, zero), (stored, scale, zero_point) = inputs[value].outputs, weights[matrix]
        product = ir.node("MatMulInteger", [whole, stored, zero, zero_point])
        as_fp32 = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        scales = ir.node("Mul", [step, scale])
        scaled = ir.node("Mul", [as_fp32.outputs[0], scales.outputs[0]])
        put_in_place(model, node, [product, as_fp32, scales, scaled])
    RemoveUnusedNodesPass()(model)
