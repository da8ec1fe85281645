"""Plots of a run, as figures that are drawn without a display.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from homoexport.documents.document import new_file
from homoexport.documents.layout import PLOTS
from homoexport.documents.measurement import Measurement
from homoexport.documents.recipe import LossWeights
from homoexport.documents.student import StepRecord, WidthFigures
from homoexport.report.wording import number, ratio

BLUE, ORANGE, RED, PURPLE, INK = "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#333333"
COLOURS = (BLUE, ORANGE, RED, PURPLE, "#009E73", "#56B4E9")
_DPI = 150
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
    "grid.color": "#E6E6E6",
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


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures into the folder's `plots`, under their names."""
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, figure in figures.items():
        with new_file(folder / PLOTS / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=_DPI)


def _smooth(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """A centred running mean over about a fortieth of the steps, and its window."""
    window = max(1, len(values) // 40) | 1
    half = window // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid"), window


def _draw_series(axes: Axes, steps: Sequence[int], values: NDArray[np.float64], colour: str) -> int:
    mean, window = _smooth(values)
    if window > 1:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
    axes.plot(steps, mean, color=colour, linewidth=1.8)
    axes.set_ylim(bottom=0)
    return window


def _mark_pruning(axes: Axes, log: Sequence[StepRecord]) -> None:
    pruned = [each.step for each in log if each.pruned]
    if pruned:
        # A single event is a line.
        axes.axvspan(pruned[0], pruned[-1], color="#F2F2F2", zorder=0, linewidth=0 if len(pruned) > 1 else 2)


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
            above.plot(steps, 100 * widths / whole, dashes, color=colour, linewidth=thickness, label=told)
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
