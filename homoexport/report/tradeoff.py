"""Quality against what it costs: models by their p95 and by their file's size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from homoexport.documents.measurement import Interval
from homoexport.report.plots import COLOURS, STYLE, spread_by_decades, whiskers


class Point(NamedTuple):
    """A model: what it costs, and its quality; None for what was not measured."""

    label: str
    p95_ms: float | None
    p95_interval_ms: Interval | None
    file_mb: float
    quality: float
    quality_interval: Interval | None


def tradeoff_figure(points: Sequence[Point], *, quality: str) -> Figure:
    """Each model by latency and quality, and by size and quality; whiskers are 95 % intervals."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for point, colour in zip(points, cycle(COLOURS), strict=False):
            if point.p95_ms is not None:
                _draw(left, point, point.p95_ms, point.p95_interval_ms, colour)
            _draw(right, point, point.file_mb, None, colour)
        for axes, label in ((left, "latency p95, ms"), (right, "file, MB")):
            spread_by_decades(axes)
            axes.margins(x=0.25, y=0.2)
            axes.set_xlabel(label)
        left.set_ylabel(quality)
        right.legend(frameon=False, loc="best", fontsize=9)
    return figure


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
