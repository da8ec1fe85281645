"""What a slice took is made good by least squares, without training.

A slice takes away what it drops, shifts the LayerNorms, which now see fewer dimensions, and every layer hands its
errors on. So the student is mended in the order of its computation, each part on what the parts before it, mended, give
on real text, against what the model before the slice has at that place:

- a LayerNorm: the scale and shift of each dimension;
- the linear layers that read the residual stream: the whole stream x_t is regressed on the student's, x_t ≈ A x_s + c,
  and W (A x_s + c) takes the place of W x_t: A goes into their weight's columns, c into their bias;
- the linear layer that ends a branch: weights and bias, so that the stream after it is nearest to what it was. Tokens
  weigh 1/variance of the stream there, which a LayerNorm will divide by. Where an RMSNorm stands behind it, what the
  norm lacks is taken back through it as it now scales each token, and then its own scale is mended;
- a decoder that has the word embeddings' weight: its bias alone, so that each word's logit has the mean that it had.

Each regression is of the error that is left, so that ridge draws a weight to what it is, not to 0. Only the streams at
one layer are kept of the text.

Letters: B batch, S sequence, N tokens that are not padding, K inputs of a linear layer, D hidden size (D_s of the
student, D_t before the slice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from homoexport.encoder import Family, Group, Keep
from homoexport.encoder.layout import Branch
from homoexport.encoder.slicing import kept_indices
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.layerwise import LayerMap, Maps
from homoexport.stages.distill.least_squares import Reduce, Regression, ScaleRegression
from homoexport.stages.distill.walk import Shown, Walk, input_of

RIDGE = 0.1
_LEAST = 1e-12  # of variances, which are divided by
_FAINT = 1e-4  # of the mean square of a norm's scale
MOST_TOKENS = 2**15  # of text at the start: two models' streams of all of them are kept


class Repair:
    """Of a student that is about to lose what is not in `keep`, so that it answers as `whole` does.

    Made before the slice, `mend` is called after it. Neurons of layers that both have are the same; the student may
    lack layers. `micro_batches` are this process's share of the text, and `reduce` sums over processes.
    """

    def __init__(
        self,
        whole: nn.Module,
        student: nn.Module,
        family: Family,
        micro_batches: Sequence[MicroBatch],
        keep: Keep,
        *,
        reduce: Reduce,
        ridge: float = RIDGE,
    ) -> None:
        self.student, self.family, self.micro_batches = student, family, micro_batches
        self.reduce, self.ridge = reduce, ridge
        self.theirs = Walk(whole, family, micro_batches)
        widths = family.widths(student)
        everything = torch.arange(widths.hidden_size, device=micro_batches[0].input_ids.device)
        self.kept = keep.indices.get(Group("hidden"), everything)
        indices = kept_indices(student, family.layout(student), keep)
        self.rows = {parameter: by_axis[0] for parameter, by_axis in indices.items() if 0 in by_axis}
        self.query_scale = math.sqrt(keep.head_dim / widths.head_dim)

    @torch.no_grad()
    def mend(
        self, layer_map: LayerMap, *, heads: bool, on_share: Callable[[float], None] = lambda _share: None
    ) -> Maps:
        """Mend the student, whose layers answer to those of `whole` as the map says; told is the share that is done."""
        self.ours = Walk(self.student, self.family, self.micro_batches)
        maps = self._mend_body(layer_map, on_share)
        if heads:
            self._mend_heads()
        return maps

    def _mend_body(self, layer_map: LayerMap, on_share: Callable[[float], None]) -> Maps:
        """Mend the embeddings' LayerNorm, the layers and the last LayerNorm."""
        theirs, ours = self.theirs, self.ours
        if ours.layout.embedding_norm is not None:
            self._mend_states(ours.layout.embedding_norm)
        embedding, hidden = self._map(), []
        for layer, (first, last) in enumerate(zip(layer_map.attention, layer_map.hidden, strict=True)):
            self._mend_layer(layer, first, last)
            hidden.append(self._map())
            on_share(len(hidden) / len(layer_map.hidden))
        if ours.layout.final_norm is not None:
            normed = [map(walk.module(str(walk.layout.final_norm)), walk.tokens()) for walk in (ours, theirs)]
            self._mend_norm(ours.layout.final_norm, zip(*normed, strict=True))
        return Maps(embedding, tuple(hidden))

    def _mend_heads(self) -> None:
        """Mend the linear layers of the heads that the models call, which read the last states or each other."""
        for ours, theirs in zip(self.ours.layout.head_readers, self.theirs.layout.head_readers, strict=True):
            regression = Regression()
            for x, whole in (pairs := self._read_by(ours, theirs)):
                regression.add(x, self._error(x, whole))
            if pairs:
                self._fold([ours], [theirs], regression)
        tied = self.family.tied_decoder(self.student)
        if tied is not None:
            self._mend_tied_decoder(*tied)

    def _mend_tied_decoder(self, norm: str, decoder: str) -> None:
        """Mend the LayerNorm before it, and its bias."""
        pairs = self._read_by(decoder, decoder)
        if not pairs:
            return
        scale, shift = self._mend_norm(norm, pairs)
        linear: Any = self.ours.module(decoder)
        source: Any = self.theirs.module(decoder)
        if linear.bias is not None:
            mine, theirs = (self._mean(side) for side in zip(*pairs, strict=True))
            linear.bias.add_(source.weight @ theirs - linear.weight @ (scale * mine + shift))

    def _read_by(self, ours: str, theirs: str) -> list[tuple[Tensor, Tensor]]:
        """What a head's linear layer takes in of each micro-batch, of the student and of the source; none where the
        models do not call it."""
        pairs = []
        for micro in self.micro_batches:
            x, whole = input_of(self.ours.model, ours, micro), input_of(self.theirs.model, theirs, micro)
            if x is None or whole is None:
                return []
            pairs.append((x, whole))
        return pairs

    def _mean(self, parts: Sequence[Tensor]) -> Tensor:
        """The mean [K] of rows [N, K], of all processes."""
        rows = self.reduce(parts[0].new_tensor(sum(map(len, parts))))
        mean: Tensor = self.reduce(torch.stack([part.sum(0) for part in parts]).sum(0)) / rows
        return mean

    def _mend_layer(self, layer: int, first: int, last: int) -> None:
        """Mend the student's layer, which reads what the source's layer `first` reads, and leaves behind what `last`
        does."""
        ours = self.ours
        reads, totals = self._targets(first, last)
        stream = list(ours.tokens())
        for number, branch in enumerate(ours.branches(layer)):
            before = branch.norm_before
            read = stream if before is None else self._normed(before, stream, reads[number])
            regression = Regression()
            for mine, whole in zip(read, reads[number], strict=True):
                regression.add(mine, self._error(mine, whole))
            self._fold(branch.readers, self.theirs.branches(first)[number].readers, regression)
            shown = list(ours.shows(layer, number))
            added = self._mend_writer(branch, shown, totals[number])
            stream = [part.base + more for part, more in zip(shown, added, strict=True)]
            if branch.norm_after is not None:
                after = reads[number + 1] if number + 1 < len(reads) else list(self.theirs.tokens())
                stream = self._normed(branch.norm_after, stream, after)
        ours.stand_after(stream)

    def _normed(self, name: str, stream: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor]:
        """What a LayerNorm makes of the stream, once it is mended to put out what is wanted, of each micro-batch."""
        norm = self.ours.module(name)
        self._mend_norm(name, zip(map(norm, stream), wanted, strict=True))
        return [norm(each) for each in stream]

    def _targets(self, first: int, last: int) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """What each branch of layer `first` read before the slice, and the stream after it, or, of the last one, after
        layer `last`; [N, D_t] of each micro-batch."""
        branches = self.theirs.branches(first)
        reads: list[list[Tensor]] = [[] for _ in branches]
        totals: list[list[Tensor]] = [[] for _ in branches]
        for shown in self.theirs.advance(first):
            for number, branch in enumerate(shown):
                reads[number].append(branch.read)
                totals[number].append(branch.base + branch.added)
        for layer in range(first + 1, last + 1):
            totals[-1] = [shown[-1].base + shown[-1].added for shown in self.theirs.advance(layer)]
        return reads, totals

    def _error(self, ours: Tensor, whole: Tensor) -> Tensor:
        """What is missing [N, D_t] where the student's [N, D_s] stands for the kept dimensions, and 0 for others."""
        error = whole.clone()
        error[:, self.kept] -= ours
        return error

    def _map(self) -> Tensor:
        regression = Regression()
        for ours, theirs in zip(self.ours.tokens(), self.theirs.tokens(), strict=True):
            regression.add(ours, self._error(ours, theirs))
        matrix, _ = regression.solve(self.ridge, intercept=False, reduce=self.reduce)
        matrix[:, self.kept] += torch.eye(len(matrix), device=matrix.device)
        return matrix

    def _mend_norm(self, name: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Scale and shift [D_s] of what it put out, from pairs of that and of the source's; they are in its parameters
        now."""
        norm: Any = self.ours.module(name)
        kept = self.rows.get(norm.weight)
        return self._rescale(norm, ((ours, whole if kept is None else whole[:, kept]) for ours, whole in pairs))

    def _rescale(self, norm: Any, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The same, where both of a pair are [N, D_s]."""
        regression, bias, base = ScaleRegression(), getattr(norm, "bias", None), self.ours.layout.norm_scale
        for ours, wanted in pairs:
            regression.add(ours, wanted - ours)
        scale, shift = regression.solve(self.ridge, intercept=bias is not None, reduce=self.reduce)
        scale = 1 + scale
        norm.weight.add_(base).mul_(scale).sub_(base)
        if bias is not None:
            bias.mul_(scale).add_(shift)
        return scale, shift

    def _mend_states(self, name: str) -> None:
        """Mend the LayerNorm that the states come from, and them."""
        scale, shift = self._mend_norm(name, zip(self.ours.tokens(), self.theirs.tokens(), strict=True))
        self.ours.states = [states * scale + shift for states in self.ours.states]

    def _mend_writer(self, branch: Branch, shown: Sequence[Shown], totals: Sequence[Tensor]) -> list[Tensor]:
        """Mend what adds to the stream, so that this is nearest to `totals` [N, D_t] behind it; what it adds then."""
        linear: Any = self.ours.module(branch.writer)
        norm: Any = None if branch.norm_of_added is None else self.ours.module(branch.norm_of_added)
        wanted = [total[:, self.kept] - part.base for part, total in zip(shown, totals, strict=True)]
        regression = Regression()
        for part, want, total in zip(shown, wanted, totals, strict=True):
            error, weights = want - part.added, 1 / total.var(1).clamp(min=_LEAST)
            if norm is not None:
                size = linear(part.ending).square().mean(1, keepdim=True).clamp(min=_LEAST).sqrt()
                error, weights = error * size * self._inverse_scale(norm), weights / size[:, 0].square()
            regression.add(part.ending, error, weights)
        matrix, offset = regression.solve(self.ridge, intercept=linear.bias is not None, reduce=self.reduce)
        linear.weight.add_(matrix.T)
        if linear.bias is not None:
            linear.bias.add_(offset)
        added = [linear(part.ending) for part in shown]
        if norm is not None:
            self._rescale(norm, zip(map(norm, added), wanted, strict=True))
            added = list(map(norm, added))
        return added

    def _inverse_scale(self, norm: Any) -> Tensor:
        """1 over the scale [D_s] of an RMSNorm, and next to 0 of a dimension that it hardly lets through."""
        scale: Tensor = norm.weight + self.ours.layout.norm_scale
        return scale / (scale.square() + _FAINT * scale.square().mean())

    def _fold(self, ours: Sequence[str], theirs: Sequence[str], regression: Regression) -> None:
        """Have linear layers read what the regression adds to the stream."""
        linears: list[Any] = [self.ours.module(name) for name in ours]
        has_bias = all(linear.bias is not None for linear in linears)
        matrix, offset = regression.solve(self.ridge, intercept=has_bias, reduce=self.reduce)  # [D_s, D_t], [D_t]
        queries = {name for layer in self.ours.layout.layers for name in layer.query}
        for name, linear, source in zip(ours, linears, theirs, strict=True):
            whole: Any = self.theirs.module(source).weight  # [rows of the source's, D_t]
            rows = self.rows.get(linear.weight)
            whole = whole if rows is None else whole[rows]
            scale = self.query_scale if f"{name}.weight" in queries else 1.0
            linear.weight.add_(whole @ matrix.T, alpha=scale)
            if has_bias:
                linear.bias.add_(whole @ offset, alpha=scale)
