"""The widths of encoders: what is asked for, what a model has, and what is left of it while it is pruned.

A `Shape` is a complete shape that a stock model can have. A `PartialShape` is what a user asks for; `complete_shape`
makes a shape of it and of the teacher's. `Widths` are those of a live model, whose layers may differ in their number
of heads while it is pruned. Fields are named as in Hugging Face configs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from homoexport.choices import PruneGroup, Side
from homoexport.errors import ShapeError, UserError
from homoexport.units import parse_count


@dataclass(frozen=True, order=True)
class Shape:
    """Widths and depth of a stock model, whose layers are alike.

    `head_width` is given of heads that do not make up the hidden size, as some families' do not.
    """

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    head_width: int | None = None

    def __post_init__(self) -> None:
        """Shapes are equal whether or not they say what follows from the other widths."""
        if self.head_width is not None and self.head_width * self.num_attention_heads == self.hidden_size:
            object.__setattr__(self, "head_width", None)

    @property
    def head_dim(self) -> int:
        return self.head_width or self.hidden_size // self.num_attention_heads

    @property
    def name(self) -> str:
        """Such as `6 x 192/768, 6 heads`."""
        heads = f"{self.num_attention_heads} head{'s' * (self.num_attention_heads > 1)}"
        return f"{self.num_hidden_layers} x {self.hidden_size}/{self.intermediate_size}, {heads}"

    def within(self, other: Shape) -> bool:
        """Whether the other can be pruned to it."""
        return (
            self.num_hidden_layers <= other.num_hidden_layers
            and self.hidden_size <= other.hidden_size
            and self.intermediate_size <= other.intermediate_size
            and self.num_attention_heads <= other.num_attention_heads
            and self.head_dim <= other.head_dim
        )

    @property
    def asked(self) -> dict[str, int]:
        """The four figures that a student is asked for by, by name."""
        return {name: value for name, value in asdict(self).items() if name != "head_width"}

    def as_json(self) -> dict[str, int]:
        """Five figures by name: those and the width of a head."""
        return {**self.asked, "head_dim": self.head_dim}


def _as_fields(shape: Any) -> Any:
    """Files have the width of a head whether or not it follows from the others, for those who read them."""
    if not isinstance(shape, dict):
        return shape
    return {"head_width" if name == "head_dim" else name: value for name, value in shape.items()}


WrittenShape = Annotated[Shape, BeforeValidator(_as_fields), PlainSerializer(Shape.as_json)]  # in documents


def _counted(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no count")
    try:
        return parse_count(value, where="") if isinstance(value, str) else value
    except UserError as error:
        raise ValueError(str(error)) from None


Count = Annotated[int, BeforeValidator(_counted)]  # may be written as 12k


class PartialShape(BaseModel):
    """A student's shape as it is asked for, and the space that it answers in. Hidden size and layers are the teacher's
    where they are left out; the feed-forward width then keeps its proportion to the hidden size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int | None = Field(None, ge=1, description="Width of the residual stream; the teacher's by default.")
    intermediate_size: int | None = Field(None, ge=1, description="Width of the feed-forward layers.")
    num_attention_heads: int | None = Field(
        None, ge=1, description="Heads; in most families hidden_size must be divisible by it."
    )
    num_hidden_layers: int | None = Field(
        None, ge=1, description="Layers; the others leave at once, or fade out with homodistil."
    )
    vocab_size: Count | None = Field(
        None,
        ge=1,
        examples=["12k"],
        description="Pieces of the tokenizer that are kept at most, those that the text needs most; by default all.",
    )
    output: Side = Field(
        "student",
        description="The space of its vectors: student (its own hidden size) or teacher (a last linear layer takes "
        "them there, so that they search an index of the teacher's, or of the model of distill.vectors_from; "
        "sentence-embedding).",
    )

    @classmethod
    def of(cls, shape: Shape, vocab_size: int | None = None) -> PartialShape:
        return cls(**shape.asked, vocab_size=vocab_size)


@dataclass(frozen=True)
class Widths:
    """A live model's widths. While it is pruned, layers may differ in their number of heads.

    Of each layer's heads, `queries_per_key` side by side have the same keys and values (grouped queries): they leave
    together.
    """

    hidden_size: int
    intermediate_size: int
    heads_per_layer: tuple[int, ...]
    head_dim: int
    queries_per_key: int = field(default=1, compare=False)  # the same of all widths of a model

    @classmethod
    def of(cls, shape: Shape) -> Widths:
        heads = (shape.num_attention_heads,) * shape.num_hidden_layers
        return cls(shape.hidden_size, shape.intermediate_size, heads, shape.head_dim)

    @property
    def shape(self) -> Shape:
        """Of a model whose layers are alike."""
        (heads,) = set(self.heads_per_layer)
        return Shape(self.num_hidden_layers, self.hidden_size, self.intermediate_size, heads, self.head_dim)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.heads_per_layer)

    @property
    def total_heads(self) -> int:
        return sum(self.heads_per_layer)

    def exceeds(self, other: Widths) -> bool:
        """Whether there is more of anything than in the other; heads are counted over all layers."""
        return (
            self.hidden_size > other.hidden_size
            or self.intermediate_size > other.intermediate_size
            or self.total_heads > other.total_heads
            or self.head_dim > other.head_dim
        )

    def at_most(self, other: Widths) -> Widths:
        """The lesser of each; heads are counted over all layers, and spread over as many as here."""
        return self._of_each(min, other)

    def at_least(self, other: Widths) -> Widths:
        """The greater of each; heads are counted over all layers, and spread over as many as here."""
        return self._of_each(max, other)

    def _of_each(self, choose: Callable[[int, int], int], other: Widths) -> Widths:
        return Widths(
            choose(self.hidden_size, other.hidden_size),
            choose(self.intermediate_size, other.intermediate_size),
            spread_heads(choose(self.total_heads, other.total_heads), self.num_hidden_layers),
            choose(self.head_dim, other.head_dim),
            self.queries_per_key,
        )

    def as_json(self) -> dict[str, float]:
        """Its five figures by name; heads as the mean over the layers."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.total_heads / self.num_hidden_layers,
            "head_dim": self.head_dim,
            "num_hidden_layers": self.num_hidden_layers,
        }


def spread_heads(total: int, layers: int) -> tuple[int, ...]:
    """Heads of each layer, as evenly as it can be."""
    base, extra = divmod(total, layers)
    return (base + 1,) * extra + (base,) * (layers - extra)


def complete_shape(
    asked: PartialShape,
    teacher: Shape,
    *,
    prune: Sequence[PruneGroup],
    prunes_head_width: bool = True,
    heads_make_hidden: bool = True,
) -> Shape:
    """Complete a student's shape and check it against its teacher's.

    What is left out is the teacher's, or in proportion: the ffn width to the hidden size, and as many heads as keep the
    teacher's head width, or else the teacher's number. Groups that are not in `prune` keep the teacher's width. Where
    heads do not make up the hidden size (`heads_make_hidden`), neither says anything of the other.

    Raises:
        ShapeError: wider or deeper than the teacher, not divisible into heads, or a group would
            have to shrink that may not.
    """
    hidden = asked.hidden_size or teacher.hidden_size
    ffn = asked.intermediate_size
    if ffn is None:
        proportional = round(teacher.intermediate_size * hidden / teacher.hidden_size)
        ffn = proportional if "ffn" in prune else teacher.intermediate_size
    layers = asked.num_hidden_layers or teacher.num_hidden_layers
    if not heads_make_hidden:
        heads = asked.num_attention_heads or teacher.num_attention_heads
        shape = Shape(layers, hidden, ffn, heads, teacher.head_dim)
        _check(shape, teacher, prune, prunes_head_width)
        return shape
    narrows = prunes_head_width and "head-width" in prune
    heads = asked.num_attention_heads or _default_heads(teacher, hidden, fewer="heads" in prune, narrower=narrows)
    if hidden % heads:
        raise ShapeError(
            f"hidden_size {hidden} is not divisible into {heads} heads",
            where="student",
            hint=f"the nearest that is: {nearest_multiple(hidden, heads)}, or another num_attention_heads",
        )
    shape = Shape(layers, hidden, ffn, heads)
    _check(shape, teacher, prune, prunes_head_width)
    return shape


def _check(shape: Shape, teacher: Shape, prune: Sequence[PruneGroup], prunes_head_width: bool) -> None:
    for name, group, wanted, limit in (
        ("hidden_size", "hidden", shape.hidden_size, teacher.hidden_size),
        ("intermediate_size", "ffn", shape.intermediate_size, teacher.intermediate_size),
        ("num_attention_heads", "heads", shape.num_attention_heads, teacher.num_attention_heads),
        ("the width of a head", "head-width", shape.head_dim, teacher.head_dim),
        ("num_hidden_layers", None, shape.num_hidden_layers, teacher.num_hidden_layers),
    ):
        if wanted > limit:
            raise ShapeError(
                f"{name} {wanted} is {'wider' if group else 'more'} than the teacher's {limit}",
                where="student",
                hint=f"at most {limit}",
            )
        if wanted == limit or group is None:
            continue
        if group == "head-width" and not prunes_head_width:
            raise ShapeError(
                f"heads of {wanted}: this family's keep the teacher's {limit} (rotary positions)",
                where="student",
                hint=f"choose hidden_size = num_attention_heads x {limit}",
            )
        if group not in prune:
            raise ShapeError(
                f"{name} {wanted} is less than the teacher's {limit}, but {group} is not in distill.prune",
                where="student",
                hint=f"add {group} to distill.prune, or choose a shape that keeps {limit}",
            )


def _default_heads(teacher: Shape, hidden: int, *, fewer: bool, narrower: bool) -> int:
    """Heads that keep the teacher's head width, or else its number; where neither may be, what the check refuses."""
    number, width = teacher.num_attention_heads, teacher.head_dim
    heads, odd = divmod(hidden, width)
    if not odd and (fewer or heads == number):
        return heads
    if hidden % number == 0:
        return number
    if not odd:
        return heads
    if narrower:
        what = f"hidden_size {hidden} is not divisible into {number} heads, nor into heads of {width}"
        hint = f"the nearest that is: {nearest_multiple(hidden, number)}, or set num_attention_heads"
    else:
        what = f"hidden_size {hidden} is not divisible into heads of {width}"
        hint = f"the nearest that is: {nearest_multiple(hidden, width)}"
    raise ShapeError(what, where="student", hint=hint)


def nearest_multiple(number: int, divisor: int) -> int:
    """Of `divisor`, and at least that."""
    return max(1, round(number / divisor)) * divisor
