"""Gemma 3's text model, as EmbeddingGemma has it: local and global layers, norms of what a branch adds to the stream,
and word vectors times √D.

Letters: B batch, S sequence, H heads of queries, d head width, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder.layout import GLOBAL, LOCAL, Layout
from homoexport.encoder.prenorm import PreNorm
from homoexport.errors import ShapeError
from homoexport.shape import Shape, nearest_multiple


@dataclass(frozen=True)
class _Gemma3(PreNorm):
    def layout(self, model: nn.Module) -> Layout:
        layout = super().layout(model)
        return replace(layout, times_root=layout.token_rows, norm_scale=1.0)

    def settle(self, model: nn.Module, head_dim: int) -> None:  # noqa: ARG002 - heads keep theirs
        """The root of the hidden size, which word vectors are multiplied by."""
        words: Any = self.body(model).get_submodule("embed_tokens")
        words.scalar_embed_scale = words.embedding_dim**0.5
        words.embed_scale.fill_(words.scalar_embed_scale)

    def check_target(self, config: Any, target: Shape) -> None:
        super().check_target(config, target)
        hidden, heads = target.hidden_size, target.num_attention_heads
        if hidden % heads:
            what = f"hidden_size {hidden} is not divisible by {heads} heads, as a Gemma's config wants it"
            raise ShapeError(what, where="student", hint=f"the nearest that is: {nearest_multiple(hidden, heads)}")

    def is_causal(self, config: Any) -> bool:
        return not getattr(config, "use_bidirectional_attention", False)

    def angles(self, model: nn.Module, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Of a local or a global layer's frequencies, which before transformers 5 lay in two modules."""
        body: Any = self.body(model)
        places, is_local = torch.arange(states.shape[1], device=states.device)[None], self.is_local(model, layer)
        if hasattr(body, "rotary_emb_local"):
            cos, sin = (body.rotary_emb_local if is_local else body.rotary_emb)(states, places)
        else:
            cos, sin = body.rotary_emb(states, places, LOCAL if is_local else GLOBAL)
        return cos, sin


GEMMA3 = _Gemma3(
    model_types=("gemma3_text",),
    both_sides=("use_bidirectional_attention", "halves its windows whenever it is loaded"),
    ffn_norm="pre_feedforward_layernorm",
    norms_of_branches=("post_attention_layernorm", "post_feedforward_layernorm"),
)
