"""Shapes that a teacher can be pruned to.

Letters: L layers, D hidden size, F ffn width, H heads, d head width.
"""

from __future__ import annotations

from homoexport.documents.recipe import DistillSettings
from homoexport.encoder import Encoder, Family, family_of
from homoexport.errors import ShapeError, TeacherError
from homoexport.shape import PartialShape, Shape, Widths

_NODES = 12  # of hidden sizes between none and the teacher's
_ODD_NODE = 5 / 16  # HomoBERT-xsmall's 240 of 768: no multiple of what hardware likes
_LEAST_HIDDEN = 1 / 8  # of the teacher's
_LEAST_LAYERS = 1 / 3
_FFN_RATIOS = (1.0, 1.5, 2.0, 3.0, 4.0)  # F / D
_LEAST_HEAD, _HEAD_STEP, _FFN_STEP = 16, 8, 32


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
    """Shapes of students, in order; a teacher whose layers share their weights is refused (TeacherError)."""
    family = family_of(encoder.model.config)
    if family.shares_layers:
        what = "all of its layers are one, and a plan weighs layers that have weights of their own"
        raise TeacherError(what, where=encoder.source, hint="give the student's widths to distill or run")
    widths = family.widths(encoder.model)
    teacher = widths.shape
    fewest = max(1, round(teacher.num_hidden_layers * _LEAST_LAYERS))
    shapes = []
    for hidden in hidden_sizes(teacher.hidden_size):
        numbers = _heads_of(hidden, teacher) if family.heads_make_hidden else _heads_apart(widths)
        head_width = None if family.heads_make_hidden else teacher.head_dim
        for heads in (each for each in numbers if _is_possible(family, encoder, settings, hidden, each)):
            shapes += [
                Shape(layers, hidden, ffn, heads, head_width)
                for ffn in _ffn_of(hidden, teacher, "ffn" in settings.prune)
                for layers in range(fewest, teacher.num_hidden_layers + 1)
            ]
    return sorted(shapes)


def _heads_of(hidden: int, teacher: Shape) -> list[int]:
    return [
        heads
        for heads in range(1, teacher.num_attention_heads + 1)
        if hidden % heads == 0
        and (head_dim := hidden // heads) <= teacher.head_dim
        and head_dim >= min(_LEAST_HEAD, teacher.head_dim)
        and (head_dim % _HEAD_STEP == 0 or head_dim == teacher.head_dim or heads == teacher.num_attention_heads)
    ]


def _heads_apart(widths: Widths) -> list[int]:
    """Numbers of heads that the hidden size says nothing of: quarters of the teacher's, by those that share a key."""
    keys = widths.shape.num_attention_heads // widths.queries_per_key
    return [each * widths.queries_per_key for each in sorted({-(-keys * quarters // 4) for quarters in range(1, 5)})]


def _ffn_of(hidden: int, teacher: Shape, may_shrink: bool) -> list[int]:
    if not may_shrink:
        return [teacher.intermediate_size]
    own = teacher.intermediate_size / teacher.hidden_size
    step = _FFN_STEP if hidden >= _FFN_STEP else _HEAD_STEP
    sizes = {round(hidden * ratio / step) * step for ratio in (*_FFN_RATIOS, own)}
    return sorted({min(size, teacher.intermediate_size) for size in sizes if size > 0})


def _is_possible(family: Family, encoder: Encoder, settings: DistillSettings, hidden: int, heads: int) -> bool:
    teacher = family.widths(encoder.model).shape
    ffn = None if "ffn" in settings.prune else teacher.intermediate_size
    asked = PartialShape(hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn)
    try:
        family.complete(encoder.model, asked, prune=settings.prune)
    except ShapeError:
        return False
    return True
