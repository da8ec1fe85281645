"""What models were judged to be, fine-tuned ones among them, in tables and pages."""

from __future__ import annotations

from pathlib import Path

from homoexport.data import rendered
from homoexport.documents.evaluation import (
    FEWEST_JUDGED,
    BenchmarkData,
    Evaluation,
    FineTunedRun,
    FineTuning,
    MetricOverSeeds,
    QualityFigure,
)
from homoexport.documents.layout import PLOTS
from homoexport.report.page import write_page
from homoexport.report.plots import Dot, dots_figure
from homoexport.report.table import Table


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a model, and each width that its vectors were cut to; a column a metric with its 95 % interval."""
    metrics = list(dict.fromkeys(each.metric for one in evaluation.results for each in one.metrics))
    rows = []
    for one in evaluation.results:
        runs_in = f"{one.runtime}, {one.precision}"
        for size in dict.fromkeys(each.dimensions for each in one.metrics):
            found = {each.metric: _cell(each) for each in one.metrics if each.dimensions == size}
            rows.append((_name(one.model, size), runs_in, *(found.get(metric, "-") for metric in metrics)))
    return Table(("model", "runs in", *metrics), rows, evaluation_title(evaluation), left=(0, 1))


def _name(model: str, dimensions: int | None) -> str:
    return model if dimensions is None else f"{model}, cut to {dimensions}"


def evaluation_title(evaluation: Evaluation) -> str:
    """What models were judged on, and on how much of it."""
    data = evaluation.data
    if isinstance(data, BenchmarkData):
        return "MTEB, each task's main score"
    if evaluation.task == "search":
        found = evaluation.results[0].metrics[0]
        queries = f"{found.queries} {'query' if found.queries == 1 else 'queries'}"
        searched = f"{found.documents} documents by {evaluation.documents or 'each model itself'}"
        return f"search on {data.source} ({queries}, {searched})"
    to_teacher = f", against {evaluation.teacher}" if evaluation.teacher else ""
    searching = f", searching {evaluation.documents}" if evaluation.documents else ""
    examples = f"{data.examples} {'example' if data.examples == 1 else 'examples'}"
    return f"{evaluation.task} on {data.source} ({examples}{to_teacher}{searching})"


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """What the table alone would not tell: why there is no interval."""
    figures = [each for one in evaluation.results for each in one.metrics]
    if not any(_is_of_few(each) for each in figures):
        return []
    return [f"note: no interval of fewer than {FEWEST_JUDGED} queries, of which resamples know too little"]


def _is_of_few(figure: QualityFigure) -> bool:
    return figure.interval is None and figure.queries is not None


def _cell(figure: QualityFigure) -> str:
    if figure.interval is None:
        return f"{figure.value:.4f}\n-" if _is_of_few(figure) else f"{figure.value:.4f}"
    low, high = figure.interval
    return f"{figure.value:.4f}\n{low:.4f} to {high:.4f}"


def finetuned_table(tuning: FineTuning) -> Table:
    """A row for each task and metric: the 95 % interval of one seed, median and spread of several."""
    several = max(each.seeds for each in tuning.summary) > 1
    rows = []
    for each in tuning.summary:
        run = _run_of(tuning, each)
        ends = (each.low, each.high) if several else _interval(run, each)
        spread = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
        trained_on = f"{run.examples} of {run.of_examples}"
        rows.append((each.task, trained_on, each.metric, f"{each.median:.4f}", spread))
    figures = ("median of seeds", "lowest to highest") if several else ("value", "95 % interval")
    return Table(("task", "trained on", "metric", *figures), rows, f"{tuning.model}, fine-tuned", left=(0, 1, 2))


def _run_of(tuning: FineTuning, each: MetricOverSeeds) -> FineTunedRun:
    return next(run for run in tuning.runs if each.task in (run.task, *run.judged))


def _interval(run: FineTunedRun, each: MetricOverSeeds) -> tuple[float, float] | None:
    split = run.judged.get(each.task) or next(iter(run.judged.values()))
    return next(found.interval for found in split if found.metric == each.metric)


def write_evaluation_report(folder: Path, evaluation: Evaluation) -> None:
    """Write an evaluation's report into its folder."""
    dots: dict[str, list[Dot]] = {}
    for one in evaluation.results:
        for each in one.metrics:
            name = _name(one.model, each.dimensions)
            dots.setdefault(each.metric, []).append(Dot(f"{name} ({one.precision})", each.value, each.interval))
    page = rendered(
        "evaluation_report.md.jinja",
        evaluation=evaluation,
        table=evaluation_table(evaluation),
        notes=evaluation_notes(evaluation),
        models=Table(
            ("model", "runs in", "digest"),
            [(one.model, f"{one.runtime}, {one.precision}", one.digest[:12]) for one in evaluation.results],
            left=range(3),
        ),
        folder=PLOTS,
    )
    write_page(folder, page, {"metrics": dots_figure(dots)})


def write_finetuned_report(folder: Path, tuning: FineTuning) -> None:
    """Write the report of fine-tuned models into the folder of one, or of all."""
    dots: dict[str, list[Dot]] = {}
    for each in tuning.summary:
        run = _run_of(tuning, each)
        interval = (each.low, each.high) if each.seeds > 1 else _interval(run, each)
        dots.setdefault(each.metric, []).append(Dot(each.task, each.median, interval))
    rows = [
        (
            run.task,
            str(run.seed),
            f"{run.examples} of {run.of_examples}",
            f"{run.trained_on.source} ({run.trained_on.digest[:12]})",
            "\n".join(f"{split}: {data.source} ({data.digest[:12]})" for split, data in run.judged_on.items()),
            run.teacher or "",
        )
        for run in tuning.runs
    ]
    head = ("task", "seed", "examples", "trained on", "judged on", "taught by")
    page = rendered(
        "finetuned_report.md.jinja",
        tuning=tuning,
        table=finetuned_table(tuning),
        runs=Table(head, rows, left=range(len(head))).filled(),
        several=max(each.seeds for each in tuning.summary) > 1,
        folder=PLOTS,
    )
    write_page(folder, page, {"metrics": dots_figure(dots)})
