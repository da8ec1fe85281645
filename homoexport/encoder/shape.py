"""The student's widths: what was asked for, completed from the teacher and checked against it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from homoexport.choices import PruneGroup
from homoexport.encoder.layout import Family, Widths
from homoexport.errors import ShapeError


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model; shared ones count once.

    Attributes:
        embedding: of the word vectors alone.
        backbone: of the Transformer layers.
        total: of all, heads included.
    """

    embedding: int
    backbone: int
    total: int


def target_widths(
    teacher: Widths,
    *,
    hidden_size: int | None,
    intermediate_size: int | None,
    num_attention_heads: int | None,
    num_hidden_layers: int | None = None,
    prune: Sequence[PruneGroup],
    prunes_head_width: bool = True,
) -> Widths:
    """Complete and check a student's shape.

    Args:
        teacher: widths of the teacher.
        hidden_size: width of the residual stream; by default the teacher's.
        intermediate_size: ffn width; by default in the teacher's proportion to hidden_size.
        num_attention_heads: heads; by default as many as keep the teacher's head width, or else
            the teacher's number.
        num_hidden_layers: by default the teacher's.
        prune: groups that may lose neurons; the others keep the teacher's width.
        prunes_head_width: whether the family's heads can be made narrower.

    Raises:
        ShapeError: wider or deeper than the teacher, not divisible into heads, or a group would
            have to shrink that may not.
    """
    hidden = hidden_size or teacher.hidden_size
    ffn = intermediate_size
    if ffn is None:
        proportional = round(teacher.intermediate_size * hidden / teacher.hidden_size)
        ffn = proportional if "ffn" in prune else teacher.intermediate_size
    narrows = prunes_head_width and "head-width" in prune
    heads = num_attention_heads or _default_heads(teacher, hidden, fewer="heads" in prune, narrower=narrows)
    if hidden % heads:
        raise ShapeError(
            f"hidden_size {hidden} is not divisible into {heads} heads",
            where="student",
            hint=f"the nearest that is: {_nearest(hidden, heads)}, or another num_attention_heads",
        )
    layers = num_hidden_layers or teacher.num_hidden_layers
    target = Widths(hidden, ffn, (heads,) * layers, hidden // heads)
    for name, group, wanted, limit in (
        ("hidden_size", "hidden", hidden, teacher.hidden_size),
        ("intermediate_size", "ffn", ffn, teacher.intermediate_size),
        ("num_attention_heads", "heads", heads, teacher.heads[0]),
        ("the width of a head", "head-width", target.head_dim, teacher.head_dim),
        ("num_hidden_layers", None, layers, teacher.num_hidden_layers),
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
    return target


def _default_heads(teacher: Widths, hidden: int, *, fewer: bool, narrower: bool) -> int:
    """Heads that keep the teacher's head width, or else its number; where neither may be, what the check refuses."""
    heads, odd = divmod(hidden, teacher.head_dim)
    if not odd and (fewer or heads == teacher.heads[0]):
        return heads
    if hidden % teacher.heads[0] == 0:
        return teacher.heads[0]
    if odd and narrower:
        raise ShapeError(
            f"hidden_size {hidden} is not divisible into {teacher.heads[0]} heads, nor into heads of "
            f"{teacher.head_dim}",
            where="student",
            hint=f"the nearest that is: {_nearest(hidden, teacher.heads[0])}, or set num_attention_heads",
        )
    if odd:
        raise ShapeError(
            f"hidden_size {hidden} is not divisible into heads of {teacher.head_dim}",
            where="student",
            hint=f"the nearest that is: {_nearest(hidden, teacher.head_dim)}",
        )
    return heads


def _nearest(number: int, divisor: int) -> int:
    return max(1, round(number / divisor)) * divisor


def start_from_scratch(model: PreTrainedModel, family: Family, widths: Widths) -> PreTrainedModel:
    """A model of the same class with random weights, at other widths and depth.

    Args:
        model: whose class and config it has; stays as it is.
        family: its adapter.
        widths: of the new model.

    Returns:
        A model in eval mode, on the same device; it draws from torch's global generator.

    Raises:
        ShapeError: a stock model of the family cannot have these widths.
    """
    family.check_target(model.config, widths)
    config: Any = copy.deepcopy(model.config)
    family.write_config(config, widths)
    return type(model)(config).to(model.device).eval()


def parameters_at(model: PreTrainedModel, family: Family, widths: Widths) -> int:
    """Parameters of a model of the same class at other widths and depth; none is allocated."""
    config: Any = copy.deepcopy(model.config)
    family.write_config(config, widths)
    with torch.device("meta"):
        return count_parameters(type(model)(config))


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_counts(model: nn.Module, family: Family) -> ParameterCounts:
    """Parameters of the word vectors, of the layers, and of all."""
    return ParameterCounts(
        embedding=model.get_parameter(family.layout(model).token_rows).numel(),
        backbone=sum(count_parameters(layer) for layer in family.taps(model).layers),
        total=count_parameters(model),
    )
