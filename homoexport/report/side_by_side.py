"""Several runs side by side, in a table and on one page of HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from homoexport.data import rendered
from homoexport.documents.document import write_text
from homoexport.documents.layout import PLOTS
from homoexport.documents.measurement import Measurement
from homoexport.documents.summary import Summary
from homoexport.report.page import html_page
from homoexport.report.plots import distribution_figure
from homoexport.report.run import points_of, summary_rows
from homoexport.report.table import Table
from homoexport.report.tradeoff import Point, tradeoff_figure
from homoexport.report.wording import (
    LESS_IS_BETTER,
    conditions,
    host_line,
    label,
    limit,
    measured,
    metric,
    verdict_word,
    versions_line,
)


def names_of(run_dirs: Sequence[Path]) -> list[str]:
    """What to call each run: its folder's name, with those of as many folders above it as tell all apart."""
    parts = [folder.resolve().parts for folder in run_dirs]
    depths = range(1, max(map(len, parts)) + 1)
    depth = next(depth for depth in depths if len({each[-depth:] for each in parts}) == len(parts))
    return [Path(*each[-depth:]).as_posix() for each in parts]


def side_by_side_table(runs: Mapping[str, Summary]) -> Table:
    """A row for each figure, a column for each run: its student, and what that is to its teacher."""
    verdicts = [verdict_word(*run.budget) if run.budget else "none set" for run in runs.values()]
    rows: list[tuple[str, ...]] = [("Budget", *verdicts), ("Pareto", *(_standing(name, runs) for name in runs))]
    cells = [{name: (ours, better) for name, _, ours, better in summary_rows(run)} for run in runs.values()]
    for name in dict.fromkeys(name for found in cells for name in found):
        rows.append((name, *("\n".join(filter(None, found.get(name, ()))) for found in cells)))
    return Table(("Student", *runs), rows, "Runs side by side; ratios are to each run's own teacher", by_column=True)


def _standing(name: str, runs: Mapping[str, Summary]) -> str:
    """Whether no other run's student is as good in quality, p95 and size, and better in one of them; else which is.

    Quality is the figure that a floor is under, else the likeness to the teacher. Times count where all were measured,
    and not by an emulator's clock.
    """
    timed = all(run.student.latency_p95_ms is not None and not run.measured.emulated for run in runs.values())

    def goods(run: Summary) -> tuple[float, ...]:
        """Of each the more the better."""
        likeness = run.student.quality * (-1 if run.quality_metric in LESS_IS_BETTER else 1)
        quality = next((verdict.measured for verdict in run.budget if verdict.is_quality), likeness)
        times = [-(run.student.latency_p95_ms or 0.0)] if timed else []
        return (quality, *times, -run.student.file_bytes)

    ours = goods(runs[name])
    for other, run in runs.items():
        theirs = goods(run)
        if theirs != ours and all(good >= mine for good, mine in zip(theirs, ours, strict=True)):
            return f"worse than {other}"
    return "on the front"


def side_by_side_notes(runs: Mapping[str, Summary], *, of: Sequence[str] = ()) -> list[str]:
    """Why figures of these runs may not compare; `of` names those that one recipe asks for, measured in turns."""
    ways: dict[str, Callable[[Summary], object]] = {
        "teachers": lambda run: run.teacher.name,
        "conditions of measuring": lambda run: run.measured,
        "machines": lambda run: run.host,
        "metrics of quality": lambda run: (run.quality_metric, run.quality_documents, run.vectors_from),
    }
    first, *others = runs.values()
    differing = [what for what, of in ways.items() if any(of(run) != of(first) for run in others)]
    notes = [f"The runs have different {what}, so that figures do not compare as they stand" for what in differing]
    told = "Pareto goes by the figures as they stand, not by their intervals"
    if not of:
        own = "Each run was measured at its own time, and homoexport bench times their packages in turns"
        return [*notes, f"{own}; {told}"]
    notes += [
        f"{name} is left out: its student does not fit the device, or its run is not finished"
        for name in of
        if name not in runs
    ]
    return [*notes, f"Times and memory are of one measurement in turns, verdicts those of each run's own; {told}"]


def write_side_by_side(
    path: Path,
    runs: Mapping[str, Summary],
    measurements: Sequence[Measurement],
    *,
    of: Sequence[str] = (),
    shared: Mapping[str, float] | None = None,
) -> None:
    """Write the page of several runs, by their names; measurements are in the same order.

    Args:
        of: the names of all that one recipe asks for, which were measured in turns.
        shared: seconds of the stages that were done once for all.
    """
    first = next(iter(runs.values()))
    spent: dict[str, Mapping[str, float]] = {name: run.seconds for name, run in runs.items()}
    if shared:
        spent["for all"] = shared
    results = [measurement.results[-1] for measurement in measurements]
    figures = {
        "tradeoff": tradeoff_figure(
            _points(runs, measurements),
            quality=metric(first.quality_metric, first.quality_documents)[0],
            less_is_better=first.quality_metric in LESS_IS_BETTER,
        ),
        "distribution": distribution_figure(results, list(runs)),
    }
    page = rendered(
        "side_by_side.md.jinja",
        runs=runs,
        of=of,
        table=side_by_side_table(runs),
        notes=side_by_side_notes(runs, of=of),
        budget=_budget_table(runs),
        stages=_stages_table(spent),
        plots=PLOTS,
        conditions=conditions,
        host_line=host_line,
        versions_line=versions_line,
    )
    write_text(path, html_page(page, figures))


def _points(runs: Mapping[str, Summary], measurements: Sequence[Measurement]) -> list[Point]:
    """Each run's student, and each teacher once."""
    points: dict[str, Point] = {}
    for (name, run), measurement in zip(runs.items(), measurements, strict=True):
        teacher, student = points_of(run, measurement)
        told = f"teacher {run.teacher.name}"
        points.setdefault(told, teacher._replace(label=told))
        points[name] = student._replace(label=f"{name} ({run.student.precision})")
    return list(points.values())


def _budget_table(runs: Mapping[str, Summary]) -> Table:
    """A row for each line of any run's budget."""

    def told(run: Summary, line: str) -> str:
        found = next((verdict for verdict in run.budget if label(verdict) == line), None)
        return "" if found is None else f"{measured(found)}\n{limit(found)}\n{verdict_word(found)}"

    lines = dict.fromkeys(label(verdict) for run in runs.values() for verdict in run.budget)
    rows = [(line, *(told(run, line) for run in runs.values())) for line in lines]
    return Table(("Budget", *runs), rows)


def _stages_table(spent: Mapping[str, Mapping[str, float]]) -> Table:
    """Each stage's wall time, a column for each run."""

    def told(seconds: float | None) -> str:
        return "" if seconds is None else f"{seconds:,.1f} s"

    stages = dict.fromkeys(stage for seconds in spent.values() for stage in seconds)
    rows = [(stage, *(told(seconds.get(stage)) for seconds in spent.values())) for stage in stages]
    together = [told(sum(seconds.values())) for seconds in spent.values()]
    return Table(("Stage", *spent), [*rows, ("together", *together)])
