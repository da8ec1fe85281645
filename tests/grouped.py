"""Tiny models whose heads share keys and values, and do not make up the hidden size."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from tests.conftest import WORDS

pytest.importorskip("transformers.models.eurobert")  # of transformers 5

KINDS: dict[str, dict[str, object]] = {
    "eurobert": {"head_dim": 8},
    "qwen3": {"head_dim": 12, "is_causal": False, "attention_bias": True},
    "gemma3_text": {
        "head_dim": 12,
        "use_bidirectional_attention": True,
        "sliding_window": 4,
        "query_pre_attn_scalar": 20,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}
CLASSES = {"model": AutoModel, "sequence": AutoModelForSequenceClassification}


def grouped(kind: str, head: str = "model", attention: str | None = None) -> PreTrainedModel:
    """Four layers of eight heads, each two of which share a key."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=3,
        use_cache=False,
        **KINDS[kind],
    )
    model: PreTrainedModel = CLASSES[head].from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("norm" in name and kind != "gemma3_text"), std=0.2)
    return model
