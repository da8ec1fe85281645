"""Plots of a run, as figures that are drawn without a display.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from homoexport.documents.document import new_file
from homoexport.documents.layout import PLOTS
from homoexport.documents.measurement import Measurement, PackageFigures
from homoexport.documents.recipe import LossWeights
from homoexport.documents.student import StepRecord, WidthFigures
from homoexport.report.wording import number, ratio

BLUE, ORANGE, RED, PURPLE, GREEN, SKY = "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#009E73", "#56B4E9"
INK, GREY, GRID, SHADE = "#333333", "#BBBBBB", "#E6E6E6", "#F2F2F2"
COLOURS = (BLUE, ORANGE, RED, PURPLE, GREEN, SKY)
_DPI = 150
_DRAWN = 2000  # points of a line at most: more are no finer to the eye
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "text.parse_math": False,  # labels hold names, in which a dollar is one
}
# Widths mostly shrink together: thinner lines lie on thicker ones, so that each can be seen.
WIDTHS = {
    "hidden_size": ("hidden size", BLUE, "-", 5.0),
    "intermediate_size": ("feed-forward size", ORANGE, "-", 3.0),
    "num_attention_heads": ("attention heads", INK, "-", 1.0),
    "head_dim": ("head dimension", PURPLE, ":", 2.0),
    "num_hidden_layers": ("layers", RED, "-.", 2.0),
}


@contextmanager
def any_labels() -> Iterator[None]:
    """Letters that our font lacks, and names that leave no room for the figure: drawn as well as can be, unwarned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|constrained_layout")
        yield


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures into the folder's `plots`, under their names."""
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, figure in figures.items():
        with new_file(folder / PLOTS / f"{name}.png") as file, any_labels():
            figure.savefig(file, format="png", dpi=_DPI)


def _smooth(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """A centred running mean over about a fortieth of the steps, and its window."""
    window = max(1, len(values) // 40) | 1
    half = window // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid"), window


def _draw_series(axes: Axes, steps: Sequence[int], values: NDArray[np.float64], colour: str) -> int:
    mean, window = _smooth(values)
    some = _some(len(steps))
    if window > 1:
        axes.plot(steps[some], values[some], color=colour, alpha=0.3, linewidth=0.8)
    axes.plot(steps[some], mean[some], color=colour, linewidth=1.8)
    axes.set_ylim(bottom=0)
    return window


def _some(count: int) -> slice:
    """Every so many of as many points, so that a line has no more than it needs."""
    return slice(None, None, -(-count // _DRAWN))


def _mark_pruning(axes: Axes, log: Sequence[StepRecord]) -> None:
    pruned = [each.step for each in log if each.pruned]
    if pruned:
        # A single event is a line.
        axes.axvspan(pruned[0], pruned[-1], color=SHADE, zorder=0, linewidth=0 if len(pruned) > 1 else 2)


def _step_label(log: Sequence[StepRecord], window: int) -> str:
    notes = ["grey: pruning"] if any(each.pruned for each in log) else []
    notes += [f"bold: mean over {window} steps"] if window > 1 else []
    return f"step ({'; '.join(notes)})" if notes else "step"


def homotopy_figure(log: Sequence[StepRecord], teacher: WidthFigures) -> Figure:
    """Widths as shares of the teacher's, above the gap between student and teacher, over the steps."""
    steps = [each.step for each in log]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
        for axes in (above, below):
            _mark_pruning(axes, log)
        for name, (label, colour, dashes, thickness) in WIDTHS.items():
            whole, widths = getattr(teacher, name), np.array([getattr(each.widths, name) for each in log], dtype=float)
            if name == "num_hidden_layers" and whole == widths[-1]:
                continue  # depth is the exception
            told = f"{label}: {width_of(whole)} to {width_of(widths[-1])}"
            some = _some(len(log))
            above.plot(steps[some], 100 * widths[some] / whole, dashes, color=colour, linewidth=thickness, label=told)
        above.set_ylim(0, 105)
        above.set_ylabel("% of the teacher's")
        above.set_title("Widths")
        above.legend(frameon=False, loc="lower left", ncols=2, fontsize=9)
        window = _draw_series(below, steps, np.array([each.gap for each in log], dtype=float), RED)
        below.set_title("Gap between student and teacher")
        below.set_ylabel("weighted distillation loss")
        below.set_xlabel(_step_label(log, window))
    return figure


def width_of(width: float) -> str:
    """A width: whole where it is, else with one digit (heads are a mean over the layers)."""
    return f"{width:.0f}" if float(width).is_integer() else f"{width:.1f}"


def terms_figure(log: Sequence[StepRecord]) -> Figure:
    """Every active loss term over the steps, unweighted, each on its own scale."""
    steps = [each.step for each in log]
    names = [name for name in LossWeights.model_fields if any(name in each.terms for each in log)]
    columns = 2 if len(names) in (2, 4) else min(3, len(names))
    rows = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.0 * columns + 0.5, 2.3 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for axes, name in zip(grid.flat, names, strict=False):
            _mark_pruning(axes, log)
            # A stage, and a batch without labels, lacks a term: the line has a gap there.
            values = np.array([each.terms.get(name, np.nan) for each in log], dtype=float)
            window = _draw_series(axes, steps, values, BLUE)
            axes.set_title(LossWeights.model_fields[name].title or name)
        for unused in grid.flat[len(names) :]:
            unused.remove()
        for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
            axes.tick_params(labelbottom=True)  # also where the place below is left empty
        figure.supylabel("loss, unweighted", fontsize=10)
        figure.supxlabel(_step_label(log, window), fontsize=10)
    return figure


def latency_figure(measurement: Measurement, *, labels: Sequence[str]) -> Figure:
    """Bars of p50 and p95 with 95 % intervals for the packages of a measurement, the first on top."""
    results = measurement.results
    thickness = 0.36
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.3 + 0.8 * len(results)), layout="constrained")
        axes = figure.subplots()
        reach = 0.0
        for percent, colour, shift in ((50, BLUE, -0.5), (95, ORANGE, 0.5)):
            centres = np.arange(len(results)) + shift * thickness
            values = np.array([result.latencies_ms[percent][0] for result in results])
            intervals = np.array([result.latencies_ms[percent][1] for result in results]).T
            errors = np.maximum(np.abs(intervals - values), 0)
            axes.barh(centres, values, thickness * 0.94, color=colour, label=f"p{percent}")
            axes.errorbar(values, centres, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
            reach = max(reach, float(intervals.max()), float(values.max()))
            for centre, value, high in zip(centres, values, intervals[1], strict=True):
                axes.annotate(
                    f"{number(value)} ms",
                    (max(value, high), centre),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    color=INK,
                )
        axes.set_yticks(range(len(results)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, reach * 1.12)
        axes.set_xlabel("latency of one call, ms (whiskers: 95 % interval)")
        axes.set_title(_latency_title(measurement))
        axes.legend(frameon=False, loc="lower right")
    return figure


def _latency_title(measurement: Measurement) -> str:
    if measurement.emulated:
        return "An emulator's times, which say nothing of the device"
    if not measurement.comparisons:
        return "Latency of the student; the teacher does not fit"
    comparison = measurement.comparisons[0]
    return f"The student is {ratio(comparison.speedup_p50, 'faster', 'slower', comparison.interval)} at p50"


def spread_by_decades(axes: Axes) -> None:
    """Costs along a logarithmic axis, in plain figures."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def distribution_figure(results: Sequence[PackageFigures], labels: Sequence[str]) -> Figure:
    """For each package, the share of its calls that were answered within a time; dots are at p50 and p95."""
    shares = np.linspace(0, 100, 201)
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots()
        for result, label, colour in zip(results, labels, cycle(COLOURS), strict=False):
            axes.plot(np.percentile(result.samples_ms, shares), shares, color=colour, linewidth=1.8, label=label)
            dots = [result.latencies_ms[percent][0] for percent in (50, 95)]
            axes.plot(dots, (50, 95), "o", color=colour, markersize=5)
        spread_by_decades(axes)
        axes.set_ylim(0, 100)
        axes.set_ylabel("% of the calls")
        axes.set_xlabel("answered within, ms (dots: p50 and p95)")
        axes.set_title("Latency of every timed call")
        axes.legend(frameon=False, loc="lower right")
    return figure


def bars_figure(figures: Mapping[str, float], *, unit: str, title: str, marked: str | None = None) -> Figure:
    """A bar for each figure, the first on top; the marked one in another colour."""
    with rc_context(STYLE):
        lines = max(name.count("\n") for name in figures) + 1
        figure = Figure(figsize=(8, 1.1 + (0.18 + 0.16 * lines) * len(figures)), layout="constrained")
        axes = figure.subplots()
        colours = [ORANGE if name == marked else BLUE for name in figures]
        bars = axes.barh(range(len(figures)), list(figures.values()), 0.7, color=colours)
        axes.bar_label(bars, [f"{number(value)} {unit}" for value in figures.values()], padding=5, color=INK)
        axes.set_yticks(range(len(figures)), list(figures))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.15 * max(figures.values()))
        axes.set_xlabel(unit)
        axes.set_title(title)
    return figure


class Dot(NamedTuple):
    """A figure with its interval, or its spread, and whose it is."""

    label: str
    value: float
    interval: tuple[float, float] | None


def dots_figure(dots: Mapping[str, Sequence[Dot]]) -> Figure:
    """Side by side for each metric: a dot and whiskers for each model or task, the first on top."""
    most = max(map(len, dots.values()))
    columns = [[dot.label for dot in found] for found in dots.values()]
    longest = max(len(label) for labels in columns for label in labels)
    with rc_context(STYLE):
        size = (max(8, 2.2 * len(dots) + 0.08 * longest), 1.2 + 0.4 * most)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(dots), squeeze=False)[0]
        for column, (axes, (metric, found)) in enumerate(zip(grid, dots.items(), strict=True)):
            for place, dot in enumerate(found):
                reach = whiskers(dot.value, dot.interval)
                axes.errorbar([dot.value], [place], xerr=reach, fmt="o", color=BLUE, capsize=3)
            is_told = column > 0 and columns[column] == columns[column - 1]  # by the labels to the left
            axes.set_yticks(range(len(found)), [""] * len(found) if is_told else columns[column])
            axes.set_ylim(most - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.2)
            axes.set_title(metric)
    return figure


def whiskers(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """How far an interval reaches below and above its figure."""
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]
