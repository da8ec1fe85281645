"""MPNet: relative positions that all layers share, and positions counted from after the padding index.

Letters: H heads, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from homoexport.encoder.layout import Layout
from homoexport.encoder.postnorm import PostNorm
from homoexport.encoder.slots import columns


@dataclass(frozen=True)
class _MPNet(PostNorm):
    def layout(self, model: nn.Module) -> Layout:
        """The relative positions [buckets, H] bind the layers' heads together."""
        bias = columns(f"{self.prefix(model)}encoder.relative_attention_bias")
        return replace(super().layout(model), shared_heads=(bias,))

    def scored(
        self,
        model: nn.Module,
        layer: int,  # noqa: ARG002 - all layers have the same
        query: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The bias of relative positions [H, S, S]."""
        encoder: Any = self.body(model).get_submodule("encoder")
        states = encoder.relative_attention_bias.weight.new_empty(1, query.shape[1], 1)
        bias: Tensor = encoder.compute_position_bias(states)[0]
        return query, key, bias


MPNET = _MPNet(
    model_types=("mpnet",),
    body_name="mpnet",
    lm_head_names=("lm_head",),
    squares=("lm_head.dense", "classifier.dense"),
    readers=("lm_head.decoder", "classifier.out_proj", "classifier"),
    head_norms=("lm_head.layer_norm",),
    attention="attention.attn",
    query="q",
    key="k",
    value="v",
    attention_out="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
