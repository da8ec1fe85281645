"""What models were judged to be, in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def evaluation_table(document: Mapping[str, Any]) -> Table:
    """A row a model, a column a metric with its 95 % interval; of `homoexport eval`'s document."""
    metrics = list(dict.fromkeys(each["metric"] for one in document["results"] for each in one["metrics"]))
    table = Table("model", "runs in", title=Text(_title(document)), title_justify="left")
    for name in metrics:
        table.add_column(name, justify="right")
    for one in document["results"]:
        found = {each["metric"]: _figure(each) for each in one["metrics"]}
        runs_in = f"{one['runtime']}, {one['precision']}"
        table.add_row(Text(one["model"], overflow="fold"), runs_in, *(found.get(name, "-") for name in metrics))
    return table


def _title(document: Mapping[str, Any]) -> str:
    if document["task"] == "mteb":
        return "MTEB, each task's main score"
    data = document["data"]
    to_teacher = f", against {document['teacher']}" if document["teacher"] else ""
    return f"{document['task']} on {data['source']} ({data['examples']} examples{to_teacher})"


def _figure(quality: Mapping[str, Any]) -> str:
    if "interval" not in quality:
        return f"{quality['value']:.4f}"
    low, high = quality["interval"]
    return f"{quality['value']:.4f}\n{low:.4f} to {high:.4f}"
