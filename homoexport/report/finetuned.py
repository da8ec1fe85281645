"""What fine-tuned students were judged to be, in a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from homoexport.documents.evaluation import FineTunedRun, FineTuning, MetricOverSeeds


def finetuned_table(tuning: FineTuning) -> Table:
    """A row for each task and metric: the 95 % interval of one seed, median and spread of several."""
    several = max(each.seeds for each in tuning.summary) > 1
    table = Table("task", "trained on", "metric", title=Text(f"{tuning.model}, fine-tuned"), title_justify="left")
    table.add_column("median of seeds" if several else "value", justify="right")
    table.add_column("lowest to highest" if several else "95 % interval", justify="right")
    for each in tuning.summary:
        run = next(run for run in tuning.runs if each.task in (run.task, *run.judged))
        low, high = (each.low, each.high) if several else _interval(run, each)
        trained_on = f"{run.examples} of {run.of_examples}"
        table.add_row(each.task, trained_on, each.metric, f"{each.median:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def _interval(run: FineTunedRun, each: MetricOverSeeds) -> tuple[float, float]:
    split = run.judged.get(each.task) or next(iter(run.judged.values()))
    interval = next(found.interval for found in split if found.metric == each.metric)
    assert interval is not None
    return interval
