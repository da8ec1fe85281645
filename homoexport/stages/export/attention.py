"""Attention in the operators that a runtime may have a fast kernel for; all give the same answer.

onnxscript fuses a graph's attention into `com.microsoft.MultiHeadAttention`. From there:

standard    ONNX's own `Attention` (operator set 23), which ONNX Runtime computes without moving the heads apart first.
flash       MultiHeadAttention without a mask, for which ONNX Runtime has a kernel that never writes the [S, S] scores
            (FlashAttention, arXiv 2205.14135). The mask goes into the keys: each head gets one dimension more, 1 in
            every query and the mask's bias in every key, so that q.k + bias comes out of the same product.

Of an int8 MiniLM's attention at 8 x 384 tokens, flash takes 28 ms a layer, MultiHeadAttention with a mask 40 ms; at
1 x 16 the standard operator takes 19 us and the others 27 to 34 us (one thread of a Zen 4).

B batch, S sequence, H heads, d width of a head.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.version_converter import convert_version

from homoexport.stages.export.surgery import Projection, add_constant, projection_of, put_in_place

MICROSOFT = "com.microsoft"
STANDARD_OPSET = 23  # the first with Attention
MASKED = -1e4  # exp(-1e4) is 0 in fp32, and no product with it overflows
_BIAS = 5  # of MultiHeadAttention's inputs: query, key, value, bias, key_padding_mask, attention_bias


def use_standard_attention(model: ir.Model) -> int:
    """Write every MultiHeadAttention as ONNX's own Attention, in place, and say how many; then it is of opset 23."""
    rewritten = 0
    for node in _attentions(model):
        if any(value is not None for value in node.inputs[3:_BIAS]):
            continue
        heads = node.attributes["num_heads"].as_int()
        attributes: dict[str, int | float] = {"q_num_heads": heads, "kv_num_heads": heads}
        if "scale" in node.attributes:
            attributes["scale"] = node.attributes["scale"].as_float()
        put_in_place(model, node, [ir.node("Attention", [*node.inputs[:3], _bias_of(node)], attributes=attributes)])
        rewritten += 1
    if rewritten and model.opset_imports[""] < STANDARD_OPSET:
        convert_version(model, target_version=STANDARD_OPSET)
    return rewritten


def fold_mask(model: ir.Model) -> int:
    """Put a mask over keys into the keys themselves, in place, wherever the attention's bias is [B, 1, 1, S].

    Relative positions and local windows are of pairs of a query and a key, and stay as they are. The answer is how
    many attentions do without a bias now.
    """
    folded = 0
    columns: dict[tuple[ir.Value, int, int, float], ir.Value] = {}
    for node in _attentions(model):
        mask, query, key = _key_mask_of(node), projection_of(node.inputs[0]), projection_of(node.inputs[1])
        if mask is None or query is None or key is None:
            continue
        if any(len(projection.add.outputs[0].uses()) != 1 for projection in (query, key)):
            continue
        heads = node.attributes["num_heads"].as_int()
        width = len(query.bias) // heads
        scale = node.attributes["scale"].as_float() if "scale" in node.attributes else width**-0.5
        for projection, constant in ((query, 1.0), (key, 0.0)):
            _widen(model, projection, heads, constant)
        same = (mask, heads, width, scale)
        if same not in columns:
            columns[same] = _mask_columns(model, *same)
        assert node.inputs[1] is not None
        total = ir.node("Add", [node.inputs[1], columns[same]])
        attributes = {"num_heads": heads, "scale": float(scale)}
        inputs = [node.inputs[0], total.outputs[0], node.inputs[2]]
        flash = ir.node("MultiHeadAttention", inputs, attributes=attributes, domain=MICROSOFT)
        put_in_place(model, node, [total, flash])
        folded += 1
    RemoveUnusedNodesPass()(model)
    return folded


def _attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if (node.domain, node.op_type) == (MICROSOFT, "MultiHeadAttention")]


def _bias_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[_BIAS] if len(node.inputs) > _BIAS else None


def _key_mask_of(node: ir.Node) -> ir.Value | None:
    """The attention's bias before it was expanded, if that is [B, 1, 1, S]: the same for every head and query."""
    bias = _bias_of(node)
    while bias is not None and (producer := bias.producer()) is not None and producer.op_type == "Expand":
        bias = producer.inputs[0]
    if bias is None or bias.shape is None or len(bias.shape) != 4 or tuple(bias.shape[1:3]) != (1, 1):
        return None
    return bias


def _widen(model: ir.Model, projection: Projection, heads: int, constant: float) -> None:
    """Let a projection give each head one dimension more, at its end, that is always `constant`."""
    rows = len(projection.weight)
    weight = np.pad(projection.weight.reshape(rows, heads, -1), ((0, 0), (0, 0), (0, 1))).reshape(rows, -1)
    bias = np.pad(projection.bias.reshape(heads, -1), ((0, 0), (0, 1)), constant_values=constant).reshape(-1)
    name = projection.matmul.name
    projection.matmul.replace_input_with(1, add_constant(model, f"{name}.weight", weight))
    projection.add.replace_input_with(1, add_constant(model, f"{name}.bias", bias))
    for value in (projection.matmul.outputs[0], projection.add.outputs[0]):
        value.shape = None


def _mask_columns(model: ir.Model, mask: ir.Value, heads: int, width: int, scale: float) -> ir.Value:
    """What is added to the keys [B, S, H (d + 1)]: the mask over the scale in each head's last column, else 0."""
    pattern = np.zeros((heads, width + 1), np.float32)
    pattern[:, -1] = 1 / scale
    name = f"{mask.name}.keys_{heads}_{width}"
    low = add_constant(model, f"{name}.low", np.array(MASKED, np.float32))
    axis = add_constant(model, f"{name}.axis", np.array([1], np.int64))
    pattern_value = add_constant(model, f"{name}.pattern", pattern.reshape(1, 1, -1))
    clipped = ir.node("Max", [mask, low])
    squeezed = ir.node("Squeeze", [clipped.outputs[0], axis])  # [B, 1, S]
    column = ir.node("Transpose", [squeezed.outputs[0]], attributes={"perm": [0, 2, 1]})  # [B, S, 1]
    columns = ir.node("Mul", [column.outputs[0], pattern_value])
    new = [clipped, squeezed, column, columns]
    if (producer := mask.producer()) is not None:
        model.graph.insert_after(producer, new)
    else:
        model.graph.insert_before(model.graph[0], new)
    return columns.outputs[0]
