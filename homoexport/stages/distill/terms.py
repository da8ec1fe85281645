"""The loss terms that compare what teacher and student show inside: a table, one line a term.

A term reads one kind of tensor at pairs of layers, and its error at one pair is a function of what was seen there. Its
weight is the field of the same name in the recipe's `LossWeights`. docs/adding-a-loss-term.md shows how to add one.

Letters: B batch, S sequence, D hidden size (D_s student, D_t teacher).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor, nn

from homoexport.choices import AttentionKind, Method, Side, TermInput
from homoexport.documents.recipe import DistillSettings, LossWeights
from homoexport.encoder import Family, Window
from homoexport.errors import RecipeError
from homoexport.stages.distill import objective
from homoexport.stages.distill.batches import Counts
from homoexport.stages.distill.layerwise import LayerMap, Projections
from homoexport.stages.distill.taught import Shown
from homoexport.stages.distill.trace import Trace

Pairs = list[tuple[int, int]]  # a layer of the student's and the teacher's layer that it is compared with, from 0


@dataclass(frozen=True)
class Seen:
    """What student and teacher showed of one micro-batch, and what belongs to it.

    No gradient flows into the teacher. `token_mask` is bool [B, S], False on padding. With `each_head`, scores of
    attention are compared head by head, where there are as many.
    """

    student: Trace
    teacher: Trace
    token_mask: Tensor
    counts: Counts
    projections: Projections
    layer_map: LayerMap
    attention_kind: AttentionKind
    each_head: bool
    _pair_masks: dict[Window, Tensor] = field(default_factory=dict)

    def pair_mask(self, window: Window) -> Tensor:
        """Bool [B, S, S]: neither token is padding, and the second lies in the window of the first."""
        if window not in self._pair_masks:
            mask = self.token_mask[:, :, None] & self.token_mask[:, None, :]
            places = torch.arange(mask.shape[1], device=mask.device)
            to_the_right = places - places[:, None]
            if window.left is not None:
                mask &= to_the_right >= -window.left
            if window.right is not None:
                mask &= to_the_right <= window.right
            self._pair_masks[window] = mask
        return self._pair_masks[window]


def outputs_matched(layer_map: LayerMap, chosen: Collection[int]) -> Pairs:
    """Each layer's output with the teacher's layer, of the chosen ones, that it answers to."""
    return [(layer, end) for layer, end in enumerate(layer_map.hidden) if end in chosen]


def attention_matched(layer_map: LayerMap, chosen: Collection[int]) -> Pairs:
    """Each layer's attention with the teacher's layer, of the chosen ones, that it answers to."""
    return [(layer, origin) for layer, origin in enumerate(layer_map.attention) if origin in chosen]


def last_layers(layer_map: LayerMap, _chosen: Collection[int]) -> Pairs:
    return [(len(layer_map.hidden) - 1, layer_map.hidden[-1])]


def first_layers(_layer_map: LayerMap, _chosen: Collection[int]) -> Pairs:
    return [(0, 0)]


def _hidden(seen: Seen, layer: int, end: int) -> Tensor:
    error = _projected_error(seen, seen.student.states[layer], seen.teacher.states[end], seen.projections.hidden[end])
    return error * seen.layer_map.hidden_weight(layer)


def _projected_error(seen: Seen, student: Tensor, teacher: Tensor, projection: Tensor) -> Tensor:
    """Of states [B, S, D_s] and [B, S, D_t], in the width that they are compared in."""
    sides = (student, teacher) if seen.projections.compare_in == "teacher" else (teacher, student)
    return objective.hidden_error(*sides, projection, seen.token_mask, seen.counts.tokens)


def _attention(seen: Seen, layer: int, origin: int) -> Tensor:
    window = seen.teacher.family.window(seen.teacher.model, origin)
    mask, pairs = seen.pair_mask(window), seen.counts.pairs[window]
    ours = seen.student.attention(layer)
    if seen.attention_kind == "probabilities":
        sides = ours, seen.teacher.attention(origin)
        student, teacher = (objective.attention_probabilities(attention, mask) for attention in sides)
        error = objective.attention_error(student, teacher, mask, pairs)
    elif seen.each_head and ours.heads == (theirs := seen.teacher.attention(origin)).heads:
        error = objective.attention_heads_error(ours, theirs, mask, pairs)
    else:
        error = objective.attention_scores_error(ours, seen.teacher.scores(origin), mask, pairs)
    return error * seen.layer_map.attention_weight(layer)


def _embedding(seen: Seen, _layer: int, _first: int) -> Tensor:
    student, teacher = seen.student.embedding, seen.teacher.embedding
    assert student is not None
    assert teacher is not None
    return _projected_error(seen, student, teacher, seen.projections.embedding)


def _relation(seen: Seen, layer: int, last: int) -> Tensor:
    sides = zip(seen.student.projections(layer), seen.teacher.projections(last), strict=True)
    errors = [objective.relation_error(*pair, seen.token_mask, seen.counts.tokens) for pair in sides]
    return torch.stack(errors).sum()


@dataclass(frozen=True)
class Term:
    """A line of the table.

    Attributes:
        reads: what both models' hooks keep for it: `embedding`, or at the pairs of layers `states` or `projections`.
        pairs: of layers, out of the map and the teacher's layers that the recipe chose; empty where none answers.
        error: at one pair; the term is their sum. It is a sum over the micro-batch divided by one of `seen.counts`.
        methods: that have the term.
    """

    reads: TermInput
    pairs: Callable[[LayerMap, Collection[int]], Pairs]
    error: Callable[[Seen, int, int], Tensor]
    methods: Collection[Method] = get_args(Method)


_LAYERWISE: tuple[Method, ...] = ("homodistil", "one-shot", "from-scratch", "layers", "repair", "tinybert")
_OUTPUT_STAGE = 0.25  # of the steps, the last ones: tinybert's second stage
_MINILM: tuple[Method, ...] = ("minilm",)
_VECTORS = 1.0

TERMS: dict[str, Term] = {
    "hidden": Term("states", outputs_matched, _hidden, _LAYERWISE),
    "attention": Term("projections", attention_matched, _attention, _LAYERWISE),
    "embedding": Term("embedding", first_layers, _embedding, _LAYERWISE),
    "relation": Term("projections", last_layers, _relation, _MINILM),
}


def with_vectors(settings: DistillSettings, output: Side) -> DistillSettings:
    """The weight of `vectors` filled in, where none is given: they are matched where the student answers in the
    teacher's space.
    """
    if settings.weights.vectors is not None:
        return settings
    weights = settings.weights.model_copy(update={"vectors": _VECTORS if output == "teacher" else 0.0})
    return settings.model_copy(update={"weights": weights})


def weights_of(method: Method, weights: LossWeights) -> LossWeights:
    return weights.model_copy(update={name: 0.0 for name, term in TERMS.items() if method not in term.methods})


def weights_at(settings: DistillSettings, step: int) -> LossWeights:
    """The weights of a step: tinybert is taught by the inner terms first, then by the others (section 4.2 there)."""
    weights = weights_of(settings.method, settings.weights)
    if settings.method != "tinybert":
        return weights
    inner_first = step < round((1 - _OUTPUT_STAGE) * settings.steps)
    silent = LossWeights.model_fields.keys() - TERMS.keys() if inner_first else TERMS.keys()
    return weights.model_copy(update=dict.fromkeys(silent, 0.0))


class InnerTerms:
    """Computes the table's terms for the forward passes just made; hooks see to it that they are at hand."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        family: Family,
        projections: Projections,
        *,
        settings: DistillSettings,
        layer_map: LayerMap,
    ) -> None:
        self.teacher, self.student, self.family = teacher, student, family
        self.projections, self.attention_kind = projections, settings.attention_kind
        self.each_head = settings.method == "tinybert"
        layers = range(family.widths(teacher).num_hidden_layers)
        self.chosen = frozenset(layers if settings.layers is None else (layer - 1 for layer in settings.layers))
        weights = weights_of(settings.method, settings.weights)
        self.wanted = {name: term for name, term in TERMS.items() if getattr(weights, name) > 0}
        self._traces: tuple[Trace, ...] = ()
        self.follow(layer_map)
        for name, term in self.wanted.items():
            if not self._pairs[name]:
                answered = term.pairs(layer_map, layers)
                raise RecipeError(
                    f"none of the student's layers answers to these of the teacher's in the {name} term",
                    where="distill.layers",
                    hint=f"answered are {', '.join(str(theirs + 1) for _, theirs in answered)}; or weigh the term 0",
                )

    @property
    def windows(self) -> frozenset[Window]:
        """Windows of the teacher's layers whose projections are compared: pairs of tokens are counted for each."""
        compared = (pairs for name, pairs in self._pairs.items() if self.wanted[name].reads == "projections")
        return frozenset(self.family.window(self.teacher, origin) for pairs in compared for _, origin in pairs)

    def follow(self, layer_map: LayerMap) -> None:
        """Take on a new map, after layers were removed."""
        self.map = layer_map
        self.remove()
        self._pairs = {name: term.pairs(layer_map, self.chosen) for name, term in self.wanted.items()}

        def read(kind: TermInput, side: int) -> set[int]:
            return {
                pair[side] for name, term in self.wanted.items() if term.reads == kind for pair in self._pairs[name]
            }

        self._traces = tuple(
            Trace(
                model,
                self.family,
                embedding=bool(read("embedding", side)),
                states=read("states", side),
                projections=read("projections", side),
            )
            for side, model in enumerate((self.student, self.teacher))
        )

    def drop(self, names: Collection[str]) -> None:
        """Compute these terms no more."""
        if not self.wanted.keys().isdisjoint(names):
            self.wanted = {name: term for name, term in self.wanted.items() if name not in names}
            self.follow(self.map)

    def set_fading(self, layer: int | None, scale: float) -> None:
        self.map = replace(self.map, fading=layer, scale=scale)

    def clear(self) -> None:
        for trace in self._traces:
            trace.clear()

    def remove(self) -> None:
        for trace in self._traces:
            trace.remove()

    def shown(self, answer: Tensor) -> Shown:
        """What the teacher's last forward pass showed of what the terms read, with what it answered."""
        _, teacher = self._traces
        scores = {layer: teacher.scores(layer) for layer in teacher.projected_layers}
        return Shown(answer, teacher.embedding, dict(sorted(teacher.states.items())), scores)

    def recall(self, shown: Shown) -> None:
        """Take what the teacher showed once for a forward pass of its own."""
        self._traces[1].recall(shown.embedding, shown.states, shown.scores)

    def of(self, attention_mask: Tensor, counts: Counts) -> dict[str, Tensor]:
        """The terms of the forward passes just made, by name; `attention_mask` is [B, S]."""
        student, teacher = self._traces
        mask = attention_mask.bool()
        seen = Seen(student, teacher, mask, counts, self.projections, self.map, self.attention_kind, self.each_head)
        terms = {}
        for name, term in self.wanted.items():
            errors = [term.error(seen, layer, theirs) for layer, theirs in self._pairs[name]]
            if errors:
                terms[name] = torch.stack(errors).sum()
        return terms
