"""Where a model family keeps its neurons.

Letters: L layers, H heads of one layer, d width of one head, D hidden size, F ffn width.

A `Slot` is one axis of one parameter. Neurons come in coupled groups: index j of a group is index j
of every slot of that group, so the group goes whole or stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter, by the parameter's name in its model."""

    parameter: str
    axis: int


@dataclass(frozen=True)
class LayerSlots:
    """The groups of one layer; the attention axes are [H·d], heads outermost."""

    query_key: tuple[Slot, ...]
    value_out: tuple[Slot, ...]
    ffn: tuple[Slot, ...]
    query: tuple[str, ...]  # parameters that make the query: the softmax scale is folded into them


@dataclass(frozen=True)
class Layout:
    """All groups of a model: the residual stream's, and each layer's."""

    hidden: tuple[Slot, ...]
    layers: tuple[LayerSlots, ...]
    token_rows: str  # the parameter [V, D] whose rows only the batch's tokens touch


@dataclass(frozen=True)
class Widths:
    """A live model's widths. While it is pruned, layers may differ in their number of heads."""

    hidden_size: int
    intermediate_size: int
    heads: tuple[int, ...]
    head_dim: int

    def as_json(self) -> dict[str, float]:
        """A JSON-ready dict; heads as the mean over the layers."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": sum(self.heads) / len(self.heads),
            "head_dim": self.head_dim,
        }


@dataclass(frozen=True)
class Taps:
    """Modules whose outputs the layerwise terms compare; forward hooks read them."""

    embedding: nn.Module  # [B, S, D]
    layers: tuple[nn.Module, ...]  # each [B, S, D], the layer's output
    queries: tuple[nn.Module, ...]  # each [B, S, H·d], before the split into heads
    keys: tuple[nn.Module, ...]  # each [B, S, H·d]


class Family(Protocol):
    """All that homoexport must know of a model family; one adapter file each."""

    @property
    def model_types(self) -> tuple[str, ...]:
        """The `model_type`s of the configs that it serves."""

    def layout(self, model: nn.Module) -> Layout:
        """The model's slots."""

    def taps(self, model: nn.Module) -> Taps:
        """The modules that the layerwise terms read."""

    def body(self, model: nn.Module) -> nn.Module:
        """The encoder without a task head."""

    def lm_head(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """The masked-LM head: [N, D] hidden states to [N, V] logits."""

    def widths(self, model: nn.Module) -> Widths:
        """The widths that the live model has now."""

    def set_head_dim(self, model: nn.Module, head_dim: int) -> None:
        """Tell every attention module its width after its parameters were sliced."""

    def write_config(self, config: Any, widths: Widths) -> None:
        """Put widths into a config; heads must be uniform."""
