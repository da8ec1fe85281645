"""A graph in OpenVINO's own operators: attention as its CPU plugin fuses it best, and int8 products.

OpenVINO fuses graphs by itself, when it compiles them. What it is given decides what it finds: see each function.

B batch, H heads, S sequence, K input channels, N outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import TensorsData

_LEVELS = 256  # of an activation of 8 bits
_LARGEST = 127  # of a weight, so that 0 is in the middle
_EITHER_WAY = 2  # operands of an addition or a product
_PARTS = 3  # of a product that is queries, keys and values
_UNIT = (-1.0, 1.0)


def as_openvino(file: Path) -> openvino.Model:
    """An unfused ONNX file for OpenVINO; it answers the same."""
    model = openvino.Core().read_model(file)
    _narrow_masks(model)
    _turn_keys(model)
    _part_heads_once(model)
    _sum_tokens(model)
    model.validate_nodes_and_infer_types()
    return model


def save(model: openvino.Model, file: Path, *, halved: bool) -> None:
    """Write a model as .xml and .bin, float weights in fp16 if they are to be halved."""
    openvino.save_model(model, file, compress_to_fp16=halved)


def quantize_products(
    model: openvino.Model, ranges: TensorsData | None, *, keep: Collection[str] = (), attention: bool = False
) -> None:
    """Have products with a constant matrix [K, N] computed in int8, in place, but for those of the names in `keep`.

    A weight is signed, with a scale for each of its N columns; an activation unsigned, with one scale, from the range
    of its tensor in the ONNX file; without ranges from -1 to 1, which is good for timing alone. The activation is
    quantized for the products alone: what adds it to something, as a residual, has it in floats.

    With `attention` so are its two products, of queries and keys [B, H, S, D], and of probabilities [B, H, S, S] and
    values: that pays on processors without products in bf16, in which they are computed otherwise. Their operands are
    signed where they can be negative, with 0 in the middle, without which OpenVINO computes them in floats.
    """
    inputs: dict[str, openvino.Output] = {}

    def in_8_bits(value: openvino.Output, *, centred: bool = False) -> openvino.Output | None:
        """A value in 8 bits; None where its range is not known."""
        known = value.get_names() if ranges is None else value.get_names() & ranges.keys()
        name = next(iter(known), None)
        if name is None:
            return None
        if name not in inputs:
            low, high = _UNIT if ranges is None else ranges[name].range_value
            inputs[name] = _quantized(value, low, high, centred=centred)
        return inputs[name]

    for product in list(_of_type(model, "MatMul")):
        weight = _constant(product.input_value(1).get_node())
        if weight is None and attention and product.get_output_partial_shape(0).rank == len("BHSS"):
            values = [in_8_bits(product.input_value(index), centred=True) for index in range(_EITHER_WAY)]
        elif weight is not None and weight.ndim == 2 and product.get_friendly_name() not in keep:
            values = [in_8_bits(product.input_value(0))]
        else:
            continue
        if None in values:
            continue
        for index, value in enumerate(values):
            product.input(index).replace_source_output(value)
        if weight is not None:
            product.input(1).replace_source_output(_per_column(weight, turned=product.get_attributes()["transpose_b"]))
    model.validate_nodes_and_infer_types()


def _narrow_masks(model: openvino.Model) -> None:
    """Add masks to scores as they are, [B, 1, 1, S].

    They are spread to [B, 1, S, S] for onnxruntime's fused attention, and nobody adds less for that.
    """
    for softmax in _of_type(model, "Softmax"):
        add = softmax.input_value(0).get_node()
        if add.get_type_name() != "Add":
            continue
        for index in range(_EITHER_WAY):
            spread = add.input_value(index).get_node()
            if spread.get_type_name() == "Broadcast":
                add.input(index).replace_source_output(spread.input_value(0))


def _turn_keys(model: openvino.Model) -> None:
    """Have products turn their second operand themselves, where a transpose moves its innermost axis, D.

    Scores are Q K^T, and keys [B, S, H, D] come as [B, H, D, S] out of a transpose that nothing is fused with.
    """
    for product in list(_of_type(model, "MatMul")):
        turn = product.input_value(1).get_node()
        order = _constant(turn.input_value(1).get_node()) if turn.get_type_name() == "Transpose" else None
        if order is None or len(order) < 2 or order[-2] != len(order) - 1:
            continue
        kept = np.concatenate([order[:-2], order[:-3:-1]])
        attributes = product.get_attributes()
        straight = ops.transpose(turn.input_value(0), ops.constant(kept))
        straight.output(0).set_names(turn.output(0).get_names())  # its values have the range that goes by that name
        turned = ops.matmul(product.input_value(0), straight, attributes["transpose_a"], not attributes["transpose_b"])
        turned.set_friendly_name(product.get_friendly_name())
        for user in product.output(0).get_target_inputs():
            user.replace_source_output(turned.output(0))


def _part_heads_once(model: openvino.Model) -> None:
    """Take queries, keys and values [B, H, S, D] out of one product by one transpose, and not by three copies.

    A product that is all three of them is split along its innermost axis, which copies, and each part is reshaped and
    transposed; along the outermost axis a split copies nothing.
    """
    for split in list(_of_type(model, "VariadicSplit")):
        parts = [_part_of_heads(output) for output in split.outputs()]
        if len(parts) != _PARTS or len({part and part[1:] for part in parts}) > 1 or parts[0] is None:
            continue
        _, heads, width = parts[0]
        apart = ops.reshape(split.input_value(0), ops.constant(np.array([0, 0, _PARTS, heads, width])), True)
        turned = ops.split(ops.transpose(apart, ops.constant(np.array([2, 0, 3, 1, 4]))), ops.constant(0), _PARTS)
        for part, output in zip(parts, turned.outputs(), strict=True):
            assert part is not None
            value = ops.squeeze(output, ops.constant(np.array([0])))
            value.output(0).set_names(part[0].output(0).get_names())
            for user in part[0].output(0).get_target_inputs():
                user.replace_source_output(value.output(0))


def _part_of_heads(output: openvino.Output) -> tuple[openvino.Node, int, int] | None:
    """The transpose that makes heads [B, H, S, D] of a part [B, S, H D], with H and D; None where there is none."""
    reshape = _only_user(output, "Reshape")
    transpose = None if reshape is None else _only_user(reshape.output(0), "Transpose")
    if reshape is None or transpose is None:
        return None
    order = _constant(transpose.input_value(1).get_node())
    whole, width = output.get_partial_shape()[2], reshape.output(0).get_partial_shape()[3]
    if order is None or order.tolist() != [0, 2, 1, 3] or whole.is_dynamic or width.is_dynamic:
        return None
    return transpose, whole.get_length() // width.get_length(), width.get_length()


def _only_user(output: openvino.Output, kind: str) -> openvino.Node | None:
    users = [target.get_node() for target in output.get_target_inputs()]
    return users[0] if len(users) == 1 and users[0].get_type_name() == kind else None


def _sum_tokens(model: openvino.Model) -> None:
    """Pool by weighing and adding, where a product of weights [B, 1, S] and states [B, S, D] would be slower."""
    for product in list(_of_type(model, "MatMul")):
        weights, states = product.input_value(0), product.input_value(1)
        shapes = weights.get_partial_shape(), states.get_partial_shape()
        if any(shape.rank.is_dynamic or shape.rank.get_length() != len("BSD") for shape in shapes):
            continue
        if shapes[0][1] != 1 or any(product.get_attributes().values()):
            continue
        weighed = ops.multiply(ops.reshape(weights, ops.constant(np.array([0, -1, 1])), True), states)  # [B, S, D]
        pooled = ops.reduce_sum(weighed, ops.constant(np.array([1])), True)
        for user in product.output(0).get_target_inputs():
            user.replace_source_output(pooled.output(0))


def _of_type(model: openvino.Model, kind: str) -> Iterator[openvino.Node]:
    return (node for node in model.get_ordered_ops() if node.get_type_name() == kind)


def _constant(node: openvino.Node) -> NDArray[Any] | None:
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def _quantized(value: openvino.Output, low: Any, high: Any, *, centred: bool = False) -> openvino.Output:
    """A value in 256 steps that 0 is one of: the middle one, if it is to be and some values are negative."""
    low, high = min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0)
    if centred and low < 0:
        low = -max(-low, high * (_LEVELS // 2) / _LARGEST)
        high = -low * _LARGEST / (_LEVELS // 2)
    step = (high - low) / (_LEVELS - 1) or 1.0
    zero = round(-low / step)
    ends = [np.float32(-zero * step), np.float32((_LEVELS - 1 - zero) * step)]
    return ops.fake_quantize(value, *ends, *ends, _LEVELS).output(0)


def _per_column(weight: NDArray[np.float32], *, turned: bool) -> openvino.Output:
    """A weight [K, N], or [N, K] if it is turned, as int8 numbers times scales."""
    largest = np.abs(weight).max(axis=1 if turned else 0, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / _LARGEST).astype(np.float32)
    stored = np.rint(weight / scale).astype(np.int8)
    return ops.multiply(ops.convert(ops.constant(stored), "f32"), ops.constant(scale)).output(0)
