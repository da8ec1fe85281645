"""Words to write a layout with: slots of linear layers and norms, by the modules' names.

Letters: D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from homoexport.encoder.layout import Slot


def rows(linear: str, *, part: int = 0, parts: int = 1, block: int | None = None) -> tuple[Slot, Slot]:
    """What a linear layer puts out: its weight's rows and its bias."""
    return Slot(f"{linear}.weight", 0, part, parts, block), Slot(f"{linear}.bias", 0, part, parts, block)


def columns(module: str, *, part: int = 0, parts: int = 1, block: int | None = None) -> Slot:
    """What a linear layer takes in, or the width of an embedding table."""
    return Slot(f"{module}.weight", 1, part, parts, block)


def square(linear: str) -> tuple[Slot, Slot, Slot]:
    """A linear layer [D, D] that takes the stream and gives the stream's width back."""
    return (columns(linear), *rows(linear))


def norm(module: str) -> tuple[Slot, Slot]:
    """Scale and shift of a LayerNorm."""
    return Slot(f"{module}.weight", 0), Slot(f"{module}.bias", 0)


def own_linears(model: nn.Module, names: Iterable[str], *, tied_to: str) -> tuple[str, ...]:
    """The linear layers that the model has, but for those whose weight is the parameter `tied_to`."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = ((name, parameters.get(f"{name}.weight")) for name in names)
    return tuple(name for name, weight in weights if weight is not None and weight is not parameters[tied_to])


def existing(model: nn.Module, slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """The slots that the model has; of a tensor with two names, as a tied decoder's, the first one's alone."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[tuple[int, int, int], Slot] = {}
    for slot in slots:
        if slot.parameter in parameters:
            found.setdefault((id(parameters[slot.parameter]), slot.axis, slot.part), slot)
    return tuple(found.values())
