"""What models and fine-tuned students were judged to be, in tables."""

from __future__ import annotations

from homoexport.documents.evaluation import (
    FEWEST_JUDGED,
    BenchmarkData,
    Evaluation,
    FineTunedRun,
    FineTuning,
    MetricOverSeeds,
    QualityFigure,
)
from homoexport.report.table import Table


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a model, and each width that its vectors were cut to; a column a metric with its 95 % interval."""
    metrics = list(dict.fromkeys(each.metric for one in evaluation.results for each in one.metrics))
    rows = []
    for one in evaluation.results:
        runs_in = f"{one.runtime}, {one.precision}"
        for size in dict.fromkeys(each.dimensions for each in one.metrics):
            found = {each.metric: _cell(each) for each in one.metrics if each.dimensions == size}
            name = one.model if size is None else f"{one.model}, cut to {size}"
            rows.append((name, runs_in, *(found.get(metric, "-") for metric in metrics)))
    return Table(("model", "runs in", *metrics), rows, _title(evaluation), left=(0, 1))


def _title(evaluation: Evaluation) -> str:
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
        run = next(run for run in tuning.runs if each.task in (run.task, *run.judged))
        ends = (each.low, each.high) if several else _interval(run, each)
        spread = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
        trained_on = f"{run.examples} of {run.of_examples}"
        rows.append((each.task, trained_on, each.metric, f"{each.median:.4f}", spread))
    figures = ("median of seeds", "lowest to highest") if several else ("value", "95 % interval")
    return Table(("task", "trained on", "metric", *figures), rows, f"{tuning.model}, fine-tuned", left=(0, 1, 2))


def _interval(run: FineTunedRun, each: MetricOverSeeds) -> tuple[float, float] | None:
    split = run.judged.get(each.task) or next(iter(run.judged.values()))
    return next(found.interval for found in split if found.metric == each.metric)
