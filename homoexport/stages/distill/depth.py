"""Fewer layers, homotopically: the least useful layer fades out, then goes.

A layer turns the residual stream x into f(x). While it fades, the stream after it is

    x + s·(f(x) − x),    s from 1 to 0

so that at s = 0 the layer does nothing and can be taken out without a jump, in pre-norm and
post-norm families alike. A layer's use is its sensitivity |s·∂L/∂s| at s = 1 (the first-order
change of the loss if it went), smoothed over steps as a neuron's is. The paper (arXiv 2302.09632)
keeps all layers; this goes beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from homoexport.encoder import Family


class DepthState(TypedDict):
    kept: list[int]
    scales: Tensor
    scores: Tensor
    fading: int | None
    window: tuple[int, int]


class Depth:
    """The student's layers, each with a scale on what it adds to the stream.

    `to_go` layers leave by step `stop`; `beta` is the share of the old sensitivity that stays. Gradients are wanted of
    the `scales` [L] of the layers that are still there, updates are not.
    """

    def __init__(self, model: nn.Module, family: Family, *, to_go: int, stop: int, beta: float) -> None:
        self.model, self.family, self.to_go, self.stop, self.beta = model, family, to_go, stop, beta
        layers = family.taps(model).layers
        device = next(model.parameters()).device
        self.scales = nn.Parameter(torch.ones(len(layers), device=device))
        self.scores = torch.zeros(len(layers), device=device)
        self.fading: int | None = None
        self.kept = list(range(len(layers)))  # by their places in the model that it began with
        self._window = (0, 0)
        self._handles: list[Any] = []
        self._hook()

    def _hook(self) -> None:
        for handle in self._handles:
            handle.remove()
        layers = self.family.taps(self.model).layers if self.to_go else ()
        self._handles = [
            layer.register_forward_hook(self._scaled(index), with_kwargs=True, prepend=True)
            for index, layer in enumerate(layers)
        ]

    def _scaled(self, index: int) -> Callable[[nn.Module, Any, Any, Any], Any]:
        def scale(_module: nn.Module, inputs: Any, named: Any, output: Any) -> Any:
            before = inputs[0] if inputs else named["hidden_states"]
            states = output[0] if isinstance(output, tuple) else output
            scaled = before + self.scales[index].to(states.dtype) * (states - before)
            return (scaled, *output[1:]) if isinstance(output, tuple) else scaled

        return scale

    @torch.no_grad()
    def update(self) -> None:
        if self.scales.grad is not None:
            self.scores.lerp_((self.scales * self.scales.grad).abs(), 1 - self.beta)

    @property
    def scale(self) -> float:
        return 1.0 if self.fading is None else float(self.scales.detach()[self.fading])

    @torch.no_grad()
    def begin(self, step: int) -> int:
        """Let the least useful layer start to fade; its window is an even share of the steps that are left."""
        removable = self.family.removable_layers(self.model)
        self.fading = min(removable, key=lambda layer: self.scores[layer].item())
        self._window = (step, step + (self.stop - step) // self.to_go)
        return self.fading

    @torch.no_grad()
    def fade(self, step: int) -> float:
        """Bring the fading layer's scale to where it is due after `step` finished steps, and return it."""
        start, stop = self._window
        scale = 0.0 if step >= stop else 1 - (step - start) / (stop - start)
        self.scales[self.fading] = scale
        return scale

    def remove(self, layer: int) -> list[int]:
        """Take a layer out of the model; the places of those that stay, among the layers before."""
        stay = [index for index in range(len(self.scores)) if index != layer]
        self.family.keep_layers(self.model, stay)
        self.kept = [self.kept[index] for index in stay]
        self.scales = nn.Parameter(self.scales.data[stay])
        self.scores = self.scores[stay]
        self.fading, self.to_go = None, self.to_go - 1
        self._hook()
        return stay

    def state(self) -> DepthState:
        return {
            "kept": self.kept,
            "scales": self.scales.data,
            "scores": self.scores,
            "fading": self.fading,
            "window": self._window,
        }

    def load(self, state: DepthState) -> None:
        """Go on from a checkpoint; the layers that it lacks are gone already."""
        assert self.kept == state["kept"]
        self.scales.data.copy_(state["scales"])
        self.scores.copy_(state["scores"])
        self.fading, self._window = state["fading"], state["window"]
