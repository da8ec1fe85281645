"""DeBERTa-v2 and v3: disentangled attention (He et al., arXiv 2006.03654 and 2111.09543).

Scores are the sum of content to content, content to position and position to content; the vectors of relative positions
lie in the residual stream, and in v2 and v3 the queries' and keys' layers read them, too.

Letters: B batch, S sequence, H heads, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from homoexport.encoder.layout import Layout
from homoexport.encoder.postnorm import PostNorm
from homoexport.encoder.slots import columns, existing, norm, rows
from homoexport.errors import ShapeError
from homoexport.shape import Shape


@dataclass(frozen=True)
class _DebertaV2(PostNorm):
    def layout(self, model: nn.Module) -> Layout:
        """The table of relative positions [buckets, D] with its LayerNorm, and what projects it where that is its own.

        Where the queries' and keys' layers do, they are none that read the stream alone, which repair could mend.
        """
        layout, encoder = super().layout(model), f"{self.prefix(model)}encoder"
        hidden = [*layout.hidden, columns(f"{encoder}.rel_embeddings"), *norm(f"{encoder}.LayerNorm")]
        layers = []
        for name, layer in zip(self.layer_names(model), layout.layers, strict=True):
            attention = f"{self.prefix(model)}{name}.{self.attention}"
            query, key = (f"{attention}.{linear}" for linear in ("pos_query_proj", "pos_key_proj"))
            hidden += [columns(query), columns(key)]
            first, *others = layer.branches
            if model.get_submodule(attention).share_att_key:
                first = replace(first, readers=first.readers[2:])
            layers.append(
                replace(
                    layer,
                    query_key=existing(model, (*layer.query_key, *rows(query), *rows(key))),
                    branches=(first, *others),
                    query=(*layer.query, *(slot.parameter for slot in existing(model, rows(query)))),
                )
            )
        return replace(layout, hidden=existing(model, hidden), layers=tuple(layers))

    def lm_head(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Of the two that transformers has, the newer one is given the word embeddings."""
        head: Any = getattr(model, "lm_predictions", None)
        if head is None:
            return super().lm_head(model)
        words = self.body(model).get_submodule("embeddings.word_embeddings")
        return lambda states: head(states, words)

    def scored(self, model: nn.Module, layer: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content to content, and as a bias [B, H, S, S] the two of positions; all are divided by their number's root,
        too."""
        encoder: Any = self.body(model).get_submodule("encoder")
        attention = encoder.layer[layer].attention.self
        kinds = 1 + sum(kind in attention.pos_att_type for kind in ("c2p", "p2c"))
        if not attention.relative_attention:
            return query / kinds**0.5, key, None
        heads = attention.num_attention_heads
        split = [attention.transpose_for_scores(side, heads) for side in (query, key)]  # [B·H, S, d]
        bias: Tensor = attention.disentangled_attention_bias(*split, None, encoder.get_rel_embedding(), kinds)
        return query / kinds**0.5, key, bias.view(-1, heads, *bias.shape[1:])

    def write_config(self, config: Any, shape: Shape) -> None:
        """Other widths that are the hidden size's, or the heads', where a config names them."""
        super().write_config(config, shape)
        config.pooler_hidden_size = shape.hidden_size
        for name, width in (("embedding_size", shape.hidden_size), ("attention_head_size", shape.head_dim)):
            if hasattr(config, name):
                setattr(config, name, width)

    def check_target(self, config: Any, target: Shape) -> None:
        super().check_target(config, target)
        if getattr(config, "conv_kernel_size", 0) > 0:
            what = "its convolution behind the first layer cannot be pruned (conv_kernel_size in its config)"
            raise ShapeError(what, where="teacher", hint="name a DeBERTa without one, as those of v3 are")
        if getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
            what = f"its embeddings are {config.embedding_size} wide and its layers {config.hidden_size}"
            raise ShapeError(what, where="teacher", hint="name a DeBERTa whose widths are the same")


DEBERTA_V2 = _DebertaV2(
    model_types=("deberta-v2",),
    body_name="deberta",
    lm_head_names=("cls",),
    squares=("pooler.dense", "cls.predictions.transform.dense", "lm_predictions.lm_head.dense"),
    readers=("cls.predictions.decoder", "classifier"),
    head_norms=("cls.predictions.transform.LayerNorm", "lm_predictions.lm_head.LayerNorm"),
    query="query_proj",
    key="key_proj",
    value="value_proj",
    takes_additive_mask=False,  # it multiplies masks
)
