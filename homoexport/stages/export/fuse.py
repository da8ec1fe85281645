"""Rewriting the graph for speed on ONNX Runtime's CPU provider.

What each rewrite is for was measured on one thread of a Zen 4; `stages.export.forms` puts them together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass
from onnxscript.rewriter import pattern, rewrite
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from homoexport.stages.export.attention import MICROSOFT
from homoexport.stages.export.surgery import add_constant, array_of, put_in_place


def _biased_projections(value: ir.Value) -> list[tuple[ir.Node, ir.Node, NDArray[Any], NDArray[Any]]]:
    """Every `MatMul(value, W) + b` with constant W and b, as (MatMul, Add, W, b)."""
    found = []
    for matmul, index in value.uses():
        weight = array_of(matmul.inputs[1]) if matmul.op_type == "MatMul" and index == 0 else None
        uses = list(matmul.outputs[0].uses())
        if weight is None or weight.ndim != 2 or len(uses) != 1 or uses[0][0].op_type != "Add":
            continue
        add, position = uses[0]
        bias = array_of(add.inputs[1 - position])
        if bias is not None and bias.shape == weight.shape[1:]:
            found.append((matmul, add, weight, bias))
    return found


def merge_projections(model: ir.Model) -> int:
    """Make one MatMul of those that read the same value (query, key and value), and split its answer.

    It keeps onnxscript from taking the weights into com.microsoft.Attention, where dynamic quantization would not
    reach them.

    Returns:
        How many groups were merged.
    """
    graph, merged = model.graph, 0
    for node in list(graph):
        for value in list(node.outputs):
            group = _biased_projections(value)
            if len(group) < 2:
                continue
            matmuls, adds, weights, biases = zip(*group, strict=True)
            name = f"merged_{merged}"
            weight = add_constant(model, f"{name}.weight", np.concatenate(weights, axis=1))
            bias = add_constant(model, f"{name}.bias", np.concatenate(biases))
            widths = np.array([array.shape[1] for array in weights], dtype=np.int64)
            split_at = add_constant(model, f"{name}.widths", widths)
            product = ir.node("MatMul", [value, weight], name=f"{name}/MatMul")
            total = ir.node("Add", [product.outputs[0], bias], name=f"{name}/Add")
            split = ir.node(
                "Split",
                [total.outputs[0], split_at],
                attributes={"axis": -1},
                num_outputs=len(group),
                name=f"{name}/Split",
            )
            graph.insert_before(min(matmuls, key=list(graph).index), [product, total, split])
            for add, part in zip(adds, split.outputs, strict=True):
                part.shape, part.type = add.outputs[0].shape, add.outputs[0].type
                add.outputs[0].replace_all_uses_with(part)
            graph.remove([*adds, *matmuls], safe=True)
            merged += 1
    RemoveUnusedNodesPass()(model)
    return merged


def unfold_gemms(model: ir.Model) -> int:
    """Write `Gemm` with constant weights as `MatMul` and `Add`, in place, which is what quantizers look for.

    ONNX Runtime makes a Gemm of the two again when it loads them. Where the exporter found a bias of zeros, it left
    it out, and so does this.

    Returns:
        How many were rewritten.
    """
    unfolded = 0
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
        unfolded += 1
    RemoveUnusedNodesPass()(model)
    return unfolded


def sum_residuals(model: ir.Model) -> int:
    """Write the residual addition before every LayerNormalization as `Sum` instead of `Add`: the same arithmetic.

    ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization when it loads a file. That took 266 us
    at 128 x 384 where the two take 45 us together; its fusion does not look for
    `Sum`, so no session setting is needed.

    Returns:
        How many additions were rewritten.
    """
    rewritten = 0
    for node in model.graph:
        addition = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] else None
        if (
            addition is not None
            and addition.op_type == "Add"
            and all(array_of(part) is None for part in addition.inputs)
        ):
            addition.op_type = "Sum"
            rewritten += 1
    return rewritten


def split_projections(model: ir.Model) -> int:
    """Undo `merge_projections`: one MatMul each for query, key and value.

    Where attention is fused, copying the parts out of one product costs more than three products do: an input is
    quantized once for all that read it.

    Returns:
        How many groups were split.
    """
    graph, parted = model.graph, 0
    for split in [node for node in graph if node.op_type == "Split"]:
        group = _biased_product(split.inputs[0])
        widths = array_of(split.inputs[1]) if len(split.inputs) > 1 else None
        if group is None or widths is None:
            continue
        matmul, add, weight, bias = group
        ends = np.cumsum(widths)[:-1]
        parts = zip(split.outputs, np.split(weight, ends, axis=1), np.split(bias, ends), strict=True)
        for index, (output, part_weight, part_bias) in enumerate(parts):
            name = f"part_{parted}_{index}"
            weight_value = add_constant(model, f"{name}.weight", part_weight)
            bias_value = add_constant(model, f"{name}.bias", part_bias)
            product = ir.node("MatMul", [matmul.inputs[0], weight_value], name=f"{name}/MatMul")
            total = ir.node("Add", [product.outputs[0], bias_value], name=f"{name}/Add")
            total.outputs[0].shape, total.outputs[0].type = output.shape, output.type
            graph.insert_before(split, [product, total])
            output.replace_all_uses_with(total.outputs[0])
        graph.remove([split, add, matmul], safe=True)
        parted += 1
    RemoveUnusedNodesPass()(model)
    return parted


def _biased_product(value: ir.Value | None) -> tuple[ir.Node, ir.Node, NDArray[Any], NDArray[Any]] | None:
    """(MatMul, Add, W, b) where the value is `x W + b` with constant W and b."""
    add = None if value is None else value.producer()
    source = None if add is None or add.op_type != "Add" else add.inputs[0]
    matmul = None if source is None else source.producer()
    if add is None or matmul is None or matmul.op_type != "MatMul":
        return None
    weight, bias = array_of(matmul.inputs[1]), array_of(add.inputs[1])
    return None if weight is None or bias is None else (matmul, add, weight, bias)


def _bias_gelu(op: Any, x: Any, bias: Any) -> Any:
    return op.BiasGelu(x, bias, _domain=MICROSOFT)


def _add_gelu(op: Any, x: Any, bias: Any) -> Any:
    return op.Gelu(op.Add(x, bias), _domain=MICROSOFT)


def _microsoft_gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x, _domain=MICROSOFT)


def _standard_gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x)


def fuse(model: ir.Model) -> ir.Model:
    """onnxscript's fusions for ONNX Runtime: MultiHeadAttention, SkipLayerNormalization, BiasGelu and others."""
    fused: ir.Model
    fused, _ = optimize_for_ort(model, clear_metadata=True)
    return fused


def split_bias_gelu(model: ir.Model) -> None:
    """Leave GELU's bias with the product before it, where an int8 product adds it at no cost.

    BiasGelu took 233 us at 128 x 1536, Gelu 161 us.
    """
    rewrite(model, pattern_rewrite_rules=[pattern.RewriteRule(_bias_gelu, _add_gelu)])
    ClearMetadataAndDocStringPass()(model)


def use_standard_gelu(model: ir.Model) -> None:
    """Write GELU as ONNX's own operator (operator set 20 and later)."""
    rewrite(model, pattern_rewrite_rules=[pattern.RewriteRule(_microsoft_gelu, _standard_gelu)])
    ClearMetadataAndDocStringPass()(model)
