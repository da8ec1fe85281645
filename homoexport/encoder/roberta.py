"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers; positions are counted from after the padding index."""

from __future__ import annotations

from homoexport.encoder.postnorm import PostNorm

ROBERTA = PostNorm(
    model_types=("roberta", "xlm-roberta", "camembert"),
    body_name="roberta",
    lm_head_names=("lm_head",),
    squares=("lm_head.dense", "classifier.dense"),
    readers=("lm_head.decoder", "classifier.out_proj", "classifier"),
    head_norms=("lm_head.layer_norm",),
)
