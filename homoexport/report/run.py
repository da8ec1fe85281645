"""A run's `report.md`, told to the person who decides on the release, and its table for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from homoexport.data import rendered
from homoexport.documents.artifact import DistilledManifest, read_manifest
from homoexport.documents.document import write_text
from homoexport.documents.layout import LOG, PACKAGE, PLOTS, REPORT, STUDENT
from homoexport.documents.measurement import Measurement
from homoexport.documents.output import output_errors
from homoexport.documents.student import StepRecord, WidthFigures, read_log
from homoexport.documents.summary import PlannedTurns, Summary
from homoexport.report.measured import latency_rows, measurement_remarks
from homoexport.report.plots import WIDTHS, homotopy_figure, latency_figure, save_figures, terms_figure, width_of
from homoexport.report.table import Table
from homoexport.report.verdicts import headline, judged_on_task, next_steps, quality_rows
from homoexport.report.wording import (
    budget_line,
    conditions,
    host_line,
    in_runtime,
    label,
    limit,
    measured,
    megabytes,
    metric,
    number,
    parameters,
    quantity,
    ratio,
    verdict_word,
    versions_line,
)
from homoexport.runtime.inference import read_package

_NO_GAP = 1e-5
_OF_RANDOM_WEIGHTS = ("from-scratch", "minilm", "tinybert")


def write_report(run_dir: Path, summary: Summary, *, measurement: Measurement) -> Path:
    """Write `report.md` and its plots into a run's folder; the path of `report.md`.

    Args:
        run_dir: holds the student's log in `1-student` and its package in `2-onnx`.
        measurement: of the teacher's package, where it fits, and the student's.

    Raises:
        PackageError: a log that cannot be read, or no sound package in `2-onnx`.
        OutputError: the folder cannot be written.
    """
    log = read_log(run_dir / STUDENT / LOG)
    details = read_manifest(run_dir / STUDENT, DistilledManifest).details
    started, is_trained = details.teacher_widths or log[0].widths, details.method != "repair"
    package = read_package(run_dir / PACKAGE)
    models = {"teacher": summary.teacher, "student": summary.student}
    labels = [f"{who}\n({model.precision})" for who, model in models.items() if model.latency_p50_ms is not None]
    page = rendered(
        "run_report.md.jinja",
        summary=summary,
        measurement=measurement,
        package=package,
        plan=summary.plan,
        log=log,
        plots=PLOTS,
        folder=PACKAGE,
        # Tables.
        budget=_budget_table(summary),
        comparison=Table(("", "Teacher", "Student", "Student is"), summary_rows(summary)),
        turns=_turns_table(summary.plan) if summary.plan else None,
        figures=_figures_table(measurement),
        stages=_stages_table(summary),
        # What the template says in words.
        headline=headline(summary.budget),
        next_steps=next_steps(summary),
        on_task=judged_on_task(summary),
        began_as_teacher=abs(log[0].gap) < _NO_GAP,
        is_trained=is_trained,
        pruned_at_once=log[0].widths != started,
        widths=_widths(started, log[-1].widths) if details.method not in _OF_RANDOM_WEIGHTS else "",
        widest=max(log, key=lambda step: step.gap),
        gap=_gap,
        remarks=measurement_remarks(measurement),
        quality=metric(summary.quality_metric, summary.quality_documents)[1],
        measure_again=shlex.join(["homoexport", "bench", "--device", summary.measured.device, PACKAGE]),
        conditions=conditions,
        host_line=host_line,
        parameters=parameters,
        quantity=quantity,
        versions_line=versions_line,
    )
    with output_errors(run_dir):
        figures = {"latency": latency_figure(measurement, labels=labels)}
        if is_trained:
            figures |= {"homotopy": homotopy_figure(log, started), "terms": terms_figure(log)}
        save_figures(run_dir, figures)
        write_text(run_dir / REPORT, page)
    return run_dir / REPORT


def summary_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Rows of teacher against student: figure, teacher, student, ratio."""
    teacher, student, ratios = summary.teacher, summary.student, summary.ratios
    faster = tail = ""
    if ratios.latency_p50_ms is not None:  # not under an emulator, nor where the teacher does not fit
        assert teacher.latency_p95_ms is not None
        assert student.latency_p95_ms is not None
        faster = ratio(ratios.latency_p50_ms, "faster", "slower", ratios.latency_p50_interval)
        tail = ratio(teacher.latency_p95_ms / student.latency_p95_ms, "faster", "slower")
    fewer = ratio(ratios.parameters, "fewer", "more")
    smaller = ratio(ratios.file_bytes, "smaller", "bigger")
    less = "" if ratios.peak_rss_mb is None else ratio(ratios.peak_rss_mb, "less", "more")
    stored = [in_runtime(one.precision, one.runtime) for one in (teacher, student)]
    return [
        ("Precision", stored[0], stored[1], ""),
        ("Parameters", parameters(teacher.parameters), parameters(student.parameters), fewer),
        ("File", megabytes(teacher.file_bytes), megabytes(student.file_bytes), smaller),
        ("Latency p50", _fitting(teacher.latency_p50_ms, "ms"), _fitting(student.latency_p50_ms, "ms"), faster),
        ("Latency p95", _fitting(teacher.latency_p95_ms, "ms"), _fitting(student.latency_p95_ms, "ms"), tail),
        ("Peak memory", _fitting(teacher.peak_rss_mb, "MB"), _fitting(student.peak_rss_mb, "MB"), less),
        *quality_rows(summary),
    ]


def _fitting(value: float | None, unit: str) -> str:
    return "does not fit" if value is None else quantity(value, unit)


def summary_table(summary: Summary) -> Table:
    """Teacher against student, for the end of a run."""
    title = f"{summary.student.name}, distilled from {summary.teacher.name}"
    return Table(("", "Teacher", "Student", "Student is"), summary_rows(summary), title, left=(0, 3))


def _budget_table(summary: Summary) -> Table:
    rows = []
    for verdict in summary.budget:
        rows.append((label(verdict), limit(verdict), measured(verdict), verdict_word(verdict)))
    return Table(("Budget", "Asked for", "Measured (95 % interval)", "Verdict"), rows)


def _turns_table(plan: PlannedTurns) -> Table:
    """Every turn, a row for each line of the budget."""
    rows = []
    for place, turn in enumerate(plan.turns, start=1):
        name = f"{place}: {turn.shape.name}"
        if not turn.budget:
            planned = quantity(turn.planned.peak_rss_mb, "MB")
            rows.append((name, "Peak memory", "", planned, "", "it does not fit into the target's memory"))
        for verdict in turn.budget:
            figure = turn.planned_lines.get(verdict.line)
            planned = "" if figure is None else quantity(figure, budget_line(verdict.line)[1])
            rows.append((name, label(verdict), limit(verdict), planned, measured(verdict), verdict_word(verdict)))
    return Table(("Turn", "Budget", "Asked for", "Planned", "Measured", "Verdict"), rows)


def _figures_table(measurement: Measurement) -> Table:
    results = measurement.results
    rows = [
        ("Load", *(quantity(result.load_ms, "ms") for result in results)),
        ("First inference", *(quantity(result.first_inference_ms, "ms") for result in results)),
        *((label, *cells) for label, cells in latency_rows(results)),
        ("Throughput", *(quantity(result.throughput_per_s, "/s") for result in results)),
    ]
    return Table(("Figure", "Teacher", "Student") if len(results) == 2 else ("Figure", "Student"), rows)


def _stages_table(summary: Summary) -> Table:
    seconds = {**summary.seconds, "together": sum(summary.seconds.values())}
    return Table(("Stage", "Wall time"), [(stage, f"{spent:,.1f} s") for stage, spent in seconds.items()])


def _widths(first: WidthFigures, last: WidthFigures) -> str:
    """What became narrower, in words."""
    ways = [(label, getattr(first, name), getattr(last, name)) for name, (label, *_) in WIDTHS.items()]
    return ", ".join(f"{label} {width_of(old)} to {width_of(new)}" for label, old, new in ways if old != new)


def _gap(step: StepRecord) -> str:
    return number(0.0 if abs(step.gap) < _NO_GAP else step.gap)
