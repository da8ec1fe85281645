"""Tiny models whose heads share keys and values, and do not make up the hidden size."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from homoexport.encoder.traits import IS_TRANSFORMERS_5
from tests.conftest import WORDS

_LOCAL_FIRST = ["sliding_attention", "full_attention"] * 2
_GEMMA = {"head_dim": 12, "sliding_window": 4, "query_pre_attn_scalar": 20, "layer_types": _LOCAL_FIRST}
_QWEN = {"head_dim": 12, "attention_bias": True}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 2, "layer_types": _LOCAL_FIRST}
_CAUSAL: dict[str, dict[str, object]] = {"qwen3 causal": _QWEN | _WINDOWS, "gemma3_text causal": _GEMMA}
KINDS = _CAUSAL  # by `model_type`, and what it is
if IS_TRANSFORMERS_5:
    KINDS = _CAUSAL | {
        "eurobert": {"head_dim": 8},
        "qwen3": _QWEN | {"is_causal": False},
        "qwen3 windows": _QWEN | _WINDOWS | {"is_causal": False},
        "gemma3_text": _GEMMA | {"use_bidirectional_attention": True},
    }
CLASSES = {
    "model": AutoModel,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,  # which Gemma has not
}


def grouped(kind: str, head: str = "model", attention: str | None = None) -> PreTrainedModel:
    """Four layers of eight heads, each two of which share a key."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind.partition(" ")[0],
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
            parameter.normal_(mean=float("norm" in name and config.model_type != "gemma3_text"), std=0.2)
    return model
