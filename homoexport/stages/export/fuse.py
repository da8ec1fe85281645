"""Rewriting the graph for speed on ONNX Runtime's CPU provider.

What each rewrite is for was measured on one thread of a Zen 4; `stages.export.forms` puts them together.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from homoexport.stages.export.attention import MICROSOFT
from homoexport.stages.export.surgery import (
    Projection,
    add_constant,
    add_projection,
    array_of,
    projection_of,
    put_in_place,
)


def _projections_from(value: ir.Value) -> list[Projection]:
    found = []
    for node, index in value.uses():
        users = list(node.outputs[0].uses())
        if node.op_type == "MatMul" and index == 0 and len(users) == 1:
            projection = projection_of(users[0][0].outputs[0])
            found += [projection] if projection is not None and projection.matmul is node else []
    return found


def merge_projections(model: ir.Model) -> None:
    """Make one MatMul of those that read the same value (query, key and value), and split its answer.

    It keeps onnxscript from taking the weights into com.microsoft.Attention, where dynamic quantization would not
    reach them.
    """
    graph, merged = model.graph, 0
    for value in [value for node in graph for value in node.outputs]:
        group = _projections_from(value)
        if len(group) < 2:
            continue
        name = f"merged_{merged}"
        first = min((one.matmul for one in group), key=list(graph).index)
        weight = np.concatenate([one.weight for one in group], axis=1)
        bias = np.concatenate([one.bias for one in group])
        total = add_projection(model, name, value, weight, bias, before=first)
        widths = np.array([len(one.bias) for one in group], dtype=np.int64)
        split = ir.node(
            "Split",
            [total, add_constant(model, f"{name}.widths", widths)],
            attributes={"axis": -1},
            num_outputs=len(group),
            name=f"{name}/Split",
        )
        graph.insert_before(first, split)
        for one, part in zip(group, split.outputs, strict=True):
            answer = one.add.outputs[0]
            part.shape, part.type = answer.shape, answer.type
            answer.replace_all_uses_with(part)
        graph.remove([*(one.add for one in group), *(one.matmul for one in group)], safe=True)
        merged += 1
    RemoveUnusedNodesPass()(model)


def split_projections(model: ir.Model) -> None:
    """Undo `merge_projections`: one MatMul each for query, key and value.

    Where attention is fused, copying the parts out of one product costs more than three products do: an input is
    quantized once for all that read it.
    """
    graph, parted = model.graph, 0
    for split in [node for node in graph if node.op_type == "Split"]:
        whole = projection_of(split.inputs[0])
        widths = array_of(split.inputs[1]) if len(split.inputs) > 1 else None
        if whole is None or widths is None:
            continue
        ends = np.cumsum(widths)[:-1]
        parts = zip(split.outputs, np.split(whole.weight, ends, axis=1), np.split(whole.bias, ends), strict=True)
        for index, (output, weight, bias) in enumerate(parts):
            name = f"part_{parted}_{index}"
            part = add_projection(model, name, whole.matmul.inputs[0], weight, bias, before=split)
            part.shape, part.type = output.shape, output.type
            output.replace_all_uses_with(part)
        graph.remove([split, whole.add, whole.matmul], safe=True)
        parted += 1
    RemoveUnusedNodesPass()(model)


def unfold_gemms(model: ir.Model) -> None:
    """Write `Gemm` with constant weights as `MatMul` and `Add`, in place, which is what quantizers look for.

    ONNX Runtime makes a Gemm of the two again when it loads them. Where the exporter found a bias of zeros, it left
    it out, and so does this.
    """
    for node in [node for node in model.graph if node.op_type == "Gemm"]:
        weight, addend = array_of(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
        bias = array_of(addend)
        plain = all(node.attributes[name].as_float() == 1 for name in ("alpha", "beta") if name in node.attributes)
        turned = "transA" in node.attributes and node.attributes["transA"].as_int()
        if weight is None or (addend is not None and bias is None) or not plain or turned:
            continue
        if "transB" in node.attributes and node.attributes["transB"].as_int():
            weight = weight.T
        name = str(node.name)
        new = [ir.node("MatMul", [node.inputs[0], add_constant(model, f"{name}.weight", weight)], name=name)]
        if bias is not None:
            addition = [new[0].outputs[0], add_constant(model, f"{name}.bias", bias)]
            new.append(ir.node("Add", addition, name=f"{name}/Add"))
        put_in_place(model, node, new)
    RemoveUnusedNodesPass()(model)


def sum_residuals(model: ir.Model) -> None:
    """Write the residual addition before every LayerNormalization as `Sum` instead of `Add`: the same arithmetic.

    ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization when it loads a file. That took 266 us
    at 128 x 384 where the two take 45 us together; its fusion does not look for `Sum`, so no session setting is needed.
    """
    for node in model.graph:
        addition = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] else None
        if (
            addition is not None
            and addition.op_type == "Add"
            and all(array_of(part) is None for part in addition.inputs)
        ):
            addition.op_type = "Sum"


def split_bias_gelu(model: ir.Model) -> None:
    """Leave GELU's bias with the product before it, where an int8 product adds it at no cost.

    BiasGelu took 233 us at 128 x 1536, Gelu 161 us.
    """
    for node in [node for node in model.graph if node.op_type == "BiasGelu"]:
        total = ir.node("Add", node.inputs)
        put_in_place(model, node, [total, ir.node("Gelu", total.outputs, domain=MICROSOFT)])


def use_standard_gelu(model: ir.Model) -> None:
    """Write GELU as ONNX's own operator (operator set 20 and later)."""
    for node in model.graph:
        if node.op_type == "Gelu":
            node.domain = ""
    RemoveUnusedOpsetsPass()(model)
