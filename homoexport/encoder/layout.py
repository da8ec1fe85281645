"""Where a model family keeps its neurons, and how its layers are read.

Letters: L layers, H heads of one layer, d width of one head, B batch, S sequence, D hidden size,
F ffn width, V vocabulary.

A `Slot` is one axis of one parameter. Neurons come in coupled groups: index j of a group is index j
of every slot of that group, so it goes from all of them or stays in all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from homoexport.choices import GroupKind, PruneGroup
from homoexport.encoder.traits import Traits
from homoexport.errors import ShapeError
from homoexport.shape import PartialShape, Shape, Widths, complete_shape

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # kinds of layers, as configs name them


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter, or one of the equal parts that it is made of.

    Parts lie one after the other, as those of a fused parameter do; or, with a `block`, in turns of so many, as the
    heads do that share keys and values.
    """

    parameter: str
    axis: int
    part: int = 0
    parts: int = 1
    block: int | None = None

    def of(self, values: Tensor, axis: int = 0) -> Tensor:
        """This part of something that lies along the parameter's axis."""
        if self.block is None:
            return values.chunk(self.parts, axis)[self.part]
        before, behind = values.shape[:axis], values.shape[axis + 1 :]
        in_turns = values.reshape(*before, -1, self.parts, self.block, *behind)
        return in_turns.select(axis + 1, self.part).flatten(axis, axis + 1)


class Group(NamedTuple):
    """A kind of coupled neurons, of one layer or (None) of the whole model.

    hidden [D], the residual stream; heads [H], of what all layers share; query_key and value_out [H·d], heads
    outermost, of grouped queries those of the keys; ffn [F].
    """

    kind: GroupKind
    layer: int | None = None


@dataclass(frozen=True)
class Branch:
    """A residual branch of a layer, by its modules' names: linear layers that read the stream, and the one that adds to
    it.

    Attributes:
        norm_before: the LayerNorm whose output the readers take (pre-norm).
        norm_after: the LayerNorm that takes the sum (post-norm).
        norm_of_added: the norm of what the writer puts out, before it is added.
    """

    readers: tuple[str, ...]
    writer: str
    norm_before: str | None = None
    norm_after: str | None = None
    norm_of_added: str | None = None

    @property
    def adds(self) -> str:
        """The module whose output is added."""
        return self.norm_of_added or self.writer


@dataclass(frozen=True)
class LayerSlots:
    """The groups of one layer; the attention axes are [H·d], heads outermost. Its branches are in the order of use."""

    query_key: tuple[Slot, ...]
    value_out: tuple[Slot, ...]
    ffn: tuple[Slot, ...]
    branches: tuple[Branch, ...]
    query: tuple[str, ...] = ()  # parameters that make the query: the softmax scale is folded into them


@dataclass(frozen=True)
class Layout:
    """All groups of a model: the residual stream's, and each layer's."""

    hidden: tuple[Slot, ...]
    layers: tuple[LayerSlots, ...]
    token_rows: str  # the parameter [V, D] (or [V, embedding size]) whose rows only the batch's tokens touch
    shared_heads: tuple[Slot, ...] = ()  # axes [H] that all layers read: a head leaves all layers at once
    embedding_norm: str | None = None  # the LayerNorm whose output enters the first layer
    final_norm: str | None = None  # the LayerNorm after the last layer (pre-norm)
    head_readers: tuple[str, ...] = ()  # linear layers of the heads that take [.., D], in the order of use
    times_root: str | None = None  # the table [V, D] that the model multiplies by √D
    norm_scale: float = 0.0  # what norms add to their weights, which is the scale of each dimension

    def groups(self) -> Iterator[tuple[Group, tuple[Slot, ...]]]:
        """Every group that the model has, with the slots that hold it."""
        yield Group("hidden"), self.hidden
        if self.shared_heads:
            yield Group("heads"), self.shared_heads
        for index, layer in enumerate(self.layers):
            yield Group("query_key", index), layer.query_key
            yield Group("value_out", index), layer.value_out
            yield Group("ffn", index), layer.ffn


@dataclass(frozen=True)
class Taps:
    """Modules whose outputs the layerwise terms compare; forward hooks read them."""

    embedding: nn.Module  # [B, S, D], what enters the first layer
    layers: tuple[nn.Module, ...]  # each [B, S, D], the residual stream after the layer; it enters as first argument
    projections: tuple[tuple[nn.Module, ...], ...]  # of each layer; side by side they give [B, S, 3·H·d]: Q, K, V


class Window(NamedTuple):
    """How far to either side a token attends, the farthest included; None: to the end. Causal layers have 0 to the
    right."""

    left: int | None = None
    right: int | None = None


@dataclass(frozen=True, kw_only=True)
class Family(Traits, ABC):
    """All that pruning must know of a model family; one adapter file each. What has a body suits most of them."""

    model_types: tuple[str, ...]  # of the configs that it serves
    body_name: str  # of the encoder inside a task model
    lm_head_names: tuple[str, ...]  # of the modules that make logits of hidden states, one after the other
    layers_name: str  # of the list of layers inside the body
    ffn_width_name: str = "intermediate_size"  # in its config
    prunes_head_width: bool = True  # rotary positions tie a head's width to its frequencies
    heads_make_hidden: bool = True  # heads times their width are the hidden size; other configs name the width
    shares_layers: bool = False  # all layers are one, called again and again
    takes_additive_mask: bool = True

    def prepare_config(self, config: Any) -> None:
        """Settings to load a model with, so that its layers can be read; a saved config does not keep them."""

    @abstractmethod
    def layout(self, model: nn.Module) -> Layout:
        """The model's slots."""

    @abstractmethod
    def taps(self, model: nn.Module) -> Taps:
        """The modules that the layerwise terms read."""

    @abstractmethod
    def widths(self, model: nn.Module) -> Widths:
        """The widths that the live model has now."""

    @abstractmethod
    def settle(self, model: nn.Module, head_dim: int) -> None:
        """Tell modules their widths after their parameters were sliced, to heads of this width."""

    def body(self, model: nn.Module) -> nn.Module:
        """The encoder without a task head."""
        body = getattr(model, self.body_name, model)
        assert isinstance(body, nn.Module)
        return body

    def prefix(self, model: nn.Module) -> str:
        """What the names of the body's parameters begin with."""
        return "" if self.body(model) is model else f"{self.body_name}."

    def layers_of(self, model: nn.Module) -> Any:
        """The live list of layers."""
        return self.body(model).get_submodule(self.layers_name)

    def lm_head(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """The masked-LM head: [N, D] hidden states to [N, V] logits."""
        return nn.Sequential(*(model.get_submodule(name) for name in self.lm_head_names))

    def tied_decoder(self, model: nn.Module) -> tuple[str, str] | None:
        """The names of a masked-LM head's last LayerNorm and of its decoder, where that has the word embeddings'
        weight."""
        words = model.get_parameter(self.layout(model).token_rows)
        modules = [(name, module) for name, module in model.named_modules() if name.startswith(self.lm_head_names)]
        norms = [name for name, module in modules if isinstance(module, nn.LayerNorm)]
        decoders = [name for name, module in modules if isinstance(module, nn.Linear) and module.weight is words]
        return (norms[-1], decoders[-1]) if norms and decoders else None

    def keep_layers(self, model: nn.Module, kept: Sequence[int]) -> None:
        """Take all other layers out of a live model, and out of its config.

        Raises:
            ShapeError: no stock model is made of these layers.
        """
        layers = self.layers_of(model)
        parent, _, name = self.layers_name.rpartition(".")
        setattr(self.body(model).get_submodule(parent), name, nn.ModuleList(layers[index] for index in kept))
        config: Any = model.config
        config.num_hidden_layers = len(kept)

    def removable_layers(self, model: nn.Module) -> tuple[int, ...]:
        """Layers any one of which can leave, so that the others are a stock model."""
        return tuple(range(len(self.layers_of(model))))

    def write_config(self, config: Any, shape: Shape) -> None:
        """Put widths and the number of layers into a config."""
        config.hidden_size = shape.hidden_size
        setattr(config, self.ffn_width_name, shape.intermediate_size)
        config.num_attention_heads = shape.num_attention_heads
        config.num_hidden_layers = shape.num_hidden_layers

    def check_target(self, config: Any, target: Shape) -> None:
        """Refuse (ShapeError) a shape that a stock model of the family cannot have."""
        head_dim = config.hidden_size // config.num_attention_heads
        if not self.prunes_head_width and target.head_dim != head_dim:
            below = target.hidden_size // head_dim * head_dim
            nearest = [size for size in (below, below + head_dim) if 0 < size <= config.hidden_size]
            raise ShapeError(
                f"{target.num_attention_heads} heads of {target.head_dim} at hidden_size {target.hidden_size}: "
                f"rotary positions tie the width of a head to the teacher's {head_dim}",
                where="student",
                hint=f"possible: {' or '.join(f'{size} with {size // head_dim} heads' for size in nearest)}",
            )

    def complete(self, model: nn.Module, asked: PartialShape, *, prune: Sequence[PruneGroup]) -> Shape:
        """A student's shape: what is asked for, completed from the teacher's, and one that a stock model can have
        (ShapeError)."""
        shape = complete_shape(
            asked,
            self.widths(model).shape,
            prune=prune,
            prunes_head_width=self.prunes_head_width,
            heads_make_hidden=self.heads_make_hidden,
        )
        self.check_target(model.config, shape)
        return shape

    # What most families do not have: the arguments are for those that do.

    def scored(
        self,
        model: nn.Module,  # noqa: ARG002 - rotary families ask its frequencies
        layer: int,  # noqa: ARG002 - theirs differ by layer
        query: Tensor,
        key: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a layer's scores q·k/√d + bias are made of, from its projections [B, S, H·d].

        These are q and k with what positions do to them, and the bias [H, S, S] or [B, H, S, S] of relative positions.
        """
        return query, key, None

    def window(self, model: nn.Module, layer: int) -> Window:  # noqa: ARG002 - ModernBERT's differ
        """What a token of this layer attends to, beside padding, which none does."""
        return Window()
