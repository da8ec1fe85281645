"""A graph of two layers, lengthened: against an export of its own, and against torch, in every family."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from homoexport.choices import ModelTask
from homoexport.encoder import Encoder
from homoexport.stages.export import graph, program
from homoexport.stages.export.depth import list_of_layers, repeat_of, shortened
from tests.conftest import FAMILY_CONFIGS, tiny_model, tiny_tokenizer

HEADS: dict[str, ModelTask] = {"model": "feature-extraction", "sequence": "text-classification"}
# One set of weights for all layers; layers that see all of a text between others that see a part.
UNLIKE = {"albert", "modernbert", "modernbert-biased"}


def encoder_of(kind: str, layers: int, head: str = "model") -> Encoder:
    torch.manual_seed(layers)
    model = tiny_model(kind, head=head, layers=layers)
    return Encoder(model, tiny_tokenizer(), source="here", task=HEADS[head], pooling=None, folder=Path("unused"))


def by_itself(encoder: Encoder) -> ir.Model:
    """What torch's exporter makes of all of the model."""
    wrapped = graph._ExportedEncoder(encoder).eval()
    model, _ = graph._traced(encoder, wrapped, opset=18)
    return graph._simplified(model)


def told(model: ir.Model) -> tuple[Counter[str], Counter[int], list[str | None]]:
    """Its operators, the sizes of its weights, and its outputs."""
    weights = model.graph.initializers.values()
    return (
        Counter(node.op_type for node in model.graph),
        Counter(weight.const_value.size for weight in weights if weight.const_value is not None),
        [value.name for value in model.graph.outputs],
    )


@pytest.fixture
def traced_layers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each model that torch's exporter was called for."""
    counts, trace = [], graph._traced

    def counted(encoder, wrapped, **settings):
        counts.append(wrapped.model.config.num_hidden_layers)
        return trace(encoder, wrapped, **settings)

    monkeypatch.setattr(graph, "_traced", counted)
    return counts


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind == "bert" else pytest.mark.slow)
        for kind in FAMILY_CONFIGS
        if kind not in UNLIKE
    ],
)
def test_two_layers_are_traced_for_any_number_of_them(kind, traced_layers):
    head = "model" if kind == "mpnet" else "sequence"
    deep, deeper = (encoder_of(kind, layers, head) for layers in (4, 5))
    first, second = (graph.torch_to_onnx(encoder, opset=18) for encoder in (deep, deeper))
    assert traced_layers == [2]
    assert told(first) == told(by_itself(deep))
    assert len(second.graph) > len(first.graph)
    assert program.answers_as_torch(second, deeper)
    assert deep.model.config.num_hidden_layers == 4


@pytest.mark.parametrize(
    "kind", ["albert", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("modernbert", "modernbert-biased"))]
)
def test_layers_that_are_not_alike_are_all_traced(kind, traced_layers):
    encoder = encoder_of(kind, 4)
    model = graph.torch_to_onnx(encoder, opset=18)
    assert traced_layers[-1] == 4
    assert program.answers_as_torch(model, encoder)
    graph.torch_to_onnx(encoder, opset=18)
    assert traced_layers.count(4) == 1
    assert len(traced_layers) <= 2


def test_weights_of_deeper_layers_are_their_own():
    encoder = encoder_of("bert", 4)
    model = graph.torch_to_onnx(encoder, opset=18)
    assert program.answers_as_torch(model, encoder)
    other = copy.deepcopy(encoder.model)
    other.encoder.layer[3].output.dense.weight.data.neg_()
    assert not program.answers_as_torch(model, replace(encoder, model=other))


def test_a_graph_that_two_values_go_through_is_not_repeated():
    encoder = encoder_of("bert", 3)
    wrapped = graph._ExportedEncoder(encoder).eval()
    config = wrapped.model.config
    layers = list_of_layers(wrapped, config)
    assert layers == "model.encoder.layer"
    with shortened(wrapped, config, layers):
        model, repeat = graph._traced(encoder, wrapped, opset=18, layers=layers)
    assert repeat is not None
    assert len(wrapped.get_submodule(layers)) == config.num_hidden_layers == 3
    assert repeat_of(model, layers) is None  # nobody knows any more where its nodes lay


def test_a_model_of_one_layer_has_nothing_to_repeat(traced_layers):
    encoder = encoder_of("bert", 1)
    assert list_of_layers(graph._ExportedEncoder(encoder), encoder.model.config) is None
    graph.torch_to_onnx(encoder, opset=18)
    assert traced_layers == [1]
