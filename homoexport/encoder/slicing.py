"""Prune by slicing: take neurons out of a live model, and out of its optimizer's moments.

Letters: H heads, d head width, D hidden size, F ffn width.

The model stays real and dense. Parameters keep their identity (`param.data` is replaced), so an
optimizer's groups and state stay valid; no graph of an earlier forward pass may be alive, for it
remembers the old shapes. When a head's query-key width shrinks from d to d', the
softmax scale would jump from d^-1/2 to d'^-1/2; √(d'/d) is folded into the query to undo that.
So is √(D/D') into word vectors that the model multiplies by √D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homoexport.encoder.layout import Family, Group, Layout, Slot
from homoexport.shape import Widths


@dataclass(frozen=True)
class Keep:
    """What stays of a model: the indices, ascending, of each group that loses neurons.

    The attention groups of a layer keep the same heads, and as many dimensions of each.
    """

    indices: Mapping[Group, Tensor]
    head_dim: int  # after slicing

    @classmethod
    def first(cls, layout: Layout, present: Widths, widths: Widths, device: torch.device) -> Keep:
        """The first neurons of each group, as many as `widths` has."""

        def index(count: int) -> Tensor:
            return torch.arange(count, device=device)

        def first_of(group: Group) -> Tensor:
            heads = widths.heads_per_layer[group.layer or 0]
            if group.kind in ("query_key", "value_out"):
                keys = heads // present.queries_per_key
                return (index(keys)[:, None] * present.head_dim + index(widths.head_dim)).flatten()
            return index({"hidden": widths.hidden_size, "ffn": widths.intermediate_size, "heads": heads}[group.kind])

        return cls({group: first_of(group) for group, _ in layout.groups()}, widths.head_dim)


def slice_model(
    model: nn.Module,
    family: Family,
    keep: Keep,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    followers: Sequence[tuple[nn.Parameter, int]] = (),
) -> None:
    """Slice every parameter of `model` to what `keep` names, in place.

    The optimizer's moments are sliced and rescaled along with their parameters. `followers` are parameters outside
    the model with an axis that follows the residual dimensions.
    """
    layout, widths = family.layout(model), family.widths(model)
    old_head_dim = widths.head_dim
    assert family.prunes_head_width or keep.head_dim == old_head_dim
    indices = kept_indices(model, layout, keep)
    hidden = keep.indices.get(Group("hidden"))
    if hidden is not None:
        for parameter, axis in followers:
            indices.setdefault(parameter, {})[axis] = hidden
    for parameter, by_axis in indices.items():
        for tensor in (*_moments(parameter, optimizer).values(), parameter):
            for axis, index in by_axis.items():
                tensor.data = tensor.data.index_select(axis, index)
        parameter.grad = None
    if keep.head_dim != old_head_dim:
        factor = math.sqrt(keep.head_dim / old_head_dim)
        for name in dict.fromkeys(name for layer in layout.layers for name in layer.query):
            _rescale(model.get_parameter(name), factor, optimizer)
    if hidden is not None and layout.times_root is not None:
        _rescale(model.get_parameter(layout.times_root), math.sqrt(widths.hidden_size / len(hidden)), optimizer)
    _refresh_modules(model)
    family.settle(model, keep.head_dim)


def kept_indices(model: nn.Module, layout: Layout, keep: Keep) -> dict[nn.Parameter, dict[int, Tensor]]:
    """What stays of every axis that loses something, of a model that is not sliced yet."""
    axes: dict[nn.Parameter, dict[int, dict[Slot, Tensor]]] = {}
    for group, slots in layout.groups():
        for slot in slots if group in keep.indices else ():
            by_slot = axes.setdefault(model.get_parameter(slot.parameter), {}).setdefault(slot.axis, {})
            by_slot[slot] = keep.indices[group]
    return {
        parameter: {axis: _join(kept, parameter.shape[axis]) for axis, kept in by_axis.items()}
        for parameter, by_axis in axes.items()
    }


def _join(kept: dict[Slot, Tensor], length: int) -> Tensor:
    """Indices into a whole axis, of those into its parts; a part that is not named stays whole."""
    first, index = next(iter(kept.items()))
    if first.parts == 1:
        return index
    places = torch.arange(length, device=index.device)
    stays = torch.ones(length, dtype=torch.bool, device=index.device)
    for slot, index in kept.items():
        part = slot.of(places)
        stays[part] = False
        stays[part[index]] = True
    return places[stays]


def _moments(parameter: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """The parameter's per-element optimizer state; step counters are not among it."""
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and value.dim() > 0}


def _rescale(parameter: nn.Parameter, factor: float, optimizer: torch.optim.Optimizer | None) -> None:
    """θ → cθ. Gradients of the new parameter are 1/c of the old one's, so are their running means."""
    parameter.data.mul_(factor)
    powers = {"exp_avg": -1, "exp_avg_sq": -2}
    for name, moment in _moments(parameter, optimizer).items():
        moment.mul_(factor ** powers[name])


def _refresh_modules(model: nn.Module) -> None:
    """Bring the modules' own record of their shapes in line with their parameters."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(module.weight.shape)
