"""Models at other shapes, and what they have of parameters."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from homoexport.encoder.layout import Family
from homoexport.shape import Shape


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model; shared ones count once."""

    embedding: int  # the word vectors alone
    backbone: int  # the Transformer layers
    total: int  # all, heads included


def start_from_scratch(model: PreTrainedModel, family: Family, shape: Shape) -> PreTrainedModel:
    """A model of the same class with random weights, at another shape, in eval mode and on the same device.

    It draws from torch's global generator.

    Raises:
        ShapeError: a stock model of the family cannot have this shape.
    """
    family.check_target(model.config, shape)
    config: Any = copy.deepcopy(model.config)
    family.write_config(config, shape)
    return type(model)(config).to(model.device).eval()


def parameters_at(model: PreTrainedModel, family: Family, shape: Shape) -> int:
    """Parameters of a model of the same class at another shape; none is allocated."""
    config: Any = copy.deepcopy(model.config)
    family.write_config(config, shape)
    with torch.device("meta"):
        return count_parameters(type(model)(config))


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_counts(model: nn.Module, family: Family) -> ParameterCounts:
    return ParameterCounts(
        embedding=model.get_parameter(family.layout(model).token_rows).numel(),
        backbone=count_parameters(nn.ModuleList(dict.fromkeys(family.taps(model).layers))),
        total=count_parameters(model),
    )
