"""A run's report, told to the person who decides on the release, and its table for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from homoexport.choices import AT_RANDOM
from homoexport.data import rendered
from homoexport.documents.artifact import RUN_MARK, DistilledManifest, FinetunedManifest, PackageManifest, read_manifest
from homoexport.documents.document import read_document
from homoexport.documents.layout import FINETUNED, LOG, PACKAGE, PLAN, PLOTS, REPORT, STUDENT
from homoexport.documents.measurement import Measurement
from homoexport.documents.output import output_errors
from homoexport.documents.package import PackageDetails
from homoexport.documents.plan import PLAN_FILE, Plan
from homoexport.documents.run_folder import is_finished, read_mark
from homoexport.documents.student import DistilledDetails, StepRecord, WidthFigures, read_log
from homoexport.documents.summary import PlannedTurns, Summary
from homoexport.report.exported import candidate_table, candidates_figure, export_lines, parity_table
from homoexport.report.kept import kept_figure, kept_table
from homoexport.report.measured import latency_rows, measurement_remarks
from homoexport.report.page import Tile, verdict_of, write_page
from homoexport.report.planned import front_figure
from homoexport.report.plots import (
    WIDTHS,
    bars_figure,
    distribution_figure,
    homotopy_figure,
    latency_figure,
    terms_figure,
    width_of,
)
from homoexport.report.table import Table
from homoexport.report.tradeoff import Point, tradeoff_figure
from homoexport.report.verdicts import headline, judged_on_task, next_steps, quality_rows
from homoexport.report.vocabularies import vocabulary_lines
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


def write_report(run_dir: Path, summary: Summary, *, measurement: Measurement) -> Path:
    """Write `report.md` with its plots, and `report.html`, into a run's folder; the path of `report.md`.

    Args:
        run_dir: holds the student's log in `1-student`, its package in `2-onnx`, and the plan, where there was one.
        measurement: of the teacher's package, where it fits, and the student's.

    Raises:
        PackageError: a log that cannot be read, or no sound package in `2-onnx`.
        OutputError: the folder cannot be written.
    """
    log = read_log(run_dir / STUDENT / LOG)
    made = read_manifest(run_dir / STUDENT, DistilledManifest)
    shipped = read_manifest(run_dir / PACKAGE, PackageManifest)
    taught = read_manifest(run_dir / FINETUNED, FinetunedManifest) if is_finished(run_dir / FINETUNED) else None
    plan = read_document(run_dir / PLAN / PLAN_FILE, Plan, hint="plan again") if summary.plan else None
    details = made.details
    started, is_trained = details.teacher_widths or log[0].widths, details.method != "repair"
    figures = _figures(plan, summary, measurement, details, shipped.details, log)
    page = rendered(
        "run_report.md.jinja",
        summary=summary,
        measurement=measurement,
        package=read_package(run_dir / PACKAGE),
        plan=summary.plan,
        words=vocabulary_lines(plan) if plan else [],
        log=log,
        plots=PLOTS,
        drawn=figures,
        folder=PACKAGE,
        finetuned=taught is not None,
        # Tables.
        budget=_budget_table(summary),
        comparison=Table(("", "Teacher", "Student", "Student is"), summary_rows(summary)),
        lineage=_lineage_table(summary, taught, made, shipped),
        turns=_turns_table(summary.plan) if summary.plan else None,
        kept=kept_table(details.kept, started) if "kept" in figures and details.kept else None,
        figures=_figures_table(measurement),
        candidates=candidate_table(shipped.details),
        parity=parity_table(shipped.details),
        stages=_stages_table(summary),
        # What the template says in words.
        headline=headline(summary.budget),
        next_steps=next_steps(summary),
        on_task=judged_on_task(summary),
        began_as_teacher=abs(log[0].gap) < _NO_GAP,
        is_trained=is_trained,
        pruned_at_once=log[0].widths != started,
        widths=_widths(started, log[-1].widths) if details.method not in AT_RANDOM else "",
        widest=max(log, key=lambda step: step.gap),
        gap=_gap,
        remarks=measurement_remarks(measurement),
        exported=export_lines(PACKAGE, shipped),
        quality=metric(summary.quality_metric, summary.quality_documents)[1],
        measure_again=shlex.join(["homoexport", "bench", "--device", summary.measured.device, PACKAGE]),
        recipe=_recipe(run_dir),
        conditions=conditions,
        host_line=host_line,
        parameters=parameters,
        quantity=quantity,
        versions_line=versions_line,
    )
    verdict = verdict_of(summary.budget_kept, asked=bool(summary.budget))
    with output_errors(run_dir):
        write_page(run_dir, page, figures, verdict=verdict, tiles=_tiles(summary))
    return run_dir / REPORT


def _figures(
    plan: Plan | None,
    summary: Summary,
    measurement: Measurement,
    student: DistilledDetails,
    package: PackageDetails,
    log: Sequence[StepRecord],
) -> dict[str, Figure]:
    """The plots, by the names of their files."""
    models = {"teacher": summary.teacher, "student": summary.student}
    labels = [f"{who} ({model.precision})" for who, model in models.items() if model.latency_p50_ms is not None]
    quality = metric(summary.quality_metric, summary.quality_documents)[0]
    figures = {
        "latency": latency_figure(measurement, labels=[label.replace(" ", "\n", 1) for label in labels]),
        "tradeoff": tradeoff_figure(points_of(summary, measurement), quality=quality),
    }
    if plan is not None:
        figures["front"] = front_figure(plan)
    started = student.teacher_widths or log[0].widths
    if student.method != "repair":
        figures |= {"homotopy": homotopy_figure(log, started), "terms": terms_figure(log)}
    if student.kept is not None and student.teacher_widths is not None:
        figures["kept"] = kept_figure(student.kept, student.teacher_widths)
    figures["distribution"] = distribution_figure(measurement.results, labels)
    if (candidates := candidates_figure(package)) is not None:
        figures["candidates"] = candidates
    if summary.seconds:
        figures["stages"] = bars_figure(summary.seconds, unit="s", title="Wall time of the stages")
    return figures


def points_of(summary: Summary, measurement: Measurement) -> list[Point]:
    """The teacher and the student by quality and cost."""
    detail = summary.quality_detail
    *others, student = measurement.results
    pairs = [
        ("teacher", summary.teacher, others[0] if others else None, detail.teacher),
        ("student", summary.student, student, detail.student),
    ]
    return [
        Point(
            f"{who} ({model.precision})",
            model.latency_p95_ms,
            figures.latency_p95_interval_ms if figures else None,
            model.file_bytes / 1e6,
            quality.value,
            quality.interval,
        )
        for who, model, figures, quality in pairs
    ]


def _tiles(summary: Summary) -> list[Tile]:
    """What the student is to its teacher, in large letters; a quality without a share that is kept as it stands."""
    rows, qualities = summary_rows(summary), quality_rows(summary)
    tiles = [Tile(name, better, f"{theirs} to {ours}") for name, theirs, ours, better in rows if better]
    return [*tiles, *(Tile(name, ours, f"teacher: {theirs}") for name, theirs, ours, kept in qualities if not kept)]


def _lineage_table(
    summary: Summary, finetuned: FinetunedManifest | None, student: DistilledManifest, package: PackageManifest
) -> Table:
    """From the teacher to what ships: what each is, when it was made, and its digest."""
    made, shipped = student.details, package.details
    teacher, count, weights = summary.teacher.name, parameters(summary.teacher.parameters), made.teacher_weights_sha256
    rows: list[tuple[str, ...]] = [("Teacher", teacher, count, "", weights[:12])]
    if finetuned is not None:
        rows = [("Teacher", teacher, "", "", ""), _learned_row(finetuned, count)]
    rows += [
        (
            f"Student\n{STUDENT}",
            f"{made.widths.name}\n{made.method}, {made.steps} steps",
            parameters(made.parameters),
            student.created,
            student.digest[:12],
        ),
        (
            f"Package\n{PACKAGE}",
            f"{shipped.candidate}\n{shipped.precision}, {shipped.task}",
            parameters(shipped.parameters),
            package.created,
            package.digest[:12],
        ),
    ]
    return Table(("", "What it is", "Parameters", "Made", "Digest"), rows, left=(0, 1, 3, 4))


def _learned_row(finetuned: FinetunedManifest, count: str) -> tuple[str, ...]:
    """What the teacher learned before it taught."""
    made = finetuned.details
    judged = [figure for split in made.finetuned.judged.values() for figure in split]
    figures = [f"{figure.metric} {number(figure.value)}" for figure in judged[:1]]
    what = "\n".join([f"fine-tuned: {made.finetuned.task}, {made.steps} steps", *figures])
    return f"Fine-tuned teacher\n{FINETUNED}", what, count, finetuned.created, finetuned.digest[:12]


def _recipe(run_dir: Path) -> str:
    """The recipe as it was asked for, in YAML; nothing where the run's mark is gone."""
    if not (run_dir / RUN_MARK).is_file():
        return ""
    asked = read_mark(run_dir).model_dump(mode="json")["recipe"]
    return "" if asked is None else yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)


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
