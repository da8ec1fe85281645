"""Smoothing: a product's input channels are made alike, so that one scale for all of them loses less in 8 bits.

x W = (x / s) (s W) for any s of the input's channels. A few channels of a trained model are far larger than the rest,
and one scale for the whole tensor leaves the rest few steps. With s_k = max |x_k|^a / max |W_k|^(1 - a) weights take
over a part of that (SmoothQuant, https://arxiv.org/abs/2211.10438, equation 4). The division is one `Mul` for each
distinct input.

S sequence, K input channels, N outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from homoexport.runtime.session import OnnxSession
from homoexport.stages.export.calibrate import Tokens
from homoexport.stages.export.surgery import add_constant, array_of

STRENGTHS = (0.7, 0.8)  # a; of 0.3, 0.5, 0.7 and 0.8 the best two for MiniLM-L6: post-norm layers want more than 0.5
_LEAST = 1e-5  # of a channel that is always zero

Maxima = Mapping[str, NDArray[np.float32]]


def channel_maxima(file: Path, tokens: Iterable[Tokens], *, work: Path) -> Maxima:
    """The largest absolute value of every channel of every product's input, [K] by the input's name.

    Of an fp32 graph, over texts one by one, [1, S] each. `work` is a folder for a graph that gives them all.
    """
    model = ir.load(file)
    inputs = list(_by_input(model))
    model.graph.outputs.extend(value for value in inputs if value not in model.graph.outputs)
    names = [str(value.name) for value in inputs]
    telling = work / f"{file.stem}.telling.onnx"
    ir.save(model, telling)
    session = OnnxSession(telling)
    maxima: dict[str, NDArray[np.float32]] = {}
    for text in tokens:
        for name, values in zip(names, session.run(names, dict(text)), strict=True):
            largest = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            maxima[name] = np.maximum(maxima.get(name, largest), largest)
    telling.unlink()
    return maxima


def smooth(source: Path, target: Path, maxima: Maxima, *, strength: float) -> None:
    """Write an fp32 graph with smoothed inputs of its products; it answers the same but for rounding.

    `strength` is a, from 0 (weights alike) to 1 (inputs alike); `maxima` are of the same graph.
    """
    model = ir.load(source)
    for value, nodes in _by_input(model).items():
        weights = [array for node in nodes if (array := array_of(node.inputs[1])) is not None]
        rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
        scale = np.maximum(maxima[str(value.name)], _LEAST) ** strength / np.maximum(rows, _LEAST) ** (1 - strength)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        divided = ir.node("Mul", [value, add_constant(model, f"{value.name}_smoothing", 1 / scale)])
        model.graph.insert_before(nodes[0], divided)
        for node, weight in zip(nodes, weights, strict=True):
            name = f"{node.inputs[1].name}_of_{node.name}_smoothed"  # type: ignore[union-attr]
            node.replace_input_with(0, divided.outputs[0])
            node.replace_input_with(1, add_constant(model, name, weight * scale[:, None]))
    model.graph.sort()
    RemoveUnusedNodesPass()(model)
    ir.save(model, target)


def _by_input(model: ir.Model) -> dict[ir.Value, list[ir.Node]]:
    """Products with a constant matrix [K, N], by what they multiply it with."""
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and array_of(node.inputs[1]) is not None and node.inputs[0] is not None:
            groups.setdefault(node.inputs[0], []).append(node)
    return groups
