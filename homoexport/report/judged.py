"""What models and fine-tuned students were judged to be, in tables."""

from __future__ import annotations

from homoexport.documents.evaluation import (
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
    to_teacher = f", against {evaluation.teacher}" if evaluation.teacher else ""
    searching = f", searching {evaluation.documents}" if evaluation.documents else ""
    if evaluation.task == "search":
        searching = f", documents by {evaluation.documents or 'each model itself'}"
    return f"{evaluation.task} on {data.source} ({data.examples} examples{to_teacher}{searching})"


def _cell(figure: QualityFigure) -> str:
    if figure.interval is None:
        return f"{figure.value:.4f}"
    low, high = figure.interval
    return f"{figure.value:.4f}\n{low:.4f} to {high:.4f}"


def finetuned_table(tuning: FineTuning) -> Table:
    """A row for each task and metric: the 95 % interval of one seed, median and spread of several."""
    several = max(each.seeds for each in tuning.summary) > 1
    rows = []
    for each in tuning.summary:
        run = next(run for run in tuning.runs if each.task in (run.task, *run.judged))
        low, high = (each.low, each.high) if several else _interval(run, each)
        trained_on = f"{run.examples} of {run.of_examples}"
        rows.append((each.task, trained_on, each.metric, f"{each.median:.4f}", f"{low:.4f} to {high:.4f}"))
    figures = ("median of seeds", "lowest to highest") if several else ("value", "95 % interval")
    return Table(("task", "trained on", "metric", *figures), rows, f"{tuning.model}, fine-tuned", left=(0, 1, 2))


def _interval(run: FineTunedRun, each: MetricOverSeeds) -> tuple[float, float]:
    split = run.judged.get(each.task) or next(iter(run.judged.values()))
    interval = next(found.interval for found in split if found.metric == each.metric)
    assert interval is not None
    return interval
