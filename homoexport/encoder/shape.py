"""The student's widths: what was asked for, completed from the teacher and checked against it."""

from __future__ import annotations

from torch import nn

from homoexport.encoder.layout import Widths
from homoexport.errors import ShapeError


def target_widths(
    teacher: Widths, *, hidden_size: int, intermediate_size: int | None = None, num_attention_heads: int | None = None
) -> Widths:
    """Complete and check a student's shape.

    Args:
        teacher: widths of the teacher.
        hidden_size: width of the residual stream.
        intermediate_size: ffn width; by default in the teacher's proportion to hidden_size.
        num_attention_heads: heads; by default as many as keep the teacher's head width, or else
            the teacher's number.

    Raises:
        ShapeError: wider than the teacher in any group, or not divisible into heads.
    """
    heads = num_attention_heads
    if heads is None:
        heads = hidden_size // teacher.head_dim if hidden_size % teacher.head_dim == 0 else teacher.heads[0]
    if intermediate_size is None:
        intermediate_size = round(teacher.intermediate_size * hidden_size / teacher.hidden_size)
    if hidden_size % heads:
        raise ShapeError(
            f"hidden_size {hidden_size} is not divisible into {heads} heads",
            where="student",
            mend=f"the nearest that is: {max(1, round(hidden_size / heads)) * heads}, or set num_attention_heads",
        )
    target = Widths(hidden_size, intermediate_size, (heads,) * len(teacher.heads), hidden_size // heads)
    for name, wanted, limit in (
        ("hidden_size", hidden_size, teacher.hidden_size),
        ("intermediate_size", intermediate_size, teacher.intermediate_size),
        ("num_attention_heads", heads, teacher.heads[0]),
        ("the width of a head", target.head_dim, teacher.head_dim),
    ):
        if wanted > limit:
            raise ShapeError(
                f"{name} {wanted} is wider than the teacher's {limit}", where="student", mend=f"at most {limit}"
            )
    return target


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
