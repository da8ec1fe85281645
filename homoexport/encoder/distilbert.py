"""DistilBERT: no token types, no pooler; a head of its own for classifying."""

from __future__ import annotations

from homoexport.encoder.postnorm import PostNorm

DISTILBERT = PostNorm(
    model_types=("distilbert",),
    body_name="distilbert",
    lm_head_names=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    squares=("vocab_transform", "pre_classifier"),
    readers=("vocab_projector", "classifier"),
    head_norms=("vocab_layer_norm",),
    layers_name="transformer.layer",
    attention="attention",
    query="q_lin",
    key="k_lin",
    value="v_lin",
    attention_out="attention.out_lin",
    attention_norm="sa_layer_norm",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    ffn_norm="output_layer_norm",
    head_count="n_heads",
    inner_width="dim",
    ffn_width_name="hidden_dim",
)
