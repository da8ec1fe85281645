"""BERT: token types, a pooler, and a masked-LM head under `cls`."""

from __future__ import annotations

from homoexport.encoder.postnorm import PostNorm

BERT = PostNorm(
    model_types=("bert",),
    body_name="bert",
    lm_head_names=("cls",),
    squares=("cls.predictions.transform.dense",),
    readers=("cls.predictions.decoder", "classifier"),
    head_norms=("cls.predictions.transform.LayerNorm",),
)
