"""What models were judged to be, in a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from homoexport.documents.evaluation import BenchmarkData, Evaluation, QualityFigure


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a model, a column a metric with its 95 % interval."""
    metrics = list(dict.fromkeys(each.metric for one in evaluation.results for each in one.metrics))
    table = Table("model", "runs in", title=Text(_title(evaluation)), title_justify="left")
    for name in metrics:
        table.add_column(name, justify="right")
    for one in evaluation.results:
        found = {each.metric: _cell(each) for each in one.metrics}
        runs_in = f"{one.runtime}, {one.precision}"
        table.add_row(Text(one.model, overflow="fold"), runs_in, *(found.get(name, "-") for name in metrics))
    return table


def _title(evaluation: Evaluation) -> str:
    data = evaluation.data
    if isinstance(data, BenchmarkData):
        return "MTEB, each task's main score"
    to_teacher = f", against {evaluation.teacher}" if evaluation.teacher else ""
    return f"{evaluation.task} on {data.source} ({data.examples} examples{to_teacher})"


def _cell(figure: QualityFigure) -> str:
    if figure.interval is None:
        return f"{figure.value:.4f}"
    low, high = figure.interval
    return f"{figure.value:.4f}\n{low:.4f} to {high:.4f}"
