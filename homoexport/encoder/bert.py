"""BERT: post-norm, absolute positions, word embeddings tied to the masked-LM decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from homoexport.encoder.layout import LayerSlots, Layout, Slot, Taps, Widths

_HEAD = "cls.predictions.transform"


class Bert:
    """Adapter for `BertModel` and the task models around it."""

    model_types = ("bert",)

    def body(self, model: nn.Module) -> nn.Module:
        """The `BertModel` inside a task model, or the model itself."""
        body = getattr(model, "bert", model)
        assert isinstance(body, nn.Module)
        return body

    def lm_head(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """`BertOnlyMLMHead`."""
        head = model.cls
        assert isinstance(head, nn.Module)
        return head

    def _layers(self, model: nn.Module) -> Any:
        return self.body(model).get_submodule("encoder.layer")

    def _prefix(self, model: nn.Module) -> str:
        return "" if self.body(model) is model else "bert."

    def layout(self, model: nn.Module) -> Layout:
        """Slots of embeddings, layers, pooler and masked-LM head, as far as the model has them."""
        names = {name for name, _ in model.named_parameters()}
        prefix = self._prefix(model)
        embeddings = f"{prefix}embeddings."
        hidden = [Slot(f"{embeddings}{kind}_embeddings.weight", 1) for kind in ("word", "position", "token_type")]
        hidden += _norm(f"{embeddings}LayerNorm")
        layers = []
        for index in range(len(self._layers(model))):
            layer = f"{prefix}encoder.layer.{index}."
            attention = f"{layer}attention.self."
            out, ffn_in, ffn_out = f"{layer}attention.output", f"{layer}intermediate", f"{layer}output"
            hidden += [Slot(f"{attention}{kind}.weight", 1) for kind in ("query", "key", "value")]
            hidden += [Slot(f"{out}.dense.weight", 0), Slot(f"{out}.dense.bias", 0), *_norm(f"{out}.LayerNorm")]
            hidden += [Slot(f"{ffn_in}.dense.weight", 1)]
            hidden += [Slot(f"{ffn_out}.dense.weight", 0), Slot(f"{ffn_out}.dense.bias", 0)]
            hidden += _norm(f"{ffn_out}.LayerNorm")
            layers.append(
                LayerSlots(
                    query_key=(*_rows(f"{attention}query"), *_rows(f"{attention}key")),
                    value_out=(*_rows(f"{attention}value"), Slot(f"{out}.dense.weight", 1)),
                    ffn=(*_rows(f"{ffn_in}.dense"), Slot(f"{ffn_out}.dense.weight", 1)),
                    query=(f"{attention}query.weight", f"{attention}query.bias"),
                )
            )
        # The pooler's output and the head transform's output keep the stream's width: stock configs
        # have no other, and the tied decoder reads the latter with the word embeddings' columns.
        for square in (f"{prefix}pooler.dense", f"{_HEAD}.dense"):
            hidden += [Slot(f"{square}.weight", 1), *_rows(square)]
        hidden += _norm(f"{_HEAD}.LayerNorm")
        hidden += [Slot("cls.predictions.decoder.weight", 1), Slot("classifier.weight", 1)]
        present = tuple(slot for slot in hidden if slot.parameter in names)
        return Layout(present, tuple(layers), token_rows=f"{embeddings}word_embeddings.weight")

    def taps(self, model: nn.Module) -> Taps:
        """Embedding output, layer outputs, and the query and key projections."""
        layers = self._layers(model)
        return Taps(
            embedding=self.body(model).get_submodule("embeddings"),
            layers=tuple(layers),
            queries=tuple(layer.attention.self.query for layer in layers),
            keys=tuple(layer.attention.self.key for layer in layers),
        )

    def widths(self, model: nn.Module) -> Widths:
        """Read off the attention modules and the parameters' shapes."""
        layers = self._layers(model)
        return Widths(
            hidden_size=layers[0].attention.self.query.in_features,
            intermediate_size=layers[0].intermediate.dense.out_features,
            heads=tuple(layer.attention.self.num_attention_heads for layer in layers),
            head_dim=layers[0].attention.self.attention_head_size,
        )

    def set_head_dim(self, model: nn.Module, head_dim: int) -> None:
        """Set head width, number of heads and softmax scale of every layer."""
        for layer in self._layers(model):
            attention = layer.attention.self
            attention.attention_head_size = head_dim
            attention.all_head_size = attention.query.out_features
            attention.num_attention_heads = attention.all_head_size // head_dim
            attention.scaling = head_dim**-0.5

    def write_config(self, config: Any, widths: Widths) -> None:
        """`hidden_size`, `intermediate_size`, `num_attention_heads`."""
        config.hidden_size = widths.hidden_size
        config.intermediate_size = widths.intermediate_size
        config.num_attention_heads = widths.heads[0]


def _rows(linear: str) -> tuple[Slot, Slot]:
    return Slot(f"{linear}.weight", 0), Slot(f"{linear}.bias", 0)


def _norm(name: str) -> tuple[Slot, Slot]:
    return Slot(f"{name}.weight", 0), Slot(f"{name}.bias", 0)
