"""Models by quality and cost on one page: those of a measurement that an evaluation judged, too."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from homoexport.data import rendered
from homoexport.documents.document import write_text
from homoexport.documents.evaluation import Evaluation, JudgedModel
from homoexport.documents.layout import PLOTS
from homoexport.documents.measurement import Measurement, PackageFigures
from homoexport.report.judged import evaluation_title
from homoexport.report.measured import labels_of, measurement_remarks
from homoexport.report.page import html_page
from homoexport.report.plots import distribution_figure
from homoexport.report.table import Table
from homoexport.report.tradeoff import Point, tradeoff_figure
from homoexport.report.wording import (
    LESS_IS_BETTER,
    conditions,
    host_line,
    in_runtime,
    megabytes,
    parameters,
    quantity,
    versions_line,
)


class Compared(NamedTuple):
    """A model with what it was judged to be and what was measured of its package."""

    label: str
    judged: JudgedModel
    figures: PackageFigures


def compared(measurement: Measurement, evaluation: Evaluation) -> list[Compared]:
    """Models that were both measured and judged, by the path that both were given, in the measurement's order."""
    judged = {str(Path(one.model)): one for one in evaluation.results}
    labels = labels_of(measurement.results)
    return [
        Compared(label, one, result)
        for label, result in zip(labels, measurement.results, strict=True)
        if (one := judged.get(str(Path(result.package)))) is not None
    ]


def comparison_table(measurement: Measurement, evaluation: Evaluation) -> Table:
    """A row a model: the first metric and what the model costs, with 95 % intervals."""
    rows = []
    for label, judged, figures in compared(measurement, evaluation):
        quality, p95 = judged.metrics[0], figures.latencies_ms[95]
        rows.append(
            (
                label,
                in_runtime(figures.precision, figures.runtime),
                quantity(quality.value, "", quality.interval),
                quantity(p95[0], "ms", p95[1]),
                megabytes(figures.file_bytes),
                quantity(figures.peak_rss_mb, "MB"),
                parameters(figures.parameters),
            )
        )
    metric = evaluation.results[0].metrics[0].metric
    head = ("Model", "Runs in", metric, "Latency p95", "File", "Peak memory", "Parameters")
    return Table(head, rows, f"{evaluation_title(evaluation)}; {conditions(measurement)}", left=(0, 1))


def comparison_notes(measurement: Measurement, evaluation: Evaluation) -> list[str]:
    """Which models are not on the page, and which figures are not of the same file."""
    judged = {str(Path(one.model)) for one in evaluation.results}
    measured = {str(Path(one.package)) for one in measurement.results}
    notes = [f"{path} was judged and not measured" for path in sorted(judged - measured)]
    notes += [f"{path} was measured and not judged" for path in sorted(measured - judged)]
    return notes + [
        f"{label} was judged in {one.runtime} and measured in {figures.runtime}"
        for label, one, figures in compared(measurement, evaluation)
        if one.runtime != figures.runtime
    ]


def write_comparison(path: Path, measurement: Measurement, evaluation: Evaluation) -> None:
    """Write the page of models that were both measured and judged, of which there is one at least."""
    found = compared(measurement, evaluation)
    metric = found[0].judged.metrics[0].metric
    points = [
        Point(
            f"{label} ({figures.precision})",
            figures.latency_p95_ms,
            figures.latency_p95_interval_ms,
            figures.file_bytes / 1e6,
            judged.metrics[0].value,
            judged.metrics[0].interval,
        )
        for label, judged, figures in found
    ]
    page = rendered(
        "comparison.md.jinja",
        task=evaluation.task,
        judged_on=evaluation_title(evaluation),
        measurement=measurement,
        table=comparison_table(measurement, evaluation),
        notes=comparison_notes(measurement, evaluation),
        remarks=measurement_remarks(measurement),
        plots=PLOTS,
        conditions=conditions,
        host_line=host_line,
        versions_line=versions_line,
    )
    figures = {
        "tradeoff": tradeoff_figure(points, quality=metric, less_is_better=metric in LESS_IS_BETTER),
        "distribution": distribution_figure([one.figures for one in found], [one.label for one in found]),
    }
    write_text(path, html_page(page, figures))
