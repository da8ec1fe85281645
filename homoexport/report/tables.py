"""Tables for a terminal. Nothing here prints: the caller does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.table import Table
from rich.text import Text

from homoexport.budget import Verdict
from homoexport.report.wording import budget_line, judgement, megabytes, metric, number, parameters, quantity, ratio

_STYLES = {True: "green", False: "bold red", None: "yellow"}


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of teacher against student: figure, teacher, student, ratio."""
    teacher, student, ratios = summary["teacher"], summary["student"], summary["ratios"]
    detail = summary["quality_detail"]
    faster = ratio(ratios["latency_p50_ms"], "faster", "slower", ratios["latency_p50_interval"])
    tail = ratio(teacher["latency_p95_ms"] / student["latency_p95_ms"], "faster", "slower")
    return [
        ("Precision", teacher["precision"], student["precision"], ""),
        (
            "Parameters",
            parameters(teacher["parameters"]),
            parameters(student["parameters"]),
            ratio(ratios["parameters"], "fewer", "more"),
        ),
        (
            "ONNX file",
            megabytes(teacher["file_bytes"]),
            megabytes(student["file_bytes"]),
            ratio(ratios["file_bytes"], "smaller", "bigger"),
        ),
        ("Latency p50", quantity(teacher["latency_p50_ms"], "ms"), quantity(student["latency_p50_ms"], "ms"), faster),
        ("Latency p95", quantity(teacher["latency_p95_ms"], "ms"), quantity(student["latency_p95_ms"], "ms"), tail),
        (
            "Peak memory",
            quantity(teacher["peak_rss_mb"], "MB"),
            quantity(student["peak_rss_mb"], "MB"),
            ratio(ratios["peak_rss_mb"], "less", "more"),
        ),
        (
            f"Quality: {metric(summary['quality_metric'])[0]}",
            _quality(detail["teacher"]),
            _quality(detail["student"]),
            "",
        ),
    ]


def _quality(detail: Mapping[str, Any]) -> str:
    return quantity(detail["value"], "", detail.get("interval"))


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Teacher against student, for the end of a run."""
    title = f"{summary['student']['name']}, distilled from {summary['teacher']['name']}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("Teacher", justify="right", overflow="fold")
    table.add_column("Student", justify="right", overflow="fold")
    table.add_column("Student is", overflow="fold")
    for row in summary_rows(summary):
        table.add_row(*map(Text, row))
    return table


def conditions(measurement: Mapping[str, Any]) -> str:
    """Device, threads and input shape of a measurement, in words."""
    threads = measurement["threads"]
    return (
        f"{measurement['device']}, {threads} thread{'' if threads == 1 else 's'}, "
        f"{measurement['batch_size']} x {measurement['length']} tokens"
    )


def measurement_table(measurement: Mapping[str, Any]) -> Table:
    """Packages side by side, a row for each figure; latencies with their 95 % intervals."""
    results = measurement["results"]
    table = Table(title=conditions(measurement), title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(f"{PurePath(result['package']).name}\n{result['name']}", justify="right", overflow="fold")
    speedups = {line["package"]: line for line in measurement["comparisons"]}

    def add(label: str, cells: Sequence[str]) -> None:
        table.add_row(label, *cells)

    add("Precision", [result["precision"] for result in results])
    add("Parameters", [parameters(result["parameters"]) for result in results])
    add("ONNX file", [megabytes(result["file_bytes"]) for result in results])
    add("Load", [quantity(result["load_ms"], "ms") for result in results])
    add("First inference", [quantity(result["first_inference_ms"], "ms") for result in results])
    for percent in (50, 90, 95, 99):
        figure = f"latency_p{percent}"
        cells = [quantity(result[f"{figure}_ms"], "ms", result.get(f"{figure}_interval_ms")) for result in results]
        add(f"Latency p{percent}", cells)
    add("Throughput", [quantity(result["throughput_per_s"], "/s") for result in results])
    add("Peak memory", [quantity(result["peak_rss_mb"], "MB") for result in results])
    add("of which runtime", [quantity(result["runtime_rss_mb"], "MB") for result in results])
    add("Runs", [number(result["runs"]) for result in results])
    if speedups:
        add("Against the first", [_speedup(speedups.get(result["package"])) for result in results])
    return table


def _speedup(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    low, high = comparison["interval"]
    return f"{number(comparison['speedup_p50'])}x ({number(low)} to {number(high)})\n{comparison['verdict']}"


def verdict_lines(verdicts: Sequence[Verdict]) -> list[Text]:
    """One line for each line of the budget; `str(line)` is the plain text of it."""
    lines = []
    for verdict in verdicts:
        label, unit = budget_line(verdict.line)
        told = quantity(verdict.measured, unit, verdict.interval)
        text = Text(f"{label}: {told} of {quantity(verdict.limit, unit)}: ")
        lines.append(text.append(judgement(verdict), style=_STYLES[verdict.kept]))
    return lines
