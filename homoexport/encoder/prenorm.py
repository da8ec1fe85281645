"""Encoders with a decoder's layers: RMSNorm before attention and before a gated feed-forward layer, rotary positions,
and grouped queries (Ainslie et al., arXiv 2305.13245), several of which have the same keys and values.

Heads that share a key leave together. A head's width is a number of its own in their configs, so that heads do not
make up the hidden size. Some are causal, as decoders are: a token attends to none behind it in the text.

Letters: B batch, S sequence, H heads of queries, R queries of a key, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder.layout import LOCAL, Branch, Family, LayerSlots, Layout, Taps, Window
from homoexport.encoder.rotary import turned
from homoexport.encoder.slots import columns, existing, norm, own_linears, rows, square
from homoexport.encoder.traits import Traits, refuse_before_5
from homoexport.errors import ShapeError
from homoexport.shape import Shape, Widths, nearest_multiple

_HEADS = ("dense", "classifier", "score")  # linear layers of heads, in the order of use


@dataclass(frozen=True, kw_only=True)
class PreNorm(Family):
    """Adapter for such a family, as transformers names its modules."""

    body_name: str = "model"
    lm_head_names: tuple[str, ...] = ("lm_head",)
    layers_name: str = "layers"
    prunes_head_width: bool = False
    heads_make_hidden: bool = False
    takes_additive_mask: bool = False
    attention_norm: str = "input_layernorm"
    ffn_norm: str = "post_attention_layernorm"
    both_sides: tuple[str, str] | None = None  # the key that says a decoder is not causal; what 4.57 makes of it
    norms_of_branches: tuple[str, ...] = ()  # of what attention and feed-forward add to the stream

    def prepare_config(self, config: Any) -> None:
        Traits.prepare_config(self, config)
        if self.both_sides is not None and not self.is_causal(config):
            key, why = self.both_sides
            refuse_before_5(config, key, why=why)

    def layout(self, model: nn.Module) -> Layout:
        """Slots of embeddings, layers, last norm and heads."""
        prefix, widths = self.prefix(model), self.widths(model)
        words = f"{prefix}embed_tokens"
        hidden, layers = [columns(words)], []
        turns = [
            {"part": part, "parts": widths.queries_per_key, "block": widths.head_dim}
            for part in range(widths.queries_per_key)
        ]
        for index in range(widths.num_hidden_layers):
            layer = f"{prefix}{self.layers_name}.{index}."
            query, key, value, out = (f"{layer}self_attn.{kind}_proj" for kind in "qkvo")
            gate, up, down = (f"{layer}mlp.{kind}_proj" for kind in ("gate", "up", "down"))
            for name in (self.attention_norm, self.ffn_norm, *self.norms_of_branches):
                hidden += norm(f"{layer}{name}")
            hidden += [columns(linear) for linear in (query, key, value, gate, up)] + [*rows(out), *rows(down)]
            of_added: list[str | None] = [f"{layer}{name}" for name in self.norms_of_branches]
            of_attention, of_ffn = of_added or (None, None)
            queries = [slot for turn in turns for slot in rows(query, **turn)]
            layers.append(
                LayerSlots(
                    query_key=existing(model, (*rows(key), *queries)),
                    value_out=existing(model, (*rows(value), *(columns(out, **turn) for turn in turns))),
                    ffn=existing(model, (*rows(gate), *rows(up), columns(down))),
                    branches=(
                        Branch((query, key, value), out, layer + self.attention_norm, norm_of_added=of_attention),
                        Branch((gate, up), down, layer + self.ffn_norm, norm_of_added=of_ffn),
                    ),
                )
            )
        hidden += [*norm(f"{prefix}norm"), *square("dense")]
        hidden += [columns(linear) for linear in (*_HEADS[1:], *self.lm_head_names)]
        return Layout(
            existing(model, hidden),
            tuple(layers),
            token_rows=f"{words}.weight",
            final_norm=f"{prefix}norm",
            head_readers=own_linears(model, (*_HEADS, *self.lm_head_names), tied_to=f"{words}.weight"),
        )

    def taps(self, model: nn.Module) -> Taps:
        layers = self.layers_of(model)
        return Taps(
            embedding=self.body(model).get_submodule("embed_tokens"),
            layers=tuple(layers),
            projections=tuple(
                (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj) for layer in layers
            ),
        )

    def widths(self, model: nn.Module) -> Widths:
        layers = self.layers_of(model)
        head_dim = layers[0].self_attn.head_dim
        return Widths(
            hidden_size=layers[0].self_attn.q_proj.in_features,
            intermediate_size=layers[0].mlp.gate_proj.out_features,
            heads_per_layer=tuple(layer.self_attn.q_proj.out_features // head_dim for layer in layers),
            head_dim=head_dim,
            queries_per_key=layers[0].self_attn.num_key_value_groups,
        )

    def settle(self, model: nn.Module, head_dim: int) -> None:
        """Nothing: they keep the width of a head, and find the number of heads by it."""

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        super().keep_layers(model, kept)
        config: Any = model.config
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = [kinds[index] for index in kept]

    def write_config(self, config: Any, shape: Shape) -> None:
        """Heads of keys, too, and which layers are local: of more than there are, the kinds begin again."""
        queries_per_key = _queries_per_key(config)
        super().write_config(config, shape)
        config.head_dim = shape.head_dim
        config.num_key_value_heads = shape.num_attention_heads // queries_per_key
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = list(islice(cycle(kinds), shape.num_hidden_layers))

    def check_target(self, config: Any, target: Shape) -> None:
        queries_per_key = _queries_per_key(config)
        if (heads := target.num_attention_heads) % queries_per_key:
            what = f"{heads} heads are no multiple of the {queries_per_key} that share their keys and leave together"
            raise ShapeError(what, where="student", hint=f"the nearest is {nearest_multiple(heads, queries_per_key)}")

    def scored(self, model: nn.Module, layer: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, and each key once for every query that it answers, [B, S, H·d], both normed and turned."""
        attention = self.layers_of(model)[layer].self_attn
        angles, of_heads = self.angles(model, layer, query), (*query.shape[:2], -1, attention.head_dim)
        query, key = (
            turned(getattr(attention, name, nn.Identity())(side.view(of_heads)).flatten(-2), *angles)
            for name, side in (("q_norm", query), ("k_norm", key))
        )
        keys = key.view(of_heads).repeat_interleave(attention.num_key_value_groups, dim=2)
        return query * (attention.scaling * attention.head_dim**0.5), keys.flatten(-2), None

    def window(self, model: nn.Module, layer: int) -> Window:
        """All, or in a local layer as many as `reach` says; of a causal model none to the right."""
        reach = self.reach(model.config) if self.is_local(model, layer) else None
        return Window(reach, 0 if self.is_causal(model.config) else reach)

    def is_causal(self, config: Any) -> bool:  # noqa: ARG002 - Qwen3 and Gemma ask it
        """Whether a token attends to none to its right."""
        return False

    def reach(self, config: Any) -> int:
        """How far a local layer's token attends: `sliding_window` counts the token itself."""
        return int(config.sliding_window) - 1

    def is_local(self, model: nn.Module, layer: int) -> bool:
        config: Any = model.config
        kinds = getattr(config, "layer_types", None)
        return kinds is not None and kinds[layer] == LOCAL

    def angles(self, model: nn.Module, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - Gemma's
        """Cosines and sines [1, S, d] of the positions in a layer, of states [B, S, ...]."""
        body: Any = self.body(model)
        cos, sin = body.rotary_emb(states, torch.arange(states.shape[1], device=states.device)[None])
        return cos, sin


def _queries_per_key(config: Any) -> int:
    return int(config.num_attention_heads // config.num_key_value_heads)


@dataclass(frozen=True)
class _Qwen3(PreNorm):
    """Causal as it is shipped; embedding models made of it often are not."""

    def is_causal(self, config: Any) -> bool:
        return bool(getattr(config, "is_causal", True))

    def reach(self, config: Any) -> int:
        """Where both sides are seen, transformers does not count the token itself."""
        return super().reach(config) + (not self.is_causal(config))


EUROBERT = PreNorm(model_types=("eurobert",))
QWEN3 = _Qwen3(model_types=("qwen3",), both_sides=("is_causal: false", "is causal all the same"))
