"""Quality against what it costs: models by their p95 and by their file's size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homoexport.documents.measurement import Interval
from homoexport.report.plots import COLOURS, GREY, STYLE, spread_by_decades, whiskers


class Point(NamedTuple):
    """A model: what it costs, and its quality; None for what was not measured."""

    label: str
    p95_ms: float | None
    p95_interval_ms: Interval | None
    file_mb: float
    quality: float
    quality_interval: Interval | None


def tradeoff_figure(points: Sequence[Point], *, quality: str, less_is_better: bool = False) -> Figure:
    """Each model by latency and quality, and by size and quality; whiskers are 95 % intervals.

    Of more than two models a line goes through those that no other beats in both. `less_is_better` is of the quality.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6 + 0.12 * len(points)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for point, colour in zip(points, cycle(COLOURS), strict=False):
            if point.p95_ms is not None:
                _draw(left, point, point.p95_ms, point.p95_interval_ms, colour)
            _draw(right, point, point.file_mb, None, colour)
        by_size = [(point.file_mb, point.quality) for point in points]
        by_time = [(point.p95_ms, point.quality) for point in points if point.p95_ms is not None]
        for axes, label, places in ((left, "latency p95, ms", by_time), (right, "file, MB", by_size)):
            if len(places) > 2:
                front = front_of(places, less_is_better=less_is_better)
                axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, zorder=0, label="front")
            spread_by_decades(axes)
            axes.margins(x=0.25, y=0.2)
            axes.set_xlabel(label)
        left.set_ylabel(quality)
        # Below both, where it covers no point however long its names are.
        figure.legend(
            *right.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2, fontsize=9
        )
    return figure


def front_of(places: Sequence[tuple[float, float]], *, less_is_better: bool = False) -> list[tuple[float, float]]:
    """Of models by cost and quality those than which no other is as good for less, the cheapest first.

    >>> front_of([(3.0, 0.9), (1.0, 0.7), (2.0, 0.6), (4.0, 0.8)])
    [(1.0, 0.7), (3.0, 0.9)]
    """
    sign = -1 if less_is_better else 1
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(places, key=lambda place: (place[0], -sign * place[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front


def _draw(axes: Axes, point: Point, cost: float, interval: Interval | None, colour: str) -> None:
    axes.errorbar(
        [cost],
        [point.quality],
        xerr=whiskers(cost, interval),
        yerr=whiskers(point.quality, point.quality_interval),
        fmt="o",
        color=colour,
        capsize=3,
        label=point.label,
    )
