"""A small stock model filled by hand, by rules on parameters' names; knows the families, not our layouts."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from homoexport.encoder import Group, Keep, Window, family_of

Rules = list[tuple[str, str | None, str | None]]  # (pattern, group of the rows, group of the columns); the first counts


def in_window(window: Window, length: int) -> Tensor:
    """Bool [S, S]: whether a query (row) attends to a key (column)."""
    left, right = (length if side is None else side for side in window)
    return torch.tensor([[query - left <= key <= query + right for key in range(length)] for query in range(length)])


_EMBEDDINGS: Rules = [(r"(word|position|token_type|tok)_embeddings\.weight", None, "hidden")]
_BERT_LAYERS: Rules = [
    (r"attention\.self\.(query|key)\.", "query_key", "hidden"),
    (r"attention\.self\.value\.", "value_out", "hidden"),
    (r"attention\.output\.dense\.", "hidden", "value_out"),
    (r"intermediate\.dense\.", "ffn", "hidden"),
    (r"\d\.output\.dense\.", "hidden", "ffn"),
]
_HEADS: Rules = [
    (r"(LayerNorm|layer_norm|norm)\.", "hidden", None),
    (
        r"pooler\.dense|transform\.dense|lm_head\.dense|classifier\.dense|_transform\.|pre_classifier",
        "hidden",
        "hidden",
    ),
    (r"(decoder|vocab_projector|generator_lm_head|classifier|out_proj)\.weight", None, "hidden"),
    (r"(decoder|vocab_projector|generator_lm_head|classifier|out_proj|lm_head|predictions)\.bias", None, None),
]
_BERT = [*_EMBEDDINGS, *_BERT_LAYERS, *_HEADS]
RULES: dict[str, Rules] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": [(r"generator_predictions\.dense\.", "hidden", "hidden"), *_BERT],
    "electra-projected": [
        (r"embeddings_project\.", "hidden", None),
        (r"\.?embeddings\.|generator_predictions\.LayerNorm|generator_lm_head", None, None),
        (r"generator_predictions\.dense\.weight", None, "hidden"),
        (r"generator_predictions\.dense\.bias", None, None),
        *_BERT,
    ],
    "distilbert": [
        *_EMBEDDINGS,
        (r"\.(q|k)_lin\.", "query_key", "hidden"),
        (r"\.v_lin\.", "value_out", "hidden"),
        (r"\.out_lin\.", "hidden", "value_out"),
        (r"\.lin1\.", "ffn", "hidden"),
        (r"\.lin2\.", "hidden", "ffn"),
        *_HEADS,
    ],
    "mpnet": [
        *_EMBEDDINGS,
        (r"relative_attention_bias", None, "heads"),
        (r"attn\.(q|k)\.", "query_key", "hidden"),
        (r"attn\.v\.", "value_out", "hidden"),
        (r"attn\.o\.", "hidden", "value_out"),
        (r"intermediate\.dense\.", "ffn", "hidden"),
        (r"\d\.output\.dense\.", "hidden", "ffn"),
        *_HEADS,
    ],
    "albert": [
        (r"embedding_hidden_mapping_in\.", "hidden", None),
        (r"\.?embeddings\.|predictions\.(LayerNorm|decoder)|predictions\.(dense\.)?bias", None, None),
        (r"predictions\.dense\.weight", None, "hidden"),
        (r"attention\.(query|key)\.", "query_key", "hidden"),
        (r"attention\.value\.", "value_out", "hidden"),
        (r"attention\.dense\.", "hidden", "value_out"),
        (r"\.ffn\.", "ffn", "hidden"),
        (r"\.ffn_output\.", "hidden", "ffn"),
        (r"albert\.pooler\.|^pooler\.", "hidden", "hidden"),
        *_HEADS,
    ],
    "deberta-v2": [
        *_EMBEDDINGS,
        (r"rel_embeddings\.", None, "hidden"),
        (r"(query|key)_proj\.", "query_key", "hidden"),
        (r"value_proj\.", "value_out", "hidden"),
        *_BERT_LAYERS,
        *_HEADS,
    ],
    "nomic_bert": [
        *_EMBEDDINGS,
        (r"\.(q|k)_proj\.", "query_key", "hidden"),
        (r"\.v_proj\.", "value_out", "hidden"),
        (r"\.o_proj\.", "hidden", "value_out"),
        (r"\.(gate|up)_proj\.", "ffn", "hidden"),
        (r"\.down_proj\.", "hidden", "ffn"),
        *_HEADS,
    ],
    "modernbert": [
        *_EMBEDDINGS,
        (r"attn\.Wqkv\.", "fused", "hidden"),
        (r"attn\.Wo\.", "hidden", "value_out"),
        (r"mlp\.Wi\.", "gated", "hidden"),
        (r"mlp\.Wo\.", "hidden", "ffn"),
        (r"head\.dense\.", "hidden", "hidden"),
        *_HEADS,
    ],
}
RULES["eurobert"] = [
    (r"embed_tokens\.", None, "hidden"),
    (r"(q|k)_norm\.", None, None),
    (r"\.q_proj\.", "queries", "hidden"),
    (r"\.k_proj\.", "query_key", "hidden"),
    (r"\.v_proj\.", "value_out", "hidden"),
    (r"\.o_proj\.", "hidden", "answers"),
    (r"\.(gate|up)_proj\.", "ffn", "hidden"),
    (r"\.down_proj\.", "hidden", "ffn"),
    (r"layernorm\.", "hidden", None),
    (r"^dense\.", "hidden", "hidden"),
    (r"(score|lm_head)\.weight", None, "hidden"),
    (r"score\.bias", None, None),
    *_HEADS,
]
RULES["qwen3"] = RULES["gemma3_text"] = RULES["eurobert"]
RULES["modernbert-biased"] = RULES["modernbert"]
RULES["deberta-v2-unshared"] = RULES["deberta-v2"]
_QUERY = re.compile(r"self\.query\.|\.q_lin\.|attn\.q\.|attention\.query\.|query_proj\.")


def random_keep(model: PreTrainedModel, hidden: int, ffn: int, heads: int, head_dim: int, seed: int = 0) -> Keep:
    """Indices drawn at random; the same heads in all layers where the model shares something between them.

    Of grouped queries, `heads` are those of the keys.
    """
    family = family_of(model.config)
    widths = family.widths(model)
    generator = torch.Generator().manual_seed(seed)

    def pick(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=generator)[:count].sort().values

    shared = pick(widths.heads_per_layer[0], heads) if family.layout(model).shared_heads else None
    indices = {Group("hidden"): pick(widths.hidden_size, hidden)}
    if shared is not None:
        indices[Group("heads")] = shared
    for layer, old_heads in enumerate(widths.heads_per_layer):
        kept = shared if shared is not None else pick(old_heads // widths.queries_per_key, heads)
        for kind in ("query_key", "value_out"):
            dims = [head * widths.head_dim + pick(widths.head_dim, head_dim) for head in kept]
            indices[Group(kind, layer)] = torch.cat(dims)
        indices[Group("ffn", layer)] = pick(widths.intermediate_size, ffn)
    if family.shares_layers:
        indices |= {group: indices[group.kind, 0] for group in indices if group.layer}
    return Keep(indices, head_dim)


def fill_by_hand(
    big: PreTrainedModel, keep: Keep, *, kind: str, old_head_dim: int, kept_layers: Sequence[int] | None = None
) -> PreTrainedModel:
    """A small model from a plain config, its weights copied name by name.

    Args:
        big: where the weights come from.
        keep: what is copied; of each layer of `big`.
        kind: of `RULES`.
        old_head_dim: head width of `big`.
        kept_layers: layers of `big` that the small model has.
    """
    kept = list(kept_layers if kept_layers is not None else range(big.config.num_hidden_layers))
    small = type(big)(_small_config(big.config, keep, kept)).eval()
    source = big.state_dict()
    values = {}
    for name, target in small.state_dict().items():
        found = re.search(r"(?<=layer\.)\d+|(?<=layers\.)\d+", name)
        layer = kept[int(found[0])] if found else 0
        old_name = name[: found.start()] + str(layer) + name[found.end() :] if found else name
        value = source[old_name]
        rows, columns = next((rows, columns) for pattern, rows, columns in RULES[kind] if re.search(pattern, name))
        groups = _groups(keep, layer, big)
        if rows is not None:
            value = value[groups[rows]]
        if columns is not None and value.dim() == 2:
            value = value[:, groups[columns]]
        if kind == "gemma3_text" and "embed_tokens" in name:
            value = value * math.sqrt(big.config.hidden_size / small.config.hidden_size)
        if _QUERY.search(name):
            value = value * math.sqrt(keep.head_dim / old_head_dim)
        assert value.shape == target.shape, name
        values[name] = value
    small.load_state_dict(values)
    return small


def _groups(keep: Keep, layer: int, big: PreTrainedModel) -> dict[str, Tensor]:
    groups = {group.kind: index for group, index in keep.indices.items() if group.layer in (None, layer)}
    width, ffn = big.config.hidden_size, getattr(big.config, "intermediate_size", 0)
    query_key, value_out = groups["query_key"], groups["value_out"]
    return groups | {
        "queries": _of_each_query(query_key, big, keep),
        "answers": _of_each_query(value_out, big, keep),
        "fused": torch.cat([query_key, width + query_key, 2 * width + value_out]),
        "gated": torch.cat([groups["ffn"], ffn + groups["ffn"]]),
    }


def _of_each_query(dims: Tensor, big: PreTrainedModel, keep: Keep) -> Tensor:
    """Of the keys' dimensions those of every query that shares one."""
    shared = _queries_per_key(big.config)
    heads = dims.view(-1, keep.head_dim) // keep.head_dim
    each = [head * shared + query for head in heads[:, 0].tolist() for query in range(shared)]
    return torch.cat([head * keep.head_dim + torch.arange(keep.head_dim) for head in each])


def _queries_per_key(config: object) -> int:
    heads = getattr(config, "num_attention_heads", 1)
    return heads // (getattr(config, "num_key_value_heads", None) or heads)


def _small_config(config: object, keep: Keep, kept: list[int]) -> object:
    small = copy.deepcopy(config)
    hidden, ffn = len(keep.indices["hidden", None]), len(keep.indices["ffn", 0])
    heads = len(keep.indices["query_key", 0]) // keep.head_dim
    if small.model_type == "distilbert":
        small.dim, small.hidden_dim, small.n_heads, small.n_layers = hidden, ffn, heads, len(kept)
        return small
    if small.model_type == "electra" and small.embedding_size == small.hidden_size:
        small.embedding_size = hidden
    if small.model_type == "modernbert":
        step = getattr(small, "global_attn_every_n_layers", 3)
        global_ones = [place for place, index in enumerate(kept) if index % step == 0]
        small.global_attn_every_n_layers = global_ones[1] if len(global_ones) > 1 else len(kept)
        small.layer_types = [
            "full_attention" if place in global_ones else "sliding_attention" for place in range(len(kept))
        ]
    small.hidden_size, small.intermediate_size = hidden, ffn
    if small.model_type == "deberta-v2":
        small.pooler_hidden_size = hidden
    if hasattr(small, "num_key_value_heads"):
        heads *= _queries_per_key(config)
        small.num_key_value_heads = heads // _queries_per_key(config)
    if small.model_type in ("qwen3", "gemma3_text"):
        small.layer_types = [small.layer_types[index] for index in kept]
    small.num_attention_heads, small.num_hidden_layers = heads, len(kept)
    return small


def outputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """What the model answers, and its hidden states but the last, at tokens that are not padding."""
    with torch.no_grad():
        result = model(**batch, output_hidden_states=True)
    mask = batch["attention_mask"].bool()
    last = result.logits if "logits" in result else result.last_hidden_state
    states = [state[mask] for state in result.hidden_states[:-1]]
    return torch.cat([last[mask].flatten() if last.dim() == 3 else last.flatten(), *(s.flatten() for s in states)])
