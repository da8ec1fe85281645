"""int8 simulated while a model is trained, so that the int8 file loses nothing (quantization-aware training).

Jacob et al. 2018 (arXiv 1712.05877, section 3): weights and activations are rounded as the int8 file will round them,
and gradients pass as if they were not (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432). The scheme
is the one that is exported: weights signed, a scale for each output column; activations unsigned, one scale for the
whole tensor, as it comes; embedding tables unsigned, one scale each.

O outputs, I inputs, B batch, S sequence, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel


class Int8Simulation:
    """A switch that all simulated parts of one model share; off at first."""

    def __init__(self) -> None:
        self.on = False


@contextmanager
def simulated_int8(model: PreTrainedModel) -> Iterator[Int8Simulation]:
    """Let a model's matrix products and embedding tables be those of int8 while the switch is on.

    At the end the weights have the values that int8 can tell apart if the switch is on then, and are as they were
    trained if it is off. Within the block the model's parameters have other names.
    """
    switch = Int8Simulation()

    def round_input(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (round_tensor(inputs[0]), *inputs[1:]) if switch.on else None

    parts = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    products = [module for module in parts if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(round_input) for module in products]
    for module in parts:
        quantized = _FakeQuantized(switch, signed=isinstance(module, nn.Linear))
        parametrize.register_parametrization(module, "weight", quantized)
    try:
        yield switch
    finally:
        for hook in hooks:
            hook.remove()
        for module in parts:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=switch.on)


@contextmanager
def rounded_to_int8(model: nn.Module) -> Iterator[None]:
    """Let a model's matrix products and embedding tables be those of int8 within the block, backward passes included.

    After it the weights are as they were, with the gradients of the rounded ones: the same as `simulated_int8`, for a
    training loop that slices and saves the weights under their names. A table that is also a head is rounded as one.
    """

    def round_input(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (round_tensor(inputs[0]), *inputs[1:])

    parts = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    hooks = [part.register_forward_pre_hook(round_input) for part in parts if isinstance(part, nn.Linear)]
    exact: dict[torch.Tensor, torch.Tensor] = {}
    for part in parts:
        if part.weight not in exact:
            exact[part.weight] = part.weight.data
            part.weight.data = (round_columns if isinstance(part, nn.Linear) else round_tensor)(part.weight.data)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, values in exact.items():
            weight.data = values


class _FakeQuantized(nn.Module):
    def __init__(self, switch: Int8Simulation, *, signed: bool) -> None:
        super().__init__()
        self._switch, self._signed = switch, signed

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if not self._switch.on:
            return weight
        return round_columns(weight) if self._signed else round_tensor(weight)


def round_columns(weight: torch.Tensor) -> torch.Tensor:
    """A linear layer's weight [O, I] in signed 8 bits, symmetric, a scale for each output; gradients pass."""
    scale = weight.detach().abs().amax(dim=1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return _straight_through(weight, (weight / scale).round().clamp(-127, 127) * scale)


def round_tensor(values: torch.Tensor) -> torch.Tensor:
    """Values in unsigned 8 bits, one scale and zero point for all, as ONNX's DynamicQuantizeLinear; gradients pass."""
    low, high = values.detach().amin().clamp(max=0), values.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round().clamp(0, 255)
    return _straight_through(values, ((values / scale).round() + zero_point).clamp(0, 255).sub(zero_point) * scale)


def _straight_through(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return values + (rounded - values).detach()
