"""ALBERT (Lan et al., arXiv 1909.11942): one layer, called again and again, and an embedding size of its own.

Letters: D hidden size, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from homoexport.encoder.layout import Layout, Slot, Taps
from homoexport.encoder.postnorm import PostNorm
from homoexport.encoder.slots import columns, existing, own_linears, rows
from homoexport.errors import ShapeError
from homoexport.shape import Shape

_MAPPING = "encoder.embedding_hidden_mapping_in"
_LM_READER = "predictions.dense"  # [E, D]


@dataclass(frozen=True)
class _Albert(PostNorm):
    def embedding_slots(self, model: nn.Module) -> list[Slot]:
        """What leads from the embeddings' width to the hidden size; the tables stay as they are."""
        return [*rows(f"{self.prefix(model)}{_MAPPING}")]

    def layer_names(self, model: nn.Module) -> list[str]:
        config: Any = model.config
        return [f"{self.layers_name}.0.albert_layers.0"] * config.num_hidden_layers

    def layers_of(self, model: nn.Module) -> Any:
        return [self.body(model).get_submodule(name) for name in self.layer_names(model)]

    def layout(self, model: nn.Module) -> Layout:
        """The masked-LM head gives the embeddings' width back."""
        layout = super().layout(model)
        return replace(
            layout,
            hidden=existing(model, (*layout.hidden, columns(_LM_READER))),
            embedding_norm=None,  # of another width
            head_readers=(*layout.head_readers, *own_linears(model, [_LM_READER], tied_to=layout.token_rows)),
        )

    def taps(self, model: nn.Module) -> Taps:
        return replace(super().taps(model), embedding=self.body(model).get_submodule(_MAPPING))

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Call the layer as often."""
        config: Any = model.config
        config.num_hidden_layers = len(kept)

    def removable_layers(self, model: nn.Module) -> tuple[int, ...]:  # noqa: ARG002 - the base class's
        """None by itself: it is all of them."""
        return ()

    def check_target(self, config: Any, target: Shape) -> None:
        super().check_target(config, target)
        if (config.num_hidden_groups, config.inner_group_num) != (1, 1):
            what = f"its {config.num_hidden_groups} groups of {config.inner_group_num} layers cannot be pruned"
            raise ShapeError(what, where="teacher", hint="name an ALBERT of one group of one layer, as most are")


ALBERT = _Albert(
    model_types=("albert",),
    body_name="albert",
    lm_head_names=("predictions",),
    squares=(),
    readers=("classifier",),
    pooler="pooler",
    layers_name="encoder.albert_layer_groups",
    attention="attention",
    attention_out="attention.dense",
    attention_norm="attention.LayerNorm",
    ffn_in="ffn",
    ffn_out="ffn_output",
    ffn_norm="full_layer_layer_norm",
    shares_layers=True,
)
