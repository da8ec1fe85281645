"""What a neuron is worth, by one of three measures.

- sensitivity (HomoDistil, arXiv 2302.09632, section 3): of a weight |θ·∂L/∂θ|, the first-order
  change of the loss if it went; of a neuron, the sum over its weights; smoothed over steps as
  I(t) = β1·I(t−1) + (1 − β1)·I_now(t).
- platon (PLATON, arXiv 2206.12562, equations 6 to 8): I(t)·U(t), where the uncertainty
  U(t) = β2·U(t−1) + (1 − β2)·|I_now(t) − I(t)|. Here I_now is a neuron's, not a weight's: neurons
  are what goes, and a figure for each weight would cost two more copies of the model.
- magnitude: the sum of |θ| over the neuron's weights, as they are at the prune event.

Letters: L layers, H heads, d head width, D hidden size, F ffn width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homoexport.choices import Importance
from homoexport.encoder import Family, Keep, LayerKeep, Layout, Slot
from homoexport.shape import Widths


@dataclass
class LayerScores:
    """Importance of one layer's neurons: [H·d], [H·d] and [F]."""

    query_key: Tensor
    value_out: Tensor
    ffn: Tensor


@dataclass
class Scores:
    """Importance of every group: [D], each layer's, and [H] of what a head has outside of its layer."""

    hidden: Tensor
    layers: list[LayerScores]
    shared_heads: Tensor  # [0] where layers choose their heads each for themselves

    def tensors(self) -> list[Tensor]:
        """All score vectors, in a fixed order."""
        return [
            self.hidden,
            self.shared_heads,
            *(vector for layer in self.layers for vector in (layer.query_key, layer.value_out, layer.ffn)),
        ]

    def with_tensors(self, tensors: list[Tensor]) -> Scores:
        """Scores of other values, in the order of `tensors`."""
        hidden, shared_heads, *rest = tensors
        return Scores(hidden, [LayerScores(*rest[i : i + 3]) for i in range(0, len(rest), 3)], shared_heads)


def zero_scores(layout: Layout, widths: Widths, device: torch.device) -> Scores:
    """Scores of nothing seen yet."""

    def zeros(count: int) -> Tensor:
        return torch.zeros(count, device=device)

    layers = [
        LayerScores(zeros(heads * widths.head_dim), zeros(heads * widths.head_dim), zeros(widths.intermediate_size))
        for heads in widths.heads_per_layer
    ]
    return Scores(zeros(widths.hidden_size), layers, zeros(widths.heads_per_layer[0] if layout.shared_heads else 0))


class Ranking:
    """The importance of a live model's neurons, kept up to date over the steps.

    Args:
        kind: the measure.
        model: the student.
        family: its adapter.
        beta: share of the old sensitivity that stays (β1).
        uncertainty_beta: share of the old uncertainty that stays (β2).
    """

    def __init__(
        self, kind: Importance, model: nn.Module, family: Family, *, beta: float, uncertainty_beta: float
    ) -> None:
        self.kind, self.model, self.family = kind, model, family
        self.beta, self.uncertainty_beta = beta, uncertainty_beta
        self._smoothed = self._zeros()
        self._uncertainty = self._zeros()

    def _zeros(self) -> Scores:
        device = next(self.model.parameters()).device
        return zero_scores(self.family.layout(self.model), self.family.widths(self.model), device)

    @property
    def needs_gradients(self) -> bool:
        """Whether `update` must see every step's gradients."""
        return self.kind != "magnitude"

    @torch.no_grad()
    def update(self, token_ids: Tensor | None = None) -> None:
        """Blend in the sensitivity of the present gradients.

        Args:
            token_ids: the only rows [n] of the word embeddings whose gradients are not zero, or
                None where all may be (a tied decoder).
        """
        now = sensitivity(self.model, self.family, token_ids=token_ids).tensors()
        smoothed = self._smoothed.tensors()
        torch._foreach_lerp_(smoothed, now, 1 - self.beta)
        if self.kind == "platon":
            surprise = torch._foreach_abs(torch._foreach_sub(now, smoothed))
            torch._foreach_lerp_(self._uncertainty.tensors(), list(surprise), 1 - self.uncertainty_beta)

    @torch.no_grad()
    def scores(self) -> Scores:
        """What the next prune event goes by."""
        if self.kind == "magnitude":
            return magnitude(self.model, self.family)
        if self.kind == "sensitivity":
            return self._smoothed
        products = torch._foreach_mul(self._smoothed.tensors(), self._uncertainty.tensors())
        return self._smoothed.with_tensors(list(products))

    def forget(self) -> None:
        """Begin anew: what was seen so far was in other units."""
        self._smoothed, self._uncertainty = self._zeros(), self._zeros()

    def keep(self, keep: Keep) -> None:
        """Follow a slice."""
        self._smoothed, self._uncertainty = (keep_scores(s, keep) for s in (self._smoothed, self._uncertainty))

    def keep_layers(self, kept: list[int]) -> None:
        """Follow the removal of layers."""
        for scores in (self._smoothed, self._uncertainty):
            scores.layers = [scores.layers[index] for index in kept]

    def state(self) -> list[list[Tensor]]:
        """What a checkpoint holds."""
        return [self._smoothed.tensors(), self._uncertainty.tensors()]

    def load(self, state: list[list[Tensor]]) -> None:
        """Go on from a checkpoint of a model of the present widths."""
        device = self._smoothed.hidden.device
        self._smoothed, self._uncertainty = (
            self._zeros().with_tensors([tensor.to(device) for tensor in tensors]) for tensors in state
        )


def sensitivity(model: nn.Module, family: Family, *, token_ids: Tensor | None) -> Scores:
    """|θ·∂L/∂θ| of the present gradients, summed over each neuron's weights."""
    rows = family.layout(model).token_rows

    def measure(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        weights, gradients = {}, {}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                touched = token_ids if name == rows else None
                weights[name] = parameter.data if touched is None else parameter.data[touched]
                gradients[name] = parameter.grad if touched is None else parameter.grad[touched]
        if not weights:
            return {}
        products = torch._foreach_mul(list(weights.values()), list(gradients.values()))
        torch._foreach_abs_(products)
        return dict(zip(weights, products, strict=True))

    return _sums(model, family, measure)


def magnitude(model: nn.Module, family: Family) -> Scores:
    """|θ|, summed over each neuron's weights."""

    def measure(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        return {name: parameter.data.abs() for name, parameter in parameters.items()}

    return _sums(model, family, measure)


def _sums(model: nn.Module, family: Family, measure: Callable[[dict[str, nn.Parameter]], dict[str, Tensor]]) -> Scores:
    """A figure for each weight, summed into each neuron's; some parameters at a time, which bounds the memory."""
    layout, widths = family.layout(model), family.widths(model)
    scores = zero_scores(layout, widths, next(model.parameters()).device)
    axes: dict[str, set[int]] = {}
    for slots, _ in _groups(layout, scores):
        for slot in slots:
            axes.setdefault(slot.parameter, set()).add(slot.axis)
    axis_sums: dict[tuple[str, int], Tensor] = {}
    names = list(axes)
    at_once = 1 if scores.hidden.device.type == "cpu" else _AT_ONCE
    for start in range(0, len(names), at_once):
        chunk = {name: model.get_parameter(name) for name in names[start : start + at_once]}
        for name, values in measure(chunk).items():
            for axis in axes[name]:
                axis_sums[name, axis] = values if values.dim() == 1 else values.sum(1 - axis)
    for slots, vector in _groups(layout, scores):
        for slot in slots:
            sums = axis_sums.get((slot.parameter, slot.axis))
            if sums is not None:
                vector.add_(_part(sums, slot))
    return scores


_AT_ONCE = 16  # parameters of one fused call: about a layer's; a CPU is faster with what stays in its cache


def _part(sums: Tensor, slot: Slot) -> Tensor:
    return sums.chunk(slot.parts)[slot.part]


def _groups(layout: Layout, scores: Scores) -> list[tuple[tuple[Slot, ...], Tensor]]:
    groups = [(layout.hidden, scores.hidden), (layout.shared_heads, scores.shared_heads)]
    for slots, layer in zip(layout.layers, scores.layers, strict=True):
        groups += [(slots.query_key, layer.query_key), (slots.value_out, layer.value_out), (slots.ffn, layer.ffn)]
    return groups


def choose(scores: Scores, widths: Widths, due: Widths) -> Keep:
    """The most important neurons, as many as are due.

    Heads leave the layers evenly (numbers differ by one at most), the least important first; where
    layers share what belongs to a head, it leaves all of them at once. Within a head, the least
    important query-key and value-out dimensions go.

    Args:
        scores: importance of the live model's neurons.
        widths: the live model's widths.
        due: what to keep; of heads, their number over all layers counts.
    """
    kept_heads = _choose_heads(scores, widths, due.total_heads)
    layers = []
    for layer, heads in zip(scores.layers, kept_heads, strict=True):
        dims = [
            _unless_all(_choose_dims(vector, heads, widths.head_dim, due.head_dim), vector)
            for vector in (layer.query_key, layer.value_out)
        ]
        layers.append(LayerKeep(dims[0], dims[1], _unless_all(_top(layer.ffn, due.intermediate_size), layer.ffn)))
    shared = _unless_all(kept_heads[0], scores.shared_heads) if len(scores.shared_heads) else None
    hidden = _unless_all(_top(scores.hidden, due.hidden_size), scores.hidden)
    return Keep(hidden, tuple(layers), due.head_dim, heads=shared)


def keep_scores(scores: Scores, keep: Keep) -> Scores:
    """The scores of what stays."""

    def pick(vector: Tensor, index: Tensor | None) -> Tensor:
        return vector if index is None else vector[index]

    layers = [
        LayerScores(pick(old.query_key, new.query_key), pick(old.value_out, new.value_out), pick(old.ffn, new.ffn))
        for old, new in zip(scores.layers, keep.layers, strict=True)
    ]
    return Scores(pick(scores.hidden, keep.hidden), layers, pick(scores.shared_heads, keep.heads))


def _top(vector: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest, ascending; the lower index wins a tie, on every machine."""
    order = torch.sort(vector, descending=True, stable=True).indices
    return order[:count].sort().values


def _unless_all(index: Tensor, vector: Tensor) -> Tensor | None:
    return None if len(index) == len(vector) else index


def _choose_heads(scores: Scores, widths: Widths, total: int) -> list[Tensor]:
    """Indices of the heads that each layer keeps."""
    importance = [
        (layer.query_key + layer.value_out).view(heads, widths.head_dim).sum(1)
        for layer, heads in zip(scores.layers, widths.heads_per_layer, strict=True)
    ]
    if len(scores.shared_heads):
        together = torch.stack(importance).sum(0) + scores.shared_heads
        return [_top(together, -(-total // len(importance)))] * len(importance)
    base, extra = divmod(total, len(importance))
    # Where layers cannot all keep the same number, the extra heads stay where the next head counts most.
    rank_next = [
        (vector.sort(descending=True).values[base].item() if len(vector) > base else -1.0, -index)
        for index, vector in enumerate(importance)
    ]
    richest = {-index for _, index in sorted(rank_next, reverse=True)[:extra]}
    return [_top(vector, base + (index in richest)) for index, vector in enumerate(importance)]


def _choose_dims(vector: Tensor, heads: Tensor, old_dim: int, new_dim: int) -> Tensor:
    """Flat indices [len(heads)·new_dim] of the best dimensions of each kept head."""
    rows = vector.view(-1, old_dim)[heads]
    best = torch.sort(rows, dim=1, descending=True, stable=True).indices[:, :new_dim].sort(dim=1).values
    return (heads[:, None] * old_dim + best).flatten()
