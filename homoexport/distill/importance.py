"""What a neuron is worth: sensitivity, summed over its group and smoothed over steps.

HomoDistil, arXiv 2302.09632, section 3: the importance of a weight is |θ·∂L/∂θ| (the first-order
change of the loss if it went); of a neuron, the sum over its weights. Smoothed over steps as
I(t) = β·I(t−1) + (1 − β)·I_now(t).

Letters: L layers, H heads, d head width, D hidden size, F ffn width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homoexport.encoder import Family, Keep, LayerKeep, Layout, Widths


@dataclass
class LayerScores:
    """Importance of one layer's neurons: [H·d], [H·d] and [F]."""

    query_key: Tensor
    value_out: Tensor
    ffn: Tensor


@dataclass
class Scores:
    """Importance of every group: [D], and each layer's."""

    hidden: Tensor
    layers: list[LayerScores]

    def tensors(self) -> list[Tensor]:
        """All score vectors, in a fixed order."""
        return [
            self.hidden,
            *(vector for layer in self.layers for vector in (layer.query_key, layer.value_out, layer.ffn)),
        ]


def zero_scores(widths: Widths, device: torch.device) -> Scores:
    """Scores of nothing seen yet."""
    zeros = [
        LayerScores(
            torch.zeros(heads * widths.head_dim, device=device),
            torch.zeros(heads * widths.head_dim, device=device),
            torch.zeros(widths.intermediate_size, device=device),
        )
        for heads in widths.heads
    ]
    return Scores(torch.zeros(widths.hidden_size, device=device), zeros)


@torch.no_grad()
def update_scores(scores: Scores, model: nn.Module, family: Family, *, beta: float, token_ids: Tensor | None) -> None:
    """Blend the sensitivity of the present gradients into `scores`, in place.

    Args:
        scores: smoothed so far.
        model: has the gradients of this step.
        family: its adapter.
        beta: share of the old scores that stays.
        token_ids: the only rows [n] of the word embeddings whose gradients are not zero, or None
            where all may be (a tied decoder).
    """
    layout = family.layout(model)
    targets = _targets(scores, layout)
    for vector in scores.tensors():
        vector.mul_(beta)
    for name, axes in targets.items():
        parameter = model.get_parameter(name)
        if parameter.grad is None:
            continue
        weight, gradient = parameter.detach(), parameter.grad
        if name == layout.token_rows and token_ids is not None:
            weight, gradient = weight[token_ids], gradient[token_ids]
        sensitivity = torch.mul(weight, gradient).abs_()
        for axis, vector in axes:
            now = sensitivity if sensitivity.dim() == 1 else sensitivity.sum(1 - axis)
            vector.add_(now, alpha=1 - beta)


def _targets(scores: Scores, layout: Layout) -> dict[str, list[tuple[int, Tensor]]]:
    """For each parameter, which of its axes adds to which score vector."""
    targets: dict[str, list[tuple[int, Tensor]]] = {}
    groups = [(layout.hidden, scores.hidden)]
    for slots, layer in zip(layout.layers, scores.layers, strict=True):
        groups += [(slots.query_key, layer.query_key), (slots.value_out, layer.value_out), (slots.ffn, layer.ffn)]
    for slots_of_group, vector in groups:
        for slot in slots_of_group:
            targets.setdefault(slot.parameter, []).append((slot.axis, vector))
    return targets


def choose(scores: Scores, widths: Widths, *, hidden_size: int, ffn: int, total_heads: int, head_dim: int) -> Keep:
    """The most important neurons, as many as the widths asked for.

    Heads leave the layers evenly (numbers differ by one at most), the least important first; within
    a head, the least important query-key and value-out dimensions go.

    Args:
        scores: importance of the live model's neurons.
        widths: the live model's widths.
        hidden_size: residual dimensions to keep.
        ffn: ffn neurons to keep in each layer.
        total_heads: heads to keep over all layers.
        head_dim: dimensions to keep in each head.
    """
    kept_heads = _choose_heads(scores, widths, total_heads)
    layers = []
    for layer, heads in zip(scores.layers, kept_heads, strict=True):
        layers.append(
            LayerKeep(
                query_key=_unless_all(_choose_dims(layer.query_key, heads, widths.head_dim, head_dim), layer.query_key),
                value_out=_unless_all(_choose_dims(layer.value_out, heads, widths.head_dim, head_dim), layer.value_out),
                ffn=_unless_all(_top(layer.ffn, ffn), layer.ffn),
            )
        )
    return Keep(_unless_all(_top(scores.hidden, hidden_size), scores.hidden), tuple(layers), head_dim)


def keep_scores(scores: Scores, keep: Keep) -> Scores:
    """The scores of what stays."""

    def pick(vector: Tensor, index: Tensor | None) -> Tensor:
        return vector if index is None else vector[index]

    layers = [
        LayerScores(pick(old.query_key, new.query_key), pick(old.value_out, new.value_out), pick(old.ffn, new.ffn))
        for old, new in zip(scores.layers, keep.layers, strict=True)
    ]
    return Scores(pick(scores.hidden, keep.hidden), layers)


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
        for layer, heads in zip(scores.layers, widths.heads, strict=True)
    ]
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
