"""A measurement kept as a folder: `measurement.json`, `report.md`, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from homoexport.data import rendered
from homoexport.documents.artifact import write_manifest
from homoexport.documents.budget import is_kept
from homoexport.documents.document import write_document
from homoexport.documents.layout import MEASUREMENT, PLOTS
from homoexport.documents.measurement import Grid, Measurement
from homoexport.report.measured import grid_table, labels_of, measurement_remarks, measurement_table
from homoexport.report.page import verdict_of, write_page
from homoexport.report.plots import BLUE, COLOURS, INK, ORANGE, STYLE, distribution_figure
from homoexport.report.verdicts import headline
from homoexport.report.wording import conditions, host_line, number, verdict_lines, versions_line

_ON_LIGHT = "#111111"  # on a map's light cells, whose colours are the same in the dark
_DOTS = 1500  # of a figure: beyond, some calls are left out, but none of the slowest


def write_bench_report(folder: Path, document: Measurement | Grid) -> None:
    """Fill an empty folder with a measurement or a grid, as JSON, as pages and as plots: a `measurement` artifact."""
    figures = _figures(document)
    page = rendered(
        "bench_report.md.jinja",
        headline=_headline(document.cells),
        is_grid=isinstance(document, Grid),
        table=grid_table(document) if isinstance(document, Grid) else measurement_table(document),
        cells=document.cells,
        plots={name: _caption(name) for name in figures},
        folder=PLOTS,
        remarks=measurement_remarks(document),
        conditions=conditions,
        host_line=host_line,
        verdict_lines=verdict_lines,
        versions_line=versions_line,
    )
    write_document(folder / MEASUREMENT, document)
    verdicts = [verdict for cell in document.cells for verdict in cell.budget]
    write_page(folder, page, figures, verdict=verdict_of(is_kept(verdicts), asked=bool(verdicts)))
    write_manifest(folder, "measurement")


def _headline(cells: Sequence[Measurement]) -> str:
    """One sentence on the budget; nothing where none was asked for."""
    judged = [cell.budget for cell in cells if cell.budget]
    if len(cells) == 1:
        return headline(judged[0]) if judged else ""
    kept = sum(is_kept(budget) is True for budget in judged)
    return f"The budget is kept in {kept} of {len(judged)} conditions." if judged else ""


def _figures(document: Measurement | Grid) -> dict[str, Figure]:
    """The plots, by the names of their files."""
    if isinstance(document, Grid):
        packages = {result.package: result for cell in document.cells for result in cell.results}
        labels = labels_of(list(packages.values()))
        return {
            f"heat-{place}": heat_figure(document.cells, package, label)
            for place, (package, label) in enumerate(zip(packages, labels, strict=True), start=1)
        }
    figures: dict[str, Figure] = {}
    if document.results:
        figures["distribution"] = distribution_figure(document.results, labels_of(document.results))
        figures["samples"] = samples_figure(document)
    if any(result.open_loop for result in document.results):
        figures["arrivals"] = arrivals_figure(document)
    return figures


def _caption(name: str) -> str:
    """What a plot shows."""
    if name.startswith("heat"):
        return "Median latency over batch size and length; the darker, the faster"
    return {
        "distribution": "How many of the calls were answered within a time",
        "samples": "Every timed call in the order of the rounds, with p50 and p95",
        "arrivals": "p95 from arrival to answer over the rate of arrivals",
    }[name]


def heat_figure(cells: Sequence[Measurement], package: str, label: str) -> Figure:
    """Median latency of one package over batch size and length, a map for each number of threads.

    A condition that did not fit into memory is left white.
    """
    threads = sorted({cell.threads for cell in cells})
    batches = sorted({cell.batch_size for cell in cells})
    lengths = sorted({cell.length for cell in cells})
    maps = np.full((len(threads), len(batches), len(lengths)), np.nan)
    for cell in cells:
        place = threads.index(cell.threads), batches.index(cell.batch_size), lengths.index(cell.length)
        for result in cell.results:
            if result.package == package:
                maps[place] = result.latency_p50_ms
    with rc_context({**STYLE, "axes.grid": False}):
        size = (1.6 + 1.1 * len(lengths) * len(threads), 1.6 + 0.55 * len(batches))
        figure = Figure(figsize=size, layout="constrained")
        row = figure.subplots(1, len(threads), squeeze=False)[0]
        low, high = np.nanmin(maps), np.nanmax(maps)
        for axes, count, values in zip(row, threads, maps, strict=True):
            axes.imshow(np.log(values), cmap="viridis", vmin=np.log(low), vmax=np.log(high), aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                if not np.isnan(value):
                    dark = np.log(value) < (np.log(low) + np.log(high)) / 2
                    axes.text(j, i, number(value), ha="center", va="center", color="white" if dark else _ON_LIGHT)
            axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
            axes.set_yticks(range(len(batches)), [str(batch) for batch in batches])
            axes.set_xlabel("tokens")
            axes.set_title(f"{count} thread{'' if count == 1 else 's'}")
        row[0].set_ylabel("batch size")
        figure.suptitle(f"{label}: median latency, ms", x=0.01, ha="left", fontsize=11)
    return figure


def samples_figure(measurement: Measurement) -> Figure:
    """Every timed call in the order of the rounds: noise, drift and outliers, in sight."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 1.8 * len(measurement.results)), layout="constrained")
        rows = figure.subplots(len(measurement.results), 1, squeeze=False)[:, 0]
        for axes, result, label in zip(rows, measurement.results, labels_of(measurement.results), strict=True):
            samples = np.array(result.samples_ms)
            every = -(-samples.size // _DOTS)
            slowest = np.flatnonzero(samples > np.percentile(samples, 99))
            drawn = np.union1d(np.arange(0, samples.size, every), slowest)
            axes.plot(drawn / result.runs_per_round, samples[drawn], ".", color=BLUE, markersize=2)
            axes.axhline(result.latency_p50_ms, color=INK, linewidth=1)
            axes.axhline(result.latency_p95_ms, color=ORANGE, linewidth=1)
            axes.set_ylim(0, float(np.percentile(samples, 99.5)) * 1.15)
            axes.set_ylabel("ms")
            some = f", of which every {every}th and the slowest are drawn" if every > 1 else ""
            axes.set_title(f"{label}: p50 and p95 of {result.runs} calls{some}")
        rows[-1].set_xlabel("round")
    return figure


def arrivals_figure(measurement: Measurement) -> Figure:
    """p95 from arrival to answer over the rate of arrivals."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.subplots()
        results = measurement.results
        for result, label, colour in zip(results, labels_of(results), cycle(COLOURS), strict=False):
            if result.open_loop is None:
                continue
            rates = result.open_loop.rates
            axes.plot(
                [rate.rate_per_s for rate in rates],
                [rate.latency_p95_ms for rate in rates],
                "o-",
                color=colour,
                label=label,
            )
        budget = next(result.open_loop.budget_p95_ms for result in results if result.open_loop)
        if budget is not None:
            axes.axhline(budget, color=INK, linewidth=1, linestyle=":")
        axes.set_yscale("log")
        axes.set_xlabel("arrivals a second (Poisson)")
        axes.set_ylabel("p95 from arrival to answer, ms")
        axes.legend(frameon=False)
    return figure
