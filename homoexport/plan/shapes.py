"""Shapes that a teacher can be pruned to.

Letters: L layers, D hidden size, F ffn width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from homoexport.distill import target_of
from homoexport.documents.recipe import DistillSettings, StudentShape
from homoexport.encoder import Encoder, Widths, family_of
from homoexport.errors import ShapeError

_NODES = 12  # of hidden sizes between none and the teacher's
_ODD_NODE = 5 / 16  # HomoBERT-xsmall's 240 of 768: no multiple of what hardware likes
_LEAST_HIDDEN = 1 / 8  # of the teacher's
_LEAST_LAYERS = 1 / 3
_FFN_RATIOS = (1.0, 1.5, 2.0, 3.0, 4.0)  # F / D
_LEAST_HEAD, _HEAD_STEP, _FFN_STEP = 16, 8, 32


@dataclass(frozen=True, order=True)
class Shape:
    """A student's widths and depth."""

    layers: int
    hidden: int
    ffn: int
    heads: int

    @property
    def head_dim(self) -> int:
        """d."""
        return self.hidden // self.heads

    @property
    def widths(self) -> Widths:
        """As the encoder's room has it."""
        return Widths(self.hidden, self.ffn, (self.heads,) * self.layers, self.head_dim)

    @property
    def student(self) -> StudentShape:
        """As a recipe has it."""
        return StudentShape(
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_attention_heads=self.heads,
            num_hidden_layers=self.layers,
        )

    @property
    def name(self) -> str:
        """Such as `6 x 192/768, 6 heads`."""
        return f"{self.layers} x {self.hidden}/{self.ffn}, {self.heads} head{'s' * (self.heads > 1)}"

    @classmethod
    def of(cls, widths: Widths) -> Shape:
        """Of a model with uniform layers."""
        return cls(widths.num_hidden_layers, widths.hidden_size, widths.intermediate_size, widths.heads[0])

    def within(self, other: Shape) -> bool:
        """Whether the other can be pruned to it."""
        return (
            self.layers <= other.layers
            and self.hidden <= other.hidden
            and self.ffn <= other.ffn
            and self.heads <= other.heads
            and self.head_dim <= other.head_dim
        )

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "head_dim": self.head_dim}


def shape_of(saved: dict[str, Any]) -> Shape:
    """A shape that was read from JSON."""
    return Shape(saved["layers"], saved["hidden"], saved["ffn"], saved["heads"])


def hidden_sizes(teacher: int) -> list[int]:
    """Widths of the residual stream to consider, ascending: even steps to half of the teacher's, double ones to all of
    it, and an odd one."""
    step = max(_HEAD_STEP, round(teacher / _NODES / _FFN_STEP) * _FFN_STEP)
    half = teacher // 2 // step * step
    sizes = {*range(step, half + 1, step), *range(half + 2 * step, teacher, 2 * step), teacher}
    odd = teacher * _ODD_NODE
    if odd == int(odd) and odd % _LEAST_HEAD == 0:
        sizes.add(int(odd))
    return sorted(size for size in sizes if size >= teacher * _LEAST_HIDDEN)


def candidates(encoder: Encoder, settings: DistillSettings) -> list[Shape]:
    """Every shape to consider: what the family and the recipe let a student of this teacher be.

    Args:
        encoder: the teacher.
        settings: how it is distilled; groups that may not be pruned keep their width.
    """
    family = family_of(encoder.model.config)
    teacher = family.widths(encoder.model)
    shapes = []
    for hidden in hidden_sizes(teacher.hidden_size):
        allowed = [heads for heads in _heads_of(hidden, teacher) if _is_possible(encoder, settings, hidden, heads)]
        for heads in allowed:
            shapes += [
                Shape(layers, hidden, ffn, heads)
                for ffn in _ffn_of(hidden, teacher, "ffn" in settings.prune)
                for layers in _layers_of(teacher.num_hidden_layers)
            ]
    return sorted(shapes)


def _heads_of(hidden: int, teacher: Widths) -> list[int]:
    return [
        heads
        for heads in range(1, teacher.heads[0] + 1)
        if hidden % heads == 0
        and (head_dim := hidden // heads) <= teacher.head_dim
        and head_dim >= min(_LEAST_HEAD, teacher.head_dim)
        and (head_dim % _HEAD_STEP == 0 or head_dim == teacher.head_dim or heads == teacher.heads[0])
    ]


def _ffn_of(hidden: int, teacher: Widths, may_shrink: bool) -> list[int]:
    if not may_shrink:
        return [teacher.intermediate_size]
    own = teacher.intermediate_size / teacher.hidden_size
    step = _FFN_STEP if hidden >= _FFN_STEP else _HEAD_STEP
    sizes = {round(hidden * ratio / step) * step for ratio in (*_FFN_RATIOS, own)}
    return sorted({min(size, teacher.intermediate_size) for size in sizes if size > 0})


def _layers_of(teacher: int) -> Sequence[int]:
    return range(max(1, round(teacher * _LEAST_LAYERS)), teacher + 1)


def _is_possible(encoder: Encoder, settings: DistillSettings, hidden: int, heads: int) -> bool:
    ffn = None if "ffn" in settings.prune else family_of(encoder.model.config).widths(encoder.model).intermediate_size
    shape = StudentShape(hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn)
    try:
        target_of(encoder, shape, settings)
    except ShapeError:
        return False
    return True
