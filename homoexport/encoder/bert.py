"""BERT: token types, a pooler, and a masked-LM head under `cls`."""

from __future__ import annotations

from homoexport.encoder.postnorm import Names, PostNorm

BERT = PostNorm(
    model_types=("bert",),
    names=Names(
        body="bert",
        lm_head=("cls",),
        squares=("cls.predictions.transform.dense",),
        readers=("cls.predictions.decoder", "classifier"),
        head_norms=("cls.predictions.transform.LayerNorm",),
    ),
)
