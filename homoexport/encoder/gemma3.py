"""Gemma 3's text model, as EmbeddingGemma has it: local and global layers, norms of what a branch adds to the stream,
and word vectors times √D.

A norm's scale is 1 + its weight, and lies behind each branch's last linear layer, so that neither is mended by least
squares.

Letters: B batch, S sequence, H heads of queries, d head width, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder.layout import Layout
from homoexport.encoder.prenorm import PreNorm
from homoexport.errors import ShapeError
from homoexport.shape import Shape

_LOCAL = "sliding_attention"


@dataclass(frozen=True)
class _Gemma3(PreNorm):
    def layout(self, model: nn.Module) -> Layout:
        layout = super().layout(model)
        return replace(layout, times_root=layout.token_rows)

    def settle(self, model: nn.Module, head_dim: int) -> None:  # noqa: ARG002 - heads keep theirs
        """The root of the hidden size, which word vectors are multiplied by."""
        words: Any = self.body(model).get_submodule("embed_tokens")
        words.scalar_embed_scale = words.embedding_dim**0.5
        words.embed_scale.fill_(words.scalar_embed_scale)

    def check_target(self, config: Any, target: Shape) -> None:
        super().check_target(config, target)
        if target.hidden_size % target.num_attention_heads:
            what = f"hidden_size {target.hidden_size} is not divisible by {target.num_attention_heads} heads"
            raise ShapeError(what, where="student", hint="its config allows no other; give a multiple")

    def angles(self, model: nn.Module, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        body: Any = self.body(model)
        places = torch.arange(states.shape[1], device=states.device)[None]
        cos, sin = body.rotary_emb(states, places, self._kinds(model)[layer])
        return cos, sin

    def window(self, model: nn.Module, layer: int) -> int | None:
        """Less than `sliding_window` in local layers that look both ways."""
        config: Any = model.config
        return config.sliding_window - 1 if self._kinds(model)[layer] == _LOCAL else None

    def _kinds(self, model: nn.Module) -> list[str]:
        config: Any = model.config
        kinds: list[str] = config.layer_types
        return kinds


GEMMA3 = _Gemma3(
    model_types=("gemma3_text",),
    ffn_norm="pre_feedforward_layernorm",
    norms_of_branches=("post_attention_layernorm", "post_feedforward_layernorm"),
    mends_layers=False,
)
