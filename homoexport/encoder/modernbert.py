"""ModernBERT: pre-norm, fused projections, gated feed-forward, rotary positions, local and global layers.

transformers 5 and 4.57 keep rotary frequencies and layer kinds in different places; both are read.
A stock config of 4.57 says which layers are global by one number n: every n-th one, the first
included. The first layer has no LayerNorm before its attention. Depth is pruned within these bounds.

Letters: B batch, S sequence, H heads, d head width, D hidden size, F ffn width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder.layout import GLOBAL, LOCAL, Branch, Family, LayerSlots, Layout, Taps, Window
from homoexport.encoder.rotary import turned
from homoexport.encoder.slots import columns, existing, norm, own_linears, rows, square
from homoexport.errors import ShapeError
from homoexport.shape import Shape, Widths

_USUAL_PERIOD = 3


class _ModernBert(Family):
    def layout(self, model: nn.Module) -> Layout:
        """Slots of embeddings, layers, final norm and heads; Wqkv is three parts, the gated Wi two."""
        prefix = self.prefix(model)
        hidden = [columns(f"{prefix}embeddings.tok_embeddings"), *norm(f"{prefix}embeddings.norm")]
        layers = []
        for index in range(len(self.layers_of(model))):
            layer = f"{prefix}layers.{index}."
            qkv, attention_out = f"{layer}attn.Wqkv", f"{layer}attn.Wo"
            ffn_in, ffn_out = f"{layer}mlp.Wi", f"{layer}mlp.Wo"
            hidden += [*norm(f"{layer}attn_norm"), *norm(f"{layer}mlp_norm")]
            hidden += [columns(qkv), *rows(attention_out), columns(ffn_in), *rows(ffn_out)]
            query_key = [*rows(qkv, part=0, parts=3), *rows(qkv, part=1, parts=3)]
            value_out = [*rows(qkv, part=2, parts=3), columns(attention_out)]
            ffn = [*rows(ffn_in, part=0, parts=2), *rows(ffn_in, part=1, parts=2), columns(ffn_out)]
            layers.append(
                LayerSlots(
                    query_key=existing(model, query_key),
                    value_out=existing(model, value_out),
                    ffn=existing(model, ffn),
                    branches=(
                        Branch((qkv,), attention_out, norm_before=f"{layer}attn_norm" if index else None),
                        Branch((ffn_in,), ffn_out, norm_before=f"{layer}mlp_norm"),
                    ),
                )
            )
        hidden += [*norm(f"{prefix}final_norm"), *square("head.dense"), *norm("head.norm")]
        hidden += [columns("decoder"), columns("classifier")]
        words = f"{prefix}embeddings.tok_embeddings.weight"
        return Layout(
            existing(model, hidden),
            tuple(layers),
            token_rows=words,
            embedding_norm=f"{prefix}embeddings.norm",
            final_norm=f"{prefix}final_norm",
            head_readers=own_linears(model, ("head.dense", "decoder", "classifier"), tied_to=words),
        )

    def taps(self, model: nn.Module) -> Taps:
        layers = self.layers_of(model)
        return Taps(
            embedding=self.body(model).get_submodule("embeddings"),
            layers=tuple(layers),
            projections=tuple((layer.attn.Wqkv,) for layer in layers),
        )

    def widths(self, model: nn.Module) -> Widths:
        layers = self.layers_of(model)
        head_dim = layers[0].attn.head_dim
        return Widths(
            hidden_size=layers[0].attn.Wqkv.in_features,
            intermediate_size=layers[0].mlp.Wo.in_features,
            heads_per_layer=tuple(layer.attn.Wo.in_features // head_dim for layer in layers),
            head_dim=head_dim,
        )

    def settle(self, model: nn.Module, head_dim: int) -> None:
        for layer in self.layers_of(model):
            layer.attn.head_dim = head_dim
            layer.attn.all_head_size = layer.attn.Wo.in_features
            layer.attn.num_heads = layer.attn.all_head_size // head_dim

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Refuses to go without the first layer, or with global layers at other than even distances."""
        config: Any = model.config
        kinds = [_is_global(self.layers_of(model)[index]) for index in kept]
        if kept[0] != 0 or _period(config, kinds) is None:
            raise ShapeError(
                f"a {config.model_type} model of the teacher's layers {', '.join(str(index + 1) for index in kept)} "
                "has no stock config",
                where="student",
                hint="keep the first layer, and global layers at even distances (the last layers can always go)",
            )
        super().keep_layers(model, kept)
        _write_kinds(config, kinds)

    def removable_layers(self, model: nn.Module) -> tuple[int, ...]:
        """Those without which the rest begins with the first and has its global layers at even distances."""
        kinds = [_is_global(layer) for layer in self.layers_of(model)]
        others = {index: [*kinds[:index], *kinds[index + 1 :]] for index in range(1, len(kinds))}
        return tuple(index for index, left in others.items() if _period(model.config, left) is not None)

    def prepare_config(self, config: Any) -> None:
        """Layers see [B, S, D], padding included, and compile nothing; 4.57 reads what 5 wrote."""
        config._attn_implementation = "sdpa"
        config.reference_compile = False
        _write_kinds(config, _kinds_of(config))

    def write_config(self, config: Any, shape: Shape) -> None:
        """Widths, number of layers, and what each version of transformers reads of kinds and frequencies."""
        kinds = _kinds_of(config)
        period = _period(config, kinds) or len(kinds)
        kinds += [index % period == 0 for index in range(len(kinds), shape.num_hidden_layers)]
        super().write_config(config, shape)
        _write_kinds(config, kinds[: shape.num_hidden_layers])

    def scored(self, model: nn.Module, layer: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys turned by the frequencies of a local or a global layer."""
        module, body = self.layers_of(model)[layer], self.body(model)
        places = torch.arange(query.shape[1], device=query.device)[None]
        if hasattr(body, "rotary_emb"):
            # to mypy any attribute of a module may be a tensor, which is not called
            cos, sin = body.rotary_emb(query, places, module.attention_type)  # type: ignore[operator]
        else:
            cos, sin = module.attn.rotary_emb(query, position_ids=places)
        return turned(query, cos, sin), turned(key, cos, sin), None

    def window(self, model: nn.Module, layer: int) -> Window:
        """Half of `local_attention` in local layers, both ends included."""
        config: Any = model.config
        half = None if _is_global(self.layers_of(model)[layer]) else int(config.local_attention) // 2
        return Window(half, half)


def _is_global(layer: Any) -> bool:
    if hasattr(layer, "attention_type"):
        return bool(layer.attention_type == GLOBAL)
    return bool(layer.attn.local_attention == (-1, -1))


def _period_of(config: Any) -> int:
    return int(getattr(config, "global_attn_every_n_layers", _USUAL_PERIOD))


def _period(config: Any, kinds: Sequence[bool]) -> int | None:
    """The n, as it is if it may stay, such that the layers 0, n, 2n, ... are the global ones."""
    periods = (_period_of(config), *range(1, len(kinds) + 1))
    fits = (n for n in periods if all(kind == (index % n == 0) for index, kind in enumerate(kinds)))
    return next(fits, None)


def _kinds_of(config: Any) -> list[bool]:
    types = getattr(config, "layer_types", None)
    if types is not None:
        return [kind == GLOBAL for kind in types]
    return [index % _period_of(config) == 0 for index in range(config.num_hidden_layers)]


def _write_kinds(config: Any, kinds: Sequence[bool]) -> None:
    period = _period(config, kinds)
    config.num_hidden_layers = len(kinds)
    config.layer_types = [GLOBAL if kind else LOCAL for kind in kinds]
    if period is not None:
        config.global_attn_every_n_layers = period
    rope = getattr(config, "rope_parameters", None)
    if rope is not None:
        config.global_rope_theta = rope[GLOBAL]["rope_theta"]
        config.local_rope_theta = rope[LOCAL]["rope_theta"]


MODERNBERT = _ModernBert(
    model_types=("modernbert",),
    body_name="model",
    lm_head_names=("head", "decoder"),
    layers_name="layers",
    prunes_head_width=False,
    takes_additive_mask=False,  # local layers would attend to everything, and a mean-pooling head reads it, too
)
