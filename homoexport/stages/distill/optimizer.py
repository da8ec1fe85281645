"""The optimizer of a student that loses parts on its way."""

from __future__ import annotations

import torch
from torch import nn

from homoexport.documents.recipe import DistillSettings
from homoexport.stages.distill.layerwise import Projections


def make_optimizer(student: nn.Module, projections: Projections, settings: DistillSettings) -> torch.optim.AdamW:
    """AdamW; weight decay on the student's matrices alone."""
    matrices = [parameter for parameter in student.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in student.parameters() if parameter.dim() <= 1] + list(projections.parameters())
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def forget_parameters(optimizer: torch.optim.Optimizer, gone: set[nn.Parameter]) -> None:
    """Take parameters that left the model, and their moments, out of the optimizer."""
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in gone]
    for parameter in gone:
        optimizer.state.pop(parameter, None)
