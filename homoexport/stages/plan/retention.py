"""What of a teacher a smaller shape would keep, before any training.

A weight is worth (θ·∂L/∂θ)² under the probe that HomoDistil's first prune event goes by (`stages.distill.probe`):
on average the squared change of the output that its removal makes, to first order, by the Gauss-Newton diagonal (the
saliency of Optimal Brain Damage, LeCun et al. 1989). A weight stays if both of the neurons that it connects stay.
Neurons leave in the order of what they are worth, layers in the order of all that is in them. So depth, width, ffn and
heads are paid for in one currency. (Sums of |θ·∂L/∂θ| itself rank shallow shapes too high: see docs/planning.md.)

A pass over some batches finds the order of the neurons, a second one the sums of what stays at every size asked for.
Each gradient is gone as soon as it was summed up: memory is that of the teacher, one gradient and the activations.

Letters: L layers, H heads, d head width, D hidden size, F ffn width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from homoexport.choices import GroupKind
from homoexport.documents.plan import TeacherSensitivity
from homoexport.encoder import Encoder, Family, Group, Slot, family_of, max_length_of
from homoexport.errors import TextError
from homoexport.shape import Widths

_BATCH, _MAX_TOKENS = 8, 64
_ATTENTION: tuple[GroupKind, ...] = ("query_key", "value_out")


@dataclass(frozen=True)
class Retention:
    """What any shape keeps of a teacher."""

    sums: TeacherSensitivity

    @cached_property
    def _layers(self) -> tuple[NDArray[np.float64], ...]:
        """Of norms and biases on the stream [L, D], of attention [L, D, (H, d)] and of the ffn [L, D, F]."""
        return tuple(np.array(sums) for sums in (self.sums.rest, self.sums.attention, self.sums.ffn))

    def share(
        self,
        *,
        num_hidden_layers: int,
        hidden_size: int,
        intermediate_size: int,
        num_attention_heads: int,
        head_dim: int,
    ) -> float:
        """The share of summed squared sensitivity that a shape keeps, 0 to 1; the layers with most in them stay.

        The sizes are among those that are known here; `head_dim` need not make up the hidden size.
        """
        width, inner = self.sums.hidden_sizes.index(hidden_size), self.sums.ffn_sizes.index(intermediate_size)
        heads = self.sums.head_shapes.index((num_attention_heads, head_dim))
        rest, attention, ffn = self._layers
        whole = rest[:, -1] + attention[:, -1].max(axis=1) + ffn[:, -1, -1]
        kept = np.argsort(-whole, kind="stable")[:num_hidden_layers]
        inside = rest[kept, width] + attention[kept, width, heads] + ffn[kept, width, inner]
        return float(self.sums.outside[width] + inside.sum())


def teacher_retention(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    probe: Callable[[Tensor, Tensor], Tensor],
    hidden_sizes: Sequence[int],
    ffn_sizes: Sequence[int],
    head_shapes: Sequence[tuple[int, int]],
) -> Retention:
    """Measure what a teacher, on the CPU, keeps at some D, F and (H, d), its own among them.

    `texts` are some dozens of the kind that it is for; its tokenizer must make something of them (TextError). The probe
    is a loss of token ids [B, S] and their mask, whose gradients say how strongly weights move the output.
    """
    model, family = encoder.model, family_of(encoder.model.config)
    widths = family.widths(model)
    batches = _batches(encoder, texts)
    pieces = _pieces(model, family)
    scores: _Vectors = {}
    with _watched(model, pieces, lambda piece, worth: _score(scores, piece, worth)):
        _run(probe, batches)
    sums = _Sums(
        _orders(scores, widths),
        widths,
        hidden_sizes=sorted({*hidden_sizes, widths.hidden_size}),
        ffn_sizes=sorted({*ffn_sizes, widths.intermediate_size}),
        head_shapes=sorted({*head_shapes, (widths.heads_per_layer[0], widths.head_dim)}),
    )
    with _watched(model, pieces, sums.add):
        _run(probe, batches)
    return Retention(sums.shares())


@dataclass(frozen=True)
class _Piece:
    """A parameter, or one of the equal parts along an axis that it is made of (`split`), and whose neurons its axes
    are."""

    groups: tuple[Group | None, ...]
    layer: int | None
    split: Slot | None = None

    def of(self, values: Tensor) -> Tensor:
        return values if self.split is None else self.split.of(values, self.split.axis)


def _pieces(model: nn.Module, family: Family) -> dict[str, list[_Piece]]:
    slots: dict[str, list[tuple[Group, Slot]]] = {}
    for group, held in family.layout(model).groups():
        for slot in held if group.kind != "heads" else ():  # what layers share is no part of any head's worth
            slots.setdefault(slot.parameter, []).append((group, slot))
    owners = {
        id(parameter): number
        for number, layer in enumerate(family.taps(model).layers)
        for parameter in layer.parameters()
    }
    found: dict[str, list[_Piece]] = {}
    for name, parameter in model.named_parameters():
        mine = slots.get(name, [])
        split = next((slot for _, slot in mine if slot.parts > 1), None)
        for part in range(split.parts if split else 1):
            groups: list[Group | None] = [None] * parameter.dim()
            for group, slot in mine:
                if slot.parts == 1 or slot.part == part:
                    groups[slot.axis] = group
            of_part = replace(split, part=part) if split else None
            found.setdefault(name, []).append(_Piece(tuple(groups), owners.get(id(parameter)), of_part))
    return found


@contextmanager
def _watched(
    model: nn.Module, pieces: dict[str, list[_Piece]], visit: Callable[[_Piece, Tensor], None]
) -> Iterator[None]:
    """Backward passes in the block show each piece's squared sensitivity, and keep no gradient."""

    def watch(name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            assert parameter.grad is not None
            worth = (parameter.detach() * parameter.grad).square_()
            parameter.grad = None
            for piece in pieces[name]:
                visit(piece, piece.of(worth))

        return look

    handles = [
        parameter.register_post_accumulate_grad_hook(watch(name))  # type: ignore[no-untyped-call]  # torch has no types
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(probe: Callable[[Tensor, Tensor], Tensor], batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    for token_ids, mask in batches:
        torch.autograd.backward(probe(token_ids, mask))


def _batches(encoder: Encoder, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Token ids [B, S] and their mask."""
    longest = min(_MAX_TOKENS, max_length_of(encoder))
    batches = []
    for start in range(0, len(texts), _BATCH):
        tokens = encoder.tokenizer(
            list(texts[start : start + _BATCH]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        if tokens["attention_mask"].sum() > 0:
            batches.append((tokens["input_ids"], tokens["attention_mask"]))
    if not batches:
        raise TextError("no text to calibrate the plan on", where="text", hint="name files with --data")
    return batches


_Vectors = dict[Group, Tensor]  # of each group's neurons


def _score(scores: _Vectors, piece: _Piece, worth: Tensor) -> None:
    for axis, group in enumerate(piece.groups):
        if group is not None:
            others = [other for other in range(worth.dim()) if other != axis]
            sums = worth.sum(others) if others else worth
            scores[group] = scores[group] + sums if group in scores else sums


def _orders(scores: _Vectors, widths: Widths) -> _Vectors:
    """The most important neurons first; of the attention groups [H·d] the best heads first, and in each the best
    dimensions."""

    def first(vector: Tensor) -> Tensor:
        return torch.sort(vector, descending=True, stable=True).indices

    orders = {group: first(vector) for group, vector in scores.items() if group.kind in ("hidden", "ffn")}
    for layer in range(widths.num_hidden_layers):
        query_key, value_out = (Group(kind, layer) for kind in _ATTENTION)
        best_heads = first((scores[query_key] + scores[value_out]).view(-1, widths.head_dim).sum(1))
        for group in (query_key, value_out):
            dims = torch.sort(scores[group].view(-1, widths.head_dim), dim=1, descending=True, stable=True).indices
            orders[group] = (best_heads[:, None] * widths.head_dim + dims[best_heads]).flatten()
    return orders


class _Sums:
    """Sums of what stays at every size, while gradients come in."""

    def __init__(
        self,
        orders: _Vectors,
        widths: Widths,
        *,
        hidden_sizes: Sequence[int],
        ffn_sizes: Sequence[int],
        head_shapes: Sequence[tuple[int, int]],
    ) -> None:
        self.orders, self.widths = orders, widths
        self.hidden_sizes, self.ffn_sizes, self.head_shapes = hidden_sizes, ffn_sizes, head_shapes
        layers, hidden = widths.num_hidden_layers, len(hidden_sizes)
        self.outside = torch.zeros(hidden, dtype=torch.float64)
        self.rest = torch.zeros(layers, hidden, dtype=torch.float64)
        self.attention = torch.zeros(layers, hidden, len(head_shapes), dtype=torch.float64)
        self.ffn = torch.zeros(layers, hidden, len(ffn_sizes), dtype=torch.float64)
        self.total = 0.0

    def add(self, piece: _Piece, worth: Tensor) -> None:
        self.total += float(worth.sum(dtype=torch.float64))
        hidden = Group("hidden")
        inner = next((group for group in piece.groups if group not in (None, hidden)), None)
        table = worth[None] if worth.dim() == 1 else worth  # [hidden or nothing, inner or nothing], in either order
        groups = (None, *piece.groups) if worth.dim() == 1 else piece.groups
        if groups[1] == hidden or (inner is not None and groups[0] == inner):
            table, groups = table.T, groups[::-1]
        if inner is None:  # of a table [V, D] the sums over V are all that counts
            table = table.sum(1, keepdim=True, dtype=torch.float64)
        rows = self._cumulated(table, hidden) if groups[0] == hidden else table.sum(0, keepdim=True)
        if inner is None:
            target = self.outside if piece.layer is None else self.rest[piece.layer]
            target += rows.sum(1)
        else:
            (self.ffn if inner.kind == "ffn" else self.attention)[inner.layer] += self._cumulated(rows.T, inner).T

    def _cumulated(self, table: Tensor, group: Group) -> Tensor:
        """Sums over the best rows of a table [neurons, ...], at each size of their kind."""
        table = table[self.orders[group]].double()
        if group.layer is not None and group.kind in _ATTENTION:
            by_head = table.view(-1, self.widths.head_dim, table.shape[1]).cumsum(0).cumsum(1)
            keys = [(heads // self.widths.queries_per_key, head_dim) for heads, head_dim in self.head_shapes]
            return torch.stack([by_head[heads - 1, head_dim - 1] for heads, head_dim in keys])
        sizes = self.hidden_sizes if group.kind == "hidden" else self.ffn_sizes
        return table.cumsum(0)[[size - 1 for size in sizes]]

    def shares(self) -> TeacherSensitivity:
        sizes = {name: getattr(self, name) for name in ("hidden_sizes", "ffn_sizes", "head_shapes")}
        shares = {name: (getattr(self, name) / self.total).tolist() for name in ("outside", "rest", "attention", "ffn")}
        return TeacherSensitivity.model_validate({**sizes, **shares}, strict=False)
