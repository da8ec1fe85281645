"""Encoders whose layers are attention, LayerNorm, feed-forward, LayerNorm.

They differ in the names of their modules, so an adapter is those, and what is the family's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from homoexport.encoder.layout import Branch, Family, LayerSlots, Layout, Slot, Taps
from homoexport.encoder.slots import columns, existing, norm, own_linears, rows, square
from homoexport.shape import Widths


@dataclass(frozen=True, kw_only=True)
class PostNorm(Family):
    """Adapter for a family of post-norm encoders, by its names; dotted paths where one module lies inside another.

    A pooler's and a head transform's output keep the stream's width: stock configs have no other,
    and a tied decoder reads the latter with the word embeddings' columns.
    """

    # Of heads, by their full names in a task model: linear layers [D, D], those of [any, D], LayerNorms.
    squares: tuple[str, ...]
    readers: tuple[str, ...]
    head_norms: tuple[str, ...] = ()
    pooler: str = "pooler.dense"  # in the body
    # Inside a layer: the module that knows the number of heads, and, inside that one, the projections.
    layers_name: str = "encoder.layer"
    attention: str = "attention.self"
    query: str = "query"
    key: str = "key"
    value: str = "value"
    # Inside a layer: the projection back into the stream, and what follows.
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    ffn_in: str = "intermediate.dense"
    ffn_gate: str | None = None  # beside it, of gated ones
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"
    # Attributes of the attention that hold the number of heads, and heads times head width.
    head_count: str = "num_attention_heads"
    inner_width: str = "all_head_size"
    head_width: str = "attention_head_size"

    def embedding_slots(self, model: nn.Module) -> list[Slot]:
        """The embedding layer's share of the residual stream."""
        place = f"{self.prefix(model)}embeddings"
        kinds = ("word", "position", "token_type")
        return [*(columns(f"{place}.{kind}_embeddings") for kind in kinds), *norm(f"{place}.LayerNorm")]

    def layer_names(self, model: nn.Module) -> list[str]:
        """The layers' names in the body, in the order of use."""
        return [f"{self.layers_name}.{index}" for index in range(len(self.layers_of(model)))]

    def layout(self, model: nn.Module) -> Layout:
        """Slots of embeddings, layers, pooler and heads, as far as the model has them."""
        prefix = self.prefix(model)
        hidden = self.embedding_slots(model)
        layers = []
        for name in self.layer_names(model):
            layer = f"{prefix}{name}."
            attention = f"{layer}{self.attention}."
            query, key, value = (attention + name for name in (self.query, self.key, self.value))
            out, ffn_out = layer + self.attention_out, layer + self.ffn_out
            ffn_in = tuple(layer + name for name in (self.ffn_in, self.ffn_gate) if name)
            hidden += [columns(linear) for linear in (query, key, value, *ffn_in)]
            hidden += [*rows(out), *rows(ffn_out)]
            attention_norm, ffn_norm = layer + self.attention_norm, layer + self.ffn_norm
            hidden += [*norm(attention_norm), *norm(ffn_norm)]
            layers.append(
                LayerSlots(
                    query_key=existing(model, (*rows(query), *rows(key))),
                    value_out=existing(model, (*rows(value), columns(out))),
                    ffn=existing(model, (*(slot for linear in ffn_in for slot in rows(linear)), columns(ffn_out))),
                    branches=(
                        Branch((query, key, value), out, norm_after=attention_norm),
                        Branch(ffn_in, ffn_out, norm_after=ffn_norm),
                    ),
                    query=tuple(slot.parameter for slot in existing(model, rows(query))),
                )
            )
        squares = (f"{prefix}{self.pooler}", *self.squares)
        for linear in squares:
            hidden += square(linear)
        for name in self.head_norms:
            hidden += norm(name)
        hidden += [columns(linear) for linear in self.readers]
        words = f"{prefix}embeddings.word_embeddings.weight"
        return Layout(
            existing(model, hidden),
            tuple(layers),
            token_rows=words,
            embedding_norm=f"{prefix}embeddings.LayerNorm",
            head_readers=own_linears(model, (*squares, *self.readers), tied_to=words),
        )

    def taps(self, model: nn.Module) -> Taps:
        attentions = [layer.get_submodule(self.attention) for layer in self.layers_of(model)]
        projections = (self.query, self.key, self.value)
        return Taps(
            embedding=self.body(model).get_submodule("embeddings"),
            layers=tuple(self.layers_of(model)),
            projections=tuple(tuple(module.get_submodule(name) for name in projections) for module in attentions),
        )

    def widths(self, model: nn.Module) -> Widths:
        layers = self.layers_of(model)
        attentions = [layer.get_submodule(self.attention) for layer in layers]
        queries = [module.get_submodule(self.query) for module in attentions]
        head_dim = getattr(attentions[0], self.head_width)
        return Widths(
            hidden_size=queries[0].in_features,
            intermediate_size=layers[0].get_submodule(self.ffn_in).out_features,
            heads_per_layer=tuple(query.out_features // head_dim for query in queries),
            head_dim=head_dim,
        )

    def settle(self, model: nn.Module, head_dim: int) -> None:
        for layer in self.layers_of(model):
            attention = layer.get_submodule(self.attention)
            width = attention.get_submodule(self.query).out_features
            setattr(attention, self.head_width, head_dim)
            attention.scaling = head_dim**-0.5
            setattr(attention, self.inner_width, width)
            setattr(attention, self.head_count, width // head_dim)
