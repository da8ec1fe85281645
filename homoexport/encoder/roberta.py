"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers; positions are counted from after the padding index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homoexport.encoder.postnorm import PostNorm


@dataclass(frozen=True)
class _Roberta(PostNorm):
    def longest_sequence(self, config: Any) -> int | None:
        """The first token stands at position pad_token_id + 1."""
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1

    def settled_ids(self, config: Any) -> int:
        """Positions are counted from the padding index."""
        return int(config.pad_token_id) + 1


ROBERTA = _Roberta(
    model_types=("roberta", "xlm-roberta", "camembert"),
    body_name="roberta",
    lm_head_names=("lm_head",),
    squares=("lm_head.dense", "classifier.dense"),
    readers=("lm_head.decoder", "classifier.out_proj", "classifier"),
    head_norms=("lm_head.layer_norm",),
)
