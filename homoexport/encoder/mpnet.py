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

_PADDING_INDEX = 1  # the model's own constant, whatever its config says


@dataclass(frozen=True)
class _MPNet(PostNorm):
    def layout(self, model: nn.Module) -> Layout:
        """The relative positions [buckets, H] bind the layers' heads together."""
        bias = columns(f"{self.prefix(model)}encoder.relative_attention_bias")
        return replace(super().layout(model), shared_heads=(bias,))

    def longest_sequence(self, config: Any) -> int | None:
        """The first token stands after the padding index."""
        return int(config.max_position_embeddings) - _PADDING_INDEX - 1

    def settled_ids(self, config: Any) -> int:  # noqa: ARG002
        """Positions are counted from the padding index."""
        return _PADDING_INDEX + 1

    def score_bias(self, model: nn.Module, length: int) -> Tensor | None:
        encoder: Any = self.body(model).get_submodule("encoder")
        states = encoder.relative_attention_bias.weight.new_empty(1, length, 1)
        bias: Tensor = encoder.compute_position_bias(states)[0]
        return bias


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
