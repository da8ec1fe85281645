"""What an encoder is asked and what it answers: the names of its inputs and outputs, and torch's answers.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from homoexport.choices import OUTPUT_NAMES, PoolingMode
from homoexport.documents.package import Pooling
from homoexport.encoder.dense import Dense
from homoexport.encoder.families import traits_of
from homoexport.encoder.loading import Encoder
from homoexport.encoder.sentence import read_sentence_settings


def input_names(encoder: Encoder) -> tuple[str, ...]:
    """The inputs, each int64 [B, S]: what the model's forward takes of what the tokenizer returns.

    A model that knows one token type alone adds the same vector everywhere, and needs no input for it; nor one without.
    """
    taken = set(inspect.signature(encoder.model.forward).parameters)
    if getattr(encoder.model.config, "type_vocab_size", None) in (0, 1):
        taken -= {"token_type_ids"}
    return tuple(name for name in encoder.tokenizer.model_input_names if name in taken)


def max_length_of(encoder: Encoder) -> int:
    """Tokens of the longest text that the model takes: the least of what its files say."""
    lengths = [int(encoder.tokenizer.model_max_length)]
    longest = traits_of(encoder.model.config).longest_sequence(encoder.model)
    lengths += [longest] if longest is not None else []
    if encoder.task == "sentence-similarity":
        stated = read_sentence_settings(encoder.folder).get("max_seq_length")
        lengths += [stated] if isinstance(stated, int) and stated else []
    return min(lengths)


def pool(
    hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling, dense: Sequence[Dense] = ()
) -> torch.Tensor:
    """Sentence vectors, [B, M D] by M modes, of tokens' [B, S, D] and a 0/1 mask [B, S], through the layers behind."""
    is_direction = pooling.normalize and not dense and not pooling.more  # where a vector's length makes no difference
    parts = [pooled(hidden, attention_mask, mode, is_direction=is_direction) for mode in pooling.modes]
    sentence = torch.cat(parts, dim=-1) if pooling.more else parts[0]
    for layer in dense:
        sentence = layer(sentence)
    if not pooling.normalize:
        return sentence
    # As torch's `normalize`, whose exported form widens the norms by three nodes before it divides.
    norms: torch.Tensor = torch.linalg.vector_norm(sentence, dim=-1, keepdim=True)
    return sentence / norms.clamp(min=1e-12)


def pooled(
    hidden: torch.Tensor, attention_mask: torch.Tensor, mode: PoolingMode, *, is_direction: bool = False
) -> torch.Tensor:
    """Vectors [B, D] of tokens' [B, S, D] and a 0/1 mask [B, S] by a mode, as sentence-transformers has it; of any
    lengths where their direction alone matters.
    """
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return last_token(hidden, attention_mask)
    if mode == "max":
        is_padding = attention_mask.unsqueeze(2) == 0  # [B, S, 1]
        return hidden.masked_fill(is_padding, torch.finfo(hidden.dtype).min).amax(1)
    weights = attention_mask.unsqueeze(1).to(hidden.dtype)  # [B, 1, S]
    if mode == "weightedmean":
        weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    vectors = (weights @ hidden).squeeze(1)  # one product, where a sum over S of [B, S, D] reads it twice
    if is_direction:
        return vectors
    total = weights.sum(2).clamp(min=1e-9)  # [B, 1]
    return vectors / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def last_token(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The vectors [B, D] of the last tokens that a mask [B, S] counts, whichever side its padding is at."""
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = (attention_mask * places).amax(1)  # [B]
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def torch_answers(encoder: Encoder, tokens: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of `OUTPUT_NAMES` by name, without gradients, for those of `input_names`, each [B, S]."""
    with torch.no_grad():
        output = encoder.model(**tokens)
    return dict(zip(OUTPUT_NAMES[encoder.task], outputs_of(encoder, output, tokens["attention_mask"]), strict=True))


def outputs_of(encoder: Encoder, output: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a call of the model gave, as the outputs of `OUTPUT_NAMES`, the sentences of a mask [B, S] among them."""
    if "logits" in OUTPUT_NAMES[encoder.task]:
        return (output.logits,)
    hidden = output.last_hidden_state
    if encoder.pooling is None:
        return (hidden,)
    return pool(hidden, attention_mask, encoder.pooling, encoder.dense), hidden
