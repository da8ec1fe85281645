"""Tables for a terminal. Nothing here prints: the caller does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.host import Host
from homoexport.report.wording import (
    budget_line,
    judgement,
    limit,
    megabytes,
    metric,
    number,
    parameters,
    quantity,
    ratio,
)

_STYLES = {True: "green", False: "bold red", None: "yellow"}


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of teacher against student: figure, teacher, student, ratio."""
    teacher, student, ratios = summary["teacher"], summary["student"], summary["ratios"]
    detail = summary["quality_detail"]
    speedup = ratios["latency_p50_ms"]
    timed = speedup is not None  # not under an emulator, nor where the teacher does not fit
    faster = ratio(speedup, "faster", "slower", ratios["latency_p50_interval"]) if timed else ""
    tail = ratio(teacher["latency_p95_ms"] / student["latency_p95_ms"], "faster", "slower") if timed else ""
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
        ("Latency p50", _fitting(teacher["latency_p50_ms"], "ms"), quantity(student["latency_p50_ms"], "ms"), faster),
        ("Latency p95", _fitting(teacher["latency_p95_ms"], "ms"), quantity(student["latency_p95_ms"], "ms"), tail),
        (
            "Peak memory",
            _fitting(teacher["peak_rss_mb"], "MB"),
            quantity(student["peak_rss_mb"], "MB"),
            "" if ratios["peak_rss_mb"] is None else ratio(ratios["peak_rss_mb"], "less", "more"),
        ),
        (
            f"Quality: {metric(summary['quality_metric'])[0]}",
            _quality(detail["teacher"]),
            _quality(detail["student"]),
            "",
        ),
    ]


def _fitting(value: float | None, unit: str) -> str:
    return "does not fit" if value is None else quantity(value, unit)


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


class Conditions(Protocol):
    """What says under which conditions something was measured."""

    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def length(self) -> int: ...


def conditions(measured: Conditions) -> str:
    """Device, threads and input shape of a measurement, in words."""
    emulated = " (emulated)" if getattr(measured, "emulated", False) else ""
    return (
        f"{measured.device}{emulated}, {measured.threads} thread{'' if measured.threads == 1 else 's'}, "
        f"{measured.batch_size} x {measured.length} tokens"
    )


def host_line(host: Host) -> str:
    """A machine in one line."""
    return (
        f"Host: {host.cpu} ({', '.join([host.architecture, *host.instruction_sets])}), {host.available_cores} of "
        f"{host.cores} cores, {number(host.memory_mb / 1000)} GB, {host.system}."
    )


def verdict_lines(verdicts: Sequence[BudgetVerdict]) -> list[Text]:
    """One line for each line of the budget; `str(line)` is the plain text of it."""
    lines = []
    for verdict in verdicts:
        label, unit = budget_line(verdict.line)
        told = quantity(verdict.measured, unit, verdict.interval)
        text = Text(f"{label}: {told} of {limit(verdict).removeprefix('at most ')}: ")
        lines.append(text.append(judgement(verdict), style=_STYLES[verdict.kept]))
    return lines
