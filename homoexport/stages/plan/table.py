"""What shapes cost on a target: a few dozen small models measured there, and whole ones predicted from them.

A model's cost is taken as a sum, cost = e(D) + L·layer(D, F, H), where a layer's is linear in F and in H at one D. At
each of some D three models of three layers are measured: a wide one, one with fewer heads, one with a narrower ffn; at
five D also one of one layer, which tells e from the layers. They are true to shape and have random weights, in the
form and scheme that an export tries first. Between two D it is a straight line.

Sizes of files are sums to the byte; peak memory is a linear function of what the file and the activations hold, fitted
over all models of the table.

Letters: L layers, D hidden size, F ffn width, H heads.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from homoexport.documents.plan import C, Cost, MeasuredTable
from homoexport.schemes import INT4_TABLE_BLOCK
from homoexport.shape import Shape

ONE, DEEP = 1, 3  # layers of the models of the table
_SHALLOW = (0.0, 0.25, 0.5, 0.75, 1.0)  # where among the D models of one layer are, some of which may not fit
_FAR = 0.25  # off its neighbours' line, from which on a model is measured again
_MB = 10**6


@dataclass(frozen=True)
class Table:
    """What small models cost, and what whole ones will."""

    figures: MeasuredTable

    @cached_property
    def measured(self) -> dict[Shape, Cost]:
        return {each.shape: each for each in self.figures.measured}

    def predict(self, shape: Shape) -> Cost:
        """What a shape will cost, for any D between the smallest and the largest of the table."""
        p50 = self._p50_ms(shape)
        at_rest = Cost(
            latency_p50_ms=p50,
            latency_p95_ms=p50,
            latency_p99_ms=p50,
            latency_mean_ms=p50,
            peak_rss_mb=float(self._memory_features(shape) @ self._memory),
            file_mb=self._file_mb(shape),
        )
        return with_tails(at_rest, self.tails)

    def covers(self, shape: Shape) -> bool:
        return self._nodes[0] <= shape.hidden_size <= self._nodes[-1]

    def doubts(self, shape: Shape) -> bool:
        """Whether its median is predicted from a model that is suspect."""
        nodes = self._nodes
        place = bisect.bisect_left(nodes, shape.hidden_size)
        is_node = place < len(nodes) and nodes[place] == shape.hidden_size
        beside = nodes[place : place + 1] if is_node else nodes[max(0, place - 1) : place + 1]
        return any(one.hidden_size in beside for one in self.figures.suspect)

    @cached_property
    def _nodes(self) -> list[int]:
        return sorted({shape.hidden_size for shape in self.measured})

    def _p50_ms(self, shape: Shape) -> float:
        """On the line between the values at the nearest D of the table."""
        nodes = self._nodes
        place = bisect.bisect_left(nodes, shape.hidden_size)
        if place < len(nodes) and nodes[place] == shape.hidden_size:
            return self._p50_at(shape.hidden_size, shape)
        if place in (0, len(nodes)):
            raise ValueError(f"{shape.hidden_size} is not between {nodes[0]} and {nodes[-1]}")
        low, high = nodes[place - 1], nodes[place]
        share = (shape.hidden_size - low) / (high - low)
        return (1 - share) * self._p50_at(low, shape) + share * self._p50_at(high, shape)

    def _p50_at(self, hidden: int, shape: Shape) -> float:
        """e(D) + L · layer(D, F, H), at a D of the table.

        Where a restless machine makes that nothing, it is what the fastest small model of this D takes.
        """
        mine = {one: figures.latency_p50_ms for one, figures in self.measured.items() if one.hidden_size == hidden}
        base = max(one for one in mine if one.num_hidden_layers == DEEP)  # of the widest ffn and the most heads
        outside = self._outside_ms(hidden)
        layer = (mine[base] - outside) / DEEP
        for other in mine:
            if other.num_hidden_layers == DEEP and other != base:
                change = (mine[base] - mine[other]) / DEEP
                ffn = base.intermediate_size - other.intermediate_size
                heads = base.num_attention_heads - other.num_attention_heads
                if ffn:
                    layer += change * (shape.intermediate_size - base.intermediate_size) / ffn
                else:
                    layer += change * (shape.num_attention_heads - base.num_attention_heads) / heads
        return outside + shape.num_hidden_layers * max(layer, 0.0) or min(mine.values())

    def _outside_ms(self, hidden: int) -> float:
        """e(D), on the line between the D where it is known."""
        return float(np.interp(hidden, list(self._known_outside), list(self._known_outside.values())))

    @cached_property
    def _known_outside(self) -> dict[int, float]:
        """e(D) where models of one layer and of three were measured: what is left of the first less a layer."""
        known = {}
        for first in sorted(shape for shape in self.measured if shape.num_hidden_layers == ONE):
            one, deep = (
                self.measured[replace(first, num_hidden_layers=layers)].latency_p50_ms for layers in (ONE, DEEP)
            )
            known[first.hidden_size] = max(0.0, one - (deep - one) / (DEEP - ONE))
        return known

    @cached_property
    def tails(self) -> dict[str, float]:
        return tails_of(list(self.measured.values()))

    def _file_mb(self, shape: Shape) -> float:
        return float(byte_features(shape) @ self._bytes)

    @cached_property
    def _bytes(self) -> NDArray[np.float64]:
        return fit_bytes({shape: figures.file_mb for shape, figures in self.measured.items()})

    def _memory_features(self, shape: Shape) -> NDArray[np.float64]:
        tokens = self.figures.batch_size * self.figures.length
        embedding, layers = self._file_mb(replace(shape, num_hidden_layers=0)), self._file_mb(shape)
        inner = 4 * tokens * max(shape.intermediate_size, 3 * shape.hidden_size) / _MB
        scores = 4 * self.figures.batch_size * shape.num_attention_heads * self.figures.length**2 / _MB
        return np.array([1.0, embedding, layers - embedding, inner + scores])

    @cached_property
    def _memory(self) -> NDArray[np.float64]:
        """Coefficients, none of which is negative (Lawson & Hanson 1974)."""
        rows = np.array([self._memory_features(shape) for shape in self.measured])
        peaks = np.array([figures.peak_rss_mb for figures in self.measured.values()])
        coefficients: NDArray[np.float64] = nnls(rows, peaks)[0]
        return coefficients


def tails_of(costs: Sequence[Cost]) -> dict[str, float]:
    """How many times the median p95, p99 and mean usually are: medians over models, by the figures' names."""
    return {
        name: float(np.median([cost.figures[name] / cost.latency_p50_ms for cost in costs]))
        for name in ("latency_p95_ms", "latency_p99_ms", "latency_mean_ms")
    }


def with_tails(cost: C, tails: Mapping[str, float]) -> C:
    """The same with p95, p99 and mean that are so many times its median."""
    return cost.with_figures({name: cost.latency_p50_ms * tail for name, tail in tails.items()})


def shapes_to_measure(candidates: Sequence[Shape]) -> list[Shape]:
    """The small models of a table from which all of the candidates can be predicted."""
    chosen: dict[Shape, None] = {}
    nodes = sorted({shape.hidden_size for shape in candidates})
    shallow = {nodes[round(share * (len(nodes) - 1))] for share in _SHALLOW}
    own_width = next((shape.head_width for shape in candidates if shape.head_width is not None), None)
    for hidden in nodes:
        heads = sorted({shape.num_attention_heads for shape in candidates if shape.hidden_size == hidden})
        ffn = sorted({shape.intermediate_size for shape in candidates if shape.hidden_size == hidden})
        if hidden in shallow:
            chosen[Shape(ONE, hidden, ffn[-1], heads[-1], own_width)] = None
        for inner, number in ((ffn[-1], heads[-1]), (ffn[-1], heads[0]), (ffn[0], heads[-1])):
            chosen[Shape(DEEP, hidden, inner, number, own_width)] = None
    return list(chosen)


def outliers(measured: Mapping[Shape, Cost]) -> list[Shape]:
    """Models whose median is far from the line between those of the next smaller and the next wider one of their kind;
    of the smallest, far above the next one, and of the widest, far from the line through the two before it.

    Targets have widths that are slow, so that an outlier may be true: it is to be measured again, and no more.
    """
    curves: dict[tuple[int, bool, bool], list[Shape]] = {}
    for hidden in sorted({shape.hidden_size for shape in measured}):
        mine = [shape for shape in measured if shape.hidden_size == hidden]
        ffn, heads = max(one.intermediate_size for one in mine), max(one.num_attention_heads for one in mine)
        for one in mine:
            kind = one.num_hidden_layers, one.intermediate_size == ffn, one.num_attention_heads == heads
            curves.setdefault(kind, []).append(one)
    return [shape for curve in curves.values() for shape in _out_of_line(curve, measured)]


def _out_of_line(curve: Sequence[Shape], measured: Mapping[Shape, Cost]) -> list[Shape]:
    """Of models of one kind, the narrowest first."""
    times = [measured[one].latency_p50_ms for one in curve]
    last = len(curve) - 1
    found = []
    for place, (shape, time) in enumerate(zip(curve, times, strict=True)) if last > 1 else ():
        low, high = (place - 1, place + 1) if 0 < place < last else (-3, -2) if place else (1, 2)
        slope = (times[high] - times[low]) / (curve[high].hidden_size - curve[low].hidden_size)
        expected = times[low] + (slope * (shape.hidden_size - curve[low].hidden_size) if place else 0.0)
        if time > (1 + _FAR) * expected or (place and time < expected / (1 + _FAR)):
            found.append(shape)
    return found


def fit_bytes(known: Mapping[Shape, float]) -> NDArray[np.float64]:
    """Coefficients of `byte_features` that bytes or parameters have."""
    rows = np.array([byte_features(shape) for shape in known])
    scale = np.maximum(np.abs(rows).max(axis=0), 1.0)
    fitted: NDArray[np.float64] = np.linalg.lstsq(rows / scale, list(known.values()), rcond=None)[0] / scale
    return fitted


def byte_features(shape: Shape) -> NDArray[np.float64]:
    """The products of sizes that bytes and parameters are sums of."""
    layers, hidden = float(shape.num_hidden_layers), float(shape.hidden_size)
    ffn, heads = float(shape.intermediate_size), float(shape.num_attention_heads)
    inside = [1.0, hidden, hidden * hidden, ffn, hidden * ffn, heads, hidden * heads]
    blocks = float(-(-shape.hidden_size // INT4_TABLE_BLOCK))  # a word in 4 bits has a scale for each
    return np.array([1.0, hidden, hidden * hidden, blocks, *(layers * size for size in inside)])
