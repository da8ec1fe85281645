"""A model is traced with two of its layers, and the second one's part of the graph is repeated for the others: tracing
takes as long as a graph has nodes.

Whether layers are alike is seen by their modules; whether the longer graph is right, when it is run beside torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

_TRACED = 2  # layers; the first may differ from the others, for it reads the embeddings
_SCOPES = "pkg.torch.onnx.name_scopes"  # of a node, the modules that it lies in, as torch's exporter writes them


@dataclass(frozen=True)
class Repeat:
    """The part of a graph that is one layer: its nodes, and the value that enters it and the one that leaves.

    `list_name` is the name of the list of layers in the model.
    """

    list_name: str
    nodes: frozenset[str]
    entering: str
    leaving: str


def list_of_layers(model: torch.nn.Module, config: Any) -> str | None:
    """The name of a model's list of layers that are all of the same modules; None where there is none."""
    count = int(getattr(config, "num_hidden_layers", 0))
    if count < _TRACED:
        return None
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and len({str(one) for one in module}) == 1:
            return str(name)
    return None


@contextmanager
def shortened(model: torch.nn.Module, config: Any, list_name: str) -> Iterator[None]:
    """In the block the model has the first two of its layers alone."""
    parent, _, name = list_name.rpartition(".")
    holder = model.get_submodule(parent)
    layers, count = getattr(holder, name), config.num_hidden_layers
    setattr(holder, name, layers[:_TRACED])
    config.num_hidden_layers = _TRACED
    try:
        yield
    finally:
        setattr(holder, name, layers)
        config.num_hidden_layers = count


def repeat_of(traced: ir.Model, list_name: str) -> Repeat | None:
    """The last layer's part of a graph as torch's exporter wrote it; None where it is not one that leaves it.

    What enters is the last value of the layer before that it reads; others, as of relative positions, are all layers'.
    """
    previous, last = (_nodes_of(traced, f"{list_name}.{_TRACED - back}") for back in (2, 1))
    read = {value for node in last for value in node.inputs}
    entering = [value for node in previous for value in node.outputs if value in read]
    leaving = [
        value
        for node in last
        for value in node.outputs
        if value.is_graph_output() or any(user not in last for user in value.consumers())
    ]
    if not entering or len(leaving) != 1:
        return None
    return Repeat(list_name, frozenset(str(node.name) for node in last), str(entering[-1].name), str(leaving[0].name))


def _nodes_of(traced: ir.Model, module: str) -> list[ir.Node]:
    """Those that lie in a module, but for constants, which others may read, too."""
    return [
        node
        for node in traced.graph
        if node.op_type != "Constant" and module in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    ]


def lengthen(model: ir.Model, repeat: Repeat, layers: int) -> None:
    """Give a graph of two layers, whose weights have no values, so many; the new ones' weights have their names."""
    graph = model.graph
    nodes = [node for node in graph if node.name in repeat.nodes]
    outside = [node for node in graph if node.name not in repeat.nodes]
    values = {str(value.name): value for node in graph for value in node.outputs}
    leaving = last = values[repeat.leaving]
    after = nodes[-1]
    for number in range(_TRACED, layers):
        copies: dict[ir.Value | None, ir.Value] = {values[repeat.entering]: last}
        for node in nodes:
            for value in node.inputs:
                if value is not None and value.is_initializer() and value not in copies:
                    copies[value] = _weight_of(graph, value, repeat.list_name, number)
            copy = ir.Node(
                node.domain,
                node.op_type,
                [copies.get(value, value) for value in node.inputs],
                node.attributes.values(),
                overload=node.overload,
                num_outputs=len(node.outputs),
                version=node.version,
                name=f"{node.name}_{number}",
            )
            for value, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.shape, new.type = f"{value.name}_{number}", value.shape, value.type
                copies[value] = new
            graph.insert_after(after, copy)
            after = copy
        last = copies[leaving]
    for node in outside:
        for index, value in enumerate(node.inputs):
            if value is leaving:
                node.replace_input_with(index, last)
    for index, value in enumerate(graph.outputs):
        if value is leaving:
            graph.outputs[index] = last
            leaving.name, last.name = last.name, leaving.name


def _weight_of(graph: ir.Graph, value: ir.Value, list_name: str, number: int) -> ir.Value:
    """A weight of another layer in the place of the last traced one's; constants, and no layer's, are all layers'."""
    name = str(value.name)
    own = f"{list_name}.{_TRACED - 1}."
    if not name.startswith(own) or value.const_value is not None:
        return value
    new = ir.Value(name=f"{list_name}.{number}.{name.removeprefix(own)}", shape=value.shape, type=value.type)
    graph.initializers[str(new.name)] = new
    return new
