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

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from homoexport.documents.recipe import DistillSettings
from homoexport.documents.student import KeptLayer, KeptNeurons, bits_of
from homoexport.encoder import Family, Group, Keep, Layout, Slot
from homoexport.shape import Widths

Scores = dict[Group, Tensor]  # a figure for each neuron of each group


def zero_scores(model: nn.Module, layout: Layout) -> Scores:
    def zeros(slot: Slot) -> Tensor:
        parameter = model.get_parameter(slot.parameter)
        return torch.zeros(parameter.shape[slot.axis] // slot.parts, device=parameter.device)

    return {group: zeros(slots[0]) for group, slots in layout.groups()}


class Ranking:
    """The importance of a live model's neurons, kept up to date over the steps; `beta` is β1, `uncertainty_beta` β2.

    `places` are those of the neurons that are left, in the model that it began with.
    """

    def __init__(self, model: nn.Module, family: Family, settings: DistillSettings) -> None:
        self.kind, self.model, self.family = settings.importance, model, family
        self.beta, self.uncertainty_beta = settings.importance_smoothing, settings.uncertainty_smoothing
        self._smoothed = self._zeros()
        self._uncertainty = self._zeros()
        self.places = {group: torch.arange(len(v), device=v.device) for group, v in self._smoothed.items()}

    def _zeros(self) -> Scores:
        return zero_scores(self.model, self.family.layout(self.model))

    @property
    def needs_gradients(self) -> bool:
        return self.kind != "magnitude"

    @torch.no_grad()
    def update(self, token_ids: Tensor | None = None) -> None:
        """Blend in the sensitivity of the present gradients.

        `token_ids` [n] are the only rows of the word embeddings whose gradients are not zero; None where all may be (a
        tied decoder).
        """
        now = list(sensitivity(self.model, self.family, token_ids=token_ids).values())
        smoothed = list(self._smoothed.values())
        torch._foreach_lerp_(smoothed, now, 1 - self.beta)
        if self.kind == "platon":
            surprise = torch._foreach_abs(torch._foreach_sub(now, smoothed))
            torch._foreach_lerp_(list(self._uncertainty.values()), list(surprise), 1 - self.uncertainty_beta)

    @torch.no_grad()
    def scores(self) -> Scores:
        """What the next prune event goes by."""
        if self.kind == "magnitude":
            return magnitude(self.model, self.family)
        if self.kind == "sensitivity":
            return self._smoothed
        products = torch._foreach_mul(list(self._smoothed.values()), list(self._uncertainty.values()))
        return dict(zip(self._smoothed, products, strict=True))

    def forget(self) -> None:
        self._smoothed, self._uncertainty = self._zeros(), self._zeros()

    def keep(self, keep: Keep) -> None:
        self._smoothed, self._uncertainty, self.places = (keep_scores(each, keep) for each in self._followers)

    def keep_layers(self, kept: list[int]) -> None:
        def left(scores: Scores) -> Scores:
            shared = {group: vector for group, vector in scores.items() if group.layer is None}
            inside = {
                Group(group.kind, kept.index(group.layer)): vector
                for group, vector in scores.items()
                if group.layer in kept
            }
            return shared | inside

        self._smoothed, self._uncertainty, self.places = map(left, self._followers)

    @property
    def _followers(self) -> tuple[Scores, Scores, Scores]:
        """What has an entry for each neuron that is left."""
        return self._smoothed, self._uncertainty, self.places

    def state(self) -> list[list[Tensor]]:
        return [list(each.values()) for each in self._followers]

    def load(self, state: list[list[Tensor]]) -> None:
        for scores, saved in zip(self._followers, state, strict=True):
            for group, vector in zip(scores, saved, strict=True):
                scores[group] = vector.to(scores[group].device)


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
    layout = family.layout(model)
    scores = zero_scores(model, layout)
    axes: dict[str, set[int]] = {}
    for _, slots in layout.groups():
        for slot in slots:
            axes.setdefault(slot.parameter, set()).add(slot.axis)
    axis_sums: dict[tuple[str, int], Tensor] = {}
    names = list(axes)
    at_once = 1 if next(model.parameters()).device.type == "cpu" else _AT_ONCE
    for start in range(0, len(names), at_once):
        chunk = {name: model.get_parameter(name) for name in names[start : start + at_once]}
        for name, values in measure(chunk).items():
            for axis in axes[name]:
                axis_sums[name, axis] = values if values.dim() == 1 else values.sum(1 - axis)
    for group, slots in layout.groups():
        for slot in slots:
            sums = axis_sums.get((slot.parameter, slot.axis))
            if sums is not None:
                scores[group].add_(slot.of(sums))
    return scores


_AT_ONCE = 16  # parameters of one fused call: about a layer's; a CPU is faster with what stays in its cache


def choose(scores: Scores, widths: Widths, due: Widths, *, alike: bool = False) -> Keep:
    """The most important neurons, as many as are due.

    Heads leave the layers evenly (numbers differ by one at most), the least important first; where layers share what
    belongs to a head, or are one (`alike`), it leaves all of them at once. Of the heads due, their number over all
    layers counts. Within a head, the least important query-key and value-out dimensions go.
    """
    heads = _choose_heads(scores, widths, due.total_heads, alike=alike)
    indices = {}
    for group, vector in scores.items():
        if group.kind == "hidden":
            index = _top(vector, due.hidden_size)
        elif group.kind == "ffn":
            index = _top(vector, due.intermediate_size)
        elif group.layer is None:
            index = heads[0]  # alike in all layers
        else:
            index = _choose_dims(vector, heads[group.layer], widths.head_dim, due.head_dim)
        if len(index) < len(vector):
            indices[group] = index
    return Keep(indices, due.head_dim)


def keep_scores(scores: Scores, keep: Keep) -> Scores:
    return {group: vector[keep.indices[group]] if group in keep.indices else vector for group, vector in scores.items()}


def _top(vector: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest, ascending; the lower index wins a tie, on every machine."""
    order = torch.sort(vector, descending=True, stable=True).indices
    return order[:count].sort().values


def _choose_heads(scores: Scores, widths: Widths, total: int, *, alike: bool) -> list[Tensor]:
    """Of each layer, as many as make `total` queries; of grouped ones the heads of the keys."""
    importance = [
        (scores[Group("query_key", layer)] + scores[Group("value_out", layer)]).view(-1, widths.head_dim).sum(1)
        for layer in range(widths.num_hidden_layers)
    ]
    total = -(-total // widths.queries_per_key)
    if alike or Group("heads") in scores:
        together = torch.stack(importance).sum(0) + scores.get(Group("heads"), 0)
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


def kept_of(places: Scores, whole: Widths, came_from: Sequence[int]) -> KeptNeurons:
    """Places of the neurons that are left in a teacher of these widths, of whose layers those are that the student's
    came from."""

    def bits(group: Group, count: int) -> str:
        return bits_of(places[group].tolist(), count)

    def of_heads(group: Group, layer: int) -> str:
        """A dimension of a key is one of each head that has it."""
        heads = torch.arange(whole.heads_per_layer[layer] * whole.head_dim)
        of_queries = heads.view(-1, whole.queries_per_key, whole.head_dim).transpose(1, 2).flatten(0, 1)
        return bits_of(of_queries[places[group].cpu()].flatten().tolist(), len(heads))

    def layer_of(index: int, layer: int) -> KeptLayer:
        return KeptLayer(
            layer=layer,
            query_key=of_heads(Group("query_key", index), layer),
            value_out=of_heads(Group("value_out", index), layer),
            ffn=bits(Group("ffn", index), whole.intermediate_size),
        )

    layers = tuple(layer_of(index, layer) for index, layer in enumerate(came_from))
    return KeptNeurons(hidden=bits(Group("hidden"), whole.hidden_size), layers=layers)
