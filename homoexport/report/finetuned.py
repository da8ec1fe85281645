"""What fine-tuned students were judged to be, in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text


def finetuned_table(summary: Mapping[str, Any]) -> Table:
    """A row for each task and metric: the 95 % interval of one seed, median and spread of several."""
    runs = summary["runs"]
    several = max(each["seeds"] for each in summary["summary"]) > 1
    title = Text(f"{summary['model']}, fine-tuned")
    table = Table("task", "trained on", "metric", title=title, title_justify="left")
    table.add_column("median of seeds" if several else "value", justify="right")
    table.add_column("lowest to highest" if several else "95 % interval", justify="right")
    for each in summary["summary"]:
        run = next(run for run in runs if each["task"] in (run["task"], *run["judged"]))
        trained_on = f"{run['examples']} of {run['of_examples']}"
        low, high = (each["low"], each["high"]) if several else _interval(run, each)
        table.add_row(each["task"], trained_on, each["metric"], f"{each['median']:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def _interval(run: Mapping[str, Any], each: Mapping[str, Any]) -> tuple[float, float]:
    split = run["judged"].get(each["task"]) or next(iter(run["judged"].values()))
    low, high = next(found["interval"] for found in split if found["metric"] == each["metric"])
    return low, high
