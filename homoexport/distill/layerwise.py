"""The layerwise terms: which of the student's layers answers to which of the teacher's, and the terms' sums.

Letters: B batch, S sequence, L layers, H heads, d head width, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from homoexport.choices import AttentionKind
from homoexport.distill import objective
from homoexport.distill.trace import Trace
from homoexport.documents.recipe import LossWeights
from homoexport.encoder import Family
from homoexport.errors import RecipeError
from homoexport.shape import Widths


@dataclass(frozen=True)
class LayerMap:
    """For each of the student's layers, the teacher's layer that it answers to; counted from 0.

    A layer's output answers to what the teacher has reached where the student's next layer begins;
    its attention answers to the layer that it came from. While a layer fades out (its `scale` falls
    from 1 to 0), the layer before it hands its place over: what it leaves behind is then no longer
    the teacher's state before the faded layer, but the one after.

    Attributes:
        hidden: teacher's layers that the outputs answer to.
        attention: teacher's layers that the attention answers to.
        fading: the student's layer that is on its way out.
        scale: of the fading layer.
    """

    hidden: tuple[int, ...]
    attention: tuple[int, ...]
    fading: int | None = None
    scale: float = 1.0

    @classmethod
    def one_to_one(cls, layers: int) -> LayerMap:
        """Student and teacher have the same layers."""
        return cls(tuple(range(layers)), tuple(range(layers)))

    @classmethod
    def of_kept(cls, kept: Sequence[int], teacher_layers: int) -> LayerMap:
        """The student has the teacher's layers `kept`."""
        ends = [*(index - 1 for index in kept[1:]), teacher_layers - 1]
        return cls(tuple(ends), tuple(kept))

    @classmethod
    def uniform(cls, layers: int, teacher_layers: int) -> LayerMap:
        """The student's layers are none of the teacher's; they answer at even distances, the last to the last."""
        ends = tuple((index + 1) * teacher_layers // layers - 1 for index in range(layers))
        return cls(ends, ends)

    def without(self, layer: int) -> LayerMap:
        """After the student's layer is gone: the layer before takes over what its output answered to."""
        hidden, attention = list(self.hidden), list(self.attention)
        del attention[layer]
        del hidden[max(0, layer - 1)]
        return LayerMap(tuple(hidden), tuple(attention))

    def hidden_weight(self, layer: int) -> float:
        """Weight of the hidden term at the student's layer."""
        handing_over = None if self.fading is None else max(0, self.fading - 1)
        return self.scale if layer == handing_over else 1.0

    def attention_weight(self, layer: int) -> float:
        """Weight of the attention term at the student's layer."""
        return self.scale if layer == self.fading else 1.0


class Projections(nn.Module):
    """W_hidden of every teacher's layer and W_emb, each [D_t, D_s]; the identity until the student is sliced."""

    def __init__(self, hidden_size: int, layers: int) -> None:
        super().__init__()
        self.hidden = nn.ParameterList(nn.Parameter(torch.eye(hidden_size)) for _ in range(layers))
        self.embedding = nn.Parameter(torch.eye(hidden_size))

    def followers(self) -> list[tuple[nn.Parameter, int]]:
        """Each matrix with the axis that follows the student's residual dimensions."""
        return [(parameter, 1) for parameter in self.parameters()]

    def start_at_random(self, hidden_size: int) -> None:
        """For a student that is not a part of its teacher: [D_t, hidden_size], columns of length about 1."""
        for parameter in self.parameters():
            parameter.data = torch.randn(len(parameter), hidden_size) * len(parameter) ** -0.5


@dataclass(frozen=True)
class Counts:
    """What the terms are divided by: sums over all micro-batches and processes of a step.

    Attributes:
        tokens: that are not padding.
        labelled: labels that are there.
        rows: of logits that student and teacher are compared on.
        pairs: of tokens, for each window (None: all tokens see each other).
    """

    tokens: int
    labelled: int
    rows: int
    pairs: dict[int | None, int]


class LayerTerms:
    """Computes the layerwise terms of the forward passes just made; hooks see to it that they are at hand.

    Args:
        teacher: frozen.
        student: same family.
        family: their adapter.
        projections: W_hidden and W_emb.
        weights: a term of weight 0 is not computed.
        chosen: teacher's layers, counted from 0, that the hidden and attention terms match.
        attention_kind: scores or probabilities.
        layer_map: which layer answers to which.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        family: Family,
        projections: Projections,
        *,
        weights: LossWeights,
        chosen: frozenset[int],
        attention_kind: AttentionKind,
        layer_map: LayerMap,
    ) -> None:
        self.teacher, self.student, self.family = teacher, student, family
        self.projections, self.weights, self.chosen = projections, weights, chosen
        self.attention_kind = attention_kind
        self._teacher_widths = family.widths(teacher)
        last = self._teacher_widths.num_hidden_layers - 1
        self._teacher_trace = Trace(
            family.taps(teacher),
            embedding=weights.embedding > 0,
            layers=chosen if weights.hidden > 0 else (),
            projections={*(chosen if weights.attention > 0 else ()), *((last,) if weights.relation > 0 else ())},
        )
        self._student_trace = Trace(family.taps(student), embedding=False, layers=(), projections=())
        self.follow(layer_map)
        for term, weight, matched, answered in (
            ("hidden", weights.hidden, self._hidden_layers, layer_map.hidden),
            ("attention", weights.attention, self._attention_layers, layer_map.attention),
        ):
            if weight > 0 and not matched:
                raise RecipeError(
                    f"none of the student's layers answers to these of the teacher's in the {term} term",
                    where="distill.layers",
                    hint=f"answered are {', '.join(str(layer + 1) for layer in answered)}; or weigh the term 0",
                )

    @property
    def windows(self) -> frozenset[int | None]:
        """Windows of the layers whose attention is compared."""
        if self.weights.attention == 0:
            return frozenset()
        return frozenset(self.family.window(self.teacher, layer) for layer in self.chosen)

    def follow(self, layer_map: LayerMap) -> None:
        """Take on a new map, after layers were faded or removed."""
        self.map = layer_map
        self._student_trace.remove()
        weights, last = self.weights, len(layer_map.hidden) - 1
        self._hidden_layers = [k for k, end in enumerate(layer_map.hidden) if end in self.chosen]
        self._attention_layers = [k for k, origin in enumerate(layer_map.attention) if origin in self.chosen]
        self._student_trace = Trace(
            self.family.taps(self.student),
            embedding=weights.embedding > 0,
            layers=self._hidden_layers if weights.hidden > 0 else (),
            projections={
                *(self._attention_layers if weights.attention > 0 else ()),
                *((last,) if weights.relation > 0 else ()),
            },
        )

    def set_fading(self, layer: int | None, scale: float) -> None:
        """Weigh the terms by how far a layer has faded."""
        self.map = replace(self.map, fading=layer, scale=scale)

    def clear(self) -> None:
        """Let go of what the last forward passes left."""
        self._teacher_trace.clear()
        self._student_trace.clear()

    def remove(self) -> None:
        """Take all hooks off."""
        self._teacher_trace.remove()
        self._student_trace.remove()

    @property
    def wanted(self) -> bool:
        """Whether any of these terms has a weight."""
        weights = self.weights
        return any(weight > 0 for weight in (weights.hidden, weights.attention, weights.embedding, weights.relation))

    def of(self, attention_mask: Tensor, counts: Counts) -> dict[str, Tensor]:
        """The terms of the forward passes just made, by name.

        Args:
            attention_mask: [B, S].
            counts: of the whole step.
        """
        mine, theirs = self._student_trace, self._teacher_trace
        token_mask = attention_mask.bool()
        terms: dict[str, Tensor] = {}
        if self.weights.hidden > 0 and self._hidden_layers:
            terms["hidden"] = torch.stack([self._hidden(k, token_mask, counts) for k in self._hidden_layers]).sum()
        if self.weights.attention > 0 and self._attention_layers:
            terms["attention"] = self._attention(token_mask, counts)
        if mine.embedding is not None and theirs.embedding is not None:
            terms["embedding"] = objective.hidden_error(
                mine.embedding, theirs.embedding, self.projections.embedding, token_mask, counts.tokens
            )
        if self.weights.relation > 0:
            ours = mine.projections(len(self.map.hidden) - 1)
            last = theirs.projections(self._teacher_widths.num_hidden_layers - 1)
            errors = [
                objective.relation_error(student, teacher, token_mask, counts.tokens)
                for student, teacher in zip(ours, last, strict=True)
            ]
            terms["relation"] = torch.stack(errors).sum()
        return terms

    def _hidden(self, layer: int, token_mask: Tensor, counts: Counts) -> Tensor:
        end = self.map.hidden[layer]
        error = objective.hidden_error(
            self._student_trace.layers[layer],
            self._teacher_trace.layers[end],
            self.projections.hidden[end],
            token_mask,
            counts.tokens,
        )
        return error * self.map.hidden_weight(layer)

    def _attention(self, token_mask: Tensor, counts: Counts) -> Tensor:
        counted = {window: _pair_mask(token_mask, window) for window in counts.pairs}
        widths, full = self.family.widths(self.student), self._teacher_widths
        errors = []
        for layer in self._attention_layers:
            origin = self.map.attention[layer]
            window = self.family.window(self.teacher, origin)
            mask, pairs = counted[window], counts.pairs[window]
            theirs = self._map_of(self.teacher, self._teacher_trace, origin, mask, full)
            if self.attention_kind == "scores":
                heads, head_dim = widths.heads_per_layer[layer], widths.head_dim
                query, key, bias = self._attention_inputs(self.student, self._student_trace, layer, head_dim)
                error = objective.attention_scores_error(
                    query, key, theirs, mask, pairs, heads=heads, head_dim=head_dim, bias=bias
                )
            else:
                ours = self._map_of(self.student, self._student_trace, layer, mask, widths)
                error = objective.attention_error(ours, theirs, mask, pairs)
            errors.append(error * self.map.attention_weight(layer))
        return torch.stack(errors).sum()

    def _map_of(self, model: nn.Module, trace: Trace, layer: int, counted: Tensor, widths: Widths) -> Tensor:
        """Scores or probabilities [B, S, S] of one layer of one model."""
        heads, head_dim = widths.heads_per_layer[layer], widths.head_dim
        query, key, bias = self._attention_inputs(model, trace, layer, head_dim)
        if self.attention_kind == "scores":
            return objective.attention_scores(query, key, heads=heads, head_dim=head_dim, bias=bias)
        return objective.attention_probabilities(query, key, counted, heads=heads, head_dim=head_dim, bias=bias)

    def _attention_inputs(
        self, model: nn.Module, trace: Trace, layer: int, head_dim: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries and keys [B, S, H·d] of one layer, with their positions, and the bias of its scores."""
        query, key, _ = trace.projections(layer)
        query, key = (self.family.rotate(model, layer, side, head_dim) for side in (query, key))
        return query, key, self.family.score_bias(model, query.shape[1])


def _pair_mask(token_mask: Tensor, window: int | None) -> Tensor:
    """Bool [B, S, S]: neither token is padding, and the one is in sight of the other."""
    mask = token_mask[:, :, None] & token_mask[:, None, :]
    if window is None:
        return mask
    places = torch.arange(token_mask.shape[1], device=token_mask.device)
    return mask & ((places[:, None] - places).abs() <= window)
