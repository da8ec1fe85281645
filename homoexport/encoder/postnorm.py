"""Encoders whose layers are attention, LayerNorm, feed-forward, LayerNorm, with learned positions.

They differ in the names of their modules, so an adapter is a `Names` and what is the family's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from homoexport.encoder.layout import LayerSlots, Layout, Slot, Taps
from homoexport.encoder.slots import columns, existing, norm, parameters_of, rows, square
from homoexport.shape import Shape, Widths


@dataclass(frozen=True)
class Names:
    """How a family calls its modules; dotted paths where one lies inside another.

    Attributes:
        body: of the encoder inside a task model.
        layers: of the list of layers, inside the body.
        attention: of the module that knows the number of heads, inside a layer.
        query: of the projection, inside the attention, as are `key` and `value`.
        attention_out: of the projection back into the stream, inside a layer, as are all that follow.
        head_count: attribute of the attention that holds the number of heads.
        inner_width: attribute of the attention that holds heads × head width.
        intermediate_size: attribute of the config that holds the feed-forward width.
        lm_head: of the modules that make logits out of hidden states, one after the other.
        squares: of heads' linear layers [D, D], by their full names in a task model.
        readers: of heads' linear layers [any, D].
        head_norms: of heads' LayerNorms.
    """

    body: str
    lm_head: tuple[str, ...]
    squares: tuple[str, ...]
    readers: tuple[str, ...]
    head_norms: tuple[str, ...]
    layers: str = "encoder.layer"
    attention: str = "attention.self"
    query: str = "query"
    key: str = "key"
    value: str = "value"
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    ffn_in: str = "intermediate.dense"
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"
    head_count: str = "num_attention_heads"
    inner_width: str = "all_head_size"
    intermediate_size: str = "intermediate_size"


@dataclass(frozen=True)
class PostNorm:
    """Adapter for a family of post-norm encoders.

    A pooler's and a head transform's output keep the stream's width: stock configs have no other,
    and a tied decoder reads the latter with the word embeddings' columns.
    """

    model_types: tuple[str, ...]
    names: Names
    prunes_head_width: bool = True
    pretrains_lm_head: bool = True
    takes_additive_mask: bool = True

    def body(self, model: nn.Module) -> nn.Module:
        body = getattr(model, self.names.body, model)
        assert isinstance(body, nn.Module)
        return body

    def prefix(self, model: nn.Module) -> str:
        """What the names of the body's parameters begin with."""
        return "" if self.body(model) is model else f"{self.names.body}."

    def layers_of(self, model: nn.Module) -> Any:
        return self.body(model).get_submodule(self.names.layers)

    def lm_head(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        return nn.Sequential(*(model.get_submodule(name) for name in self.names.lm_head))

    def embedding_slots(self, model: nn.Module) -> list[Slot]:
        """The embedding layer's share of the residual stream."""
        place = f"{self.prefix(model)}embeddings"
        kinds = ("word", "position", "token_type")
        return [*(columns(f"{place}.{kind}_embeddings") for kind in kinds), *norm(f"{place}.LayerNorm")]

    def layout(self, model: nn.Module) -> Layout:
        """Slots of embeddings, layers, pooler and heads, as far as the model has them."""
        names, prefix = self.names, self.prefix(model)
        hidden = self.embedding_slots(model)
        layers = []
        for index in range(len(self.layers_of(model))):
            layer = f"{prefix}{names.layers}.{index}."
            attention = f"{layer}{names.attention}."
            query, key, value = (attention + name for name in (names.query, names.key, names.value))
            out, ffn_in, ffn_out = (layer + name for name in (names.attention_out, names.ffn_in, names.ffn_out))
            hidden += [columns(linear) for linear in (query, key, value, ffn_in)]
            hidden += [*rows(out), *rows(ffn_out)]
            hidden += [*norm(layer + names.attention_norm), *norm(layer + names.ffn_norm)]
            layers.append(
                LayerSlots(
                    query_key=(*rows(query), *rows(key)),
                    value_out=(*rows(value), columns(out)),
                    ffn=(*rows(ffn_in), columns(ffn_out)),
                    query=(f"{query}.weight", f"{query}.bias"),
                )
            )
        for linear in (f"{prefix}pooler.dense", *names.squares):
            hidden += square(linear)
        for name in names.head_norms:
            hidden += norm(name)
        hidden += [columns(linear) for linear in names.readers]
        return Layout(
            existing(parameters_of(model), hidden),
            tuple(layers),
            token_rows=f"{prefix}embeddings.word_embeddings.weight",
        )

    def taps(self, model: nn.Module) -> Taps:
        attentions = [layer.get_submodule(self.names.attention) for layer in self.layers_of(model)]
        projections = (self.names.query, self.names.key, self.names.value)
        return Taps(
            embedding=self.body(model).get_submodule("embeddings"),
            layers=tuple(self.layers_of(model)),
            projections=tuple(tuple(module.get_submodule(name) for name in projections) for module in attentions),
        )

    def widths(self, model: nn.Module) -> Widths:
        layers = self.layers_of(model)
        attentions = [layer.get_submodule(self.names.attention) for layer in layers]
        queries = [module.get_submodule(self.names.query) for module in attentions]
        head_dim = attentions[0].attention_head_size
        return Widths(
            hidden_size=queries[0].in_features,
            intermediate_size=layers[0].get_submodule(self.names.ffn_in).out_features,
            heads_per_layer=tuple(query.out_features // head_dim for query in queries),
            head_dim=head_dim,
        )

    def set_head_dim(self, model: nn.Module, head_dim: int) -> None:
        for layer in self.layers_of(model):
            attention = layer.get_submodule(self.names.attention)
            width = attention.get_submodule(self.names.query).out_features
            attention.attention_head_size = head_dim
            attention.scaling = head_dim**-0.5
            setattr(attention, self.names.inner_width, width)
            setattr(attention, self.names.head_count, width // head_dim)

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        layers = self.layers_of(model)
        parent, _, name = self.names.layers.rpartition(".")
        setattr(self.body(model).get_submodule(parent), name, nn.ModuleList(layers[index] for index in kept))
        config: Any = model.config
        config.num_hidden_layers = len(kept)

    def removable_layers(self, model: nn.Module) -> tuple[int, ...]:
        return tuple(range(len(self.layers_of(model))))

    def prepare_config(self, config: Any) -> None:
        """Nothing to do."""

    def write_config(self, config: Any, shape: Shape) -> None:
        config.hidden_size = shape.hidden_size
        setattr(config, self.names.intermediate_size, shape.intermediate_size)
        config.num_attention_heads = shape.num_attention_heads
        config.num_hidden_layers = shape.num_hidden_layers

    def check_target(self, config: Any, target: Shape) -> None:
        """Nothing to refuse."""

    def longest_sequence(self, config: Any) -> int | None:
        return int(config.max_position_embeddings)

    # The family's interface has arguments that there is no need of here.
    def rotate(self, model: nn.Module, layer: int, projected: Tensor, head_dim: int) -> Tensor:  # noqa: ARG002
        return projected

    def score_bias(self, model: nn.Module, length: int) -> Tensor | None:  # noqa: ARG002 - the family's interface
        return None

    def window(self, model: nn.Module, layer: int) -> int | None:  # noqa: ARG002 - the family's interface
        return None
