"""NomicBERT, as transformers has it from version 5 on: post-norm, gated feed-forward, rotary positions, few biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder.postnorm import PostNorm
from homoexport.encoder.rotary import turned


@dataclass(frozen=True)
class _NomicBert(PostNorm):
    def scored(
        self,
        model: nn.Module,
        layer: int,  # noqa: ARG002 - all layers turn alike
        query: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        body: Any = self.body(model)
        cos, sin = body.rotary_emb(query, torch.arange(query.shape[1], device=query.device)[None])
        return turned(query, cos, sin), turned(key, cos, sin), None


NOMIC_BERT = _NomicBert(
    model_types=("nomic_bert",),
    body_name="nomic_bert",
    lm_head_names=("cls",),
    squares=("cls.predictions.transform.dense",),
    readers=("cls.predictions.decoder", "classifier"),
    head_norms=("cls.predictions.transform.layer_norm",),
    layers_name="layers",
    attention="self_attn",
    query="q_proj",
    key="k_proj",
    value="v_proj",
    attention_out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    ffn_in="mlp.gate_proj",
    ffn_gate="mlp.up_proj",
    ffn_out="mlp.down_proj",
    ffn_norm="post_mlp_layernorm",
    head_width="head_dim",
    prunes_head_width=False,
)
