"""Tables for a terminal. Nothing here prints: the caller does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table as RichTable
from rich.text import Text

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.summary import Summary
from homoexport.host import HostDescription
from homoexport.report.table import Table
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


def summary_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Rows of teacher against student: figure, teacher, student, ratio."""
    teacher, student, ratios = summary.teacher, summary.student, summary.ratios
    faster = tail = ""
    if ratios.latency_p50_ms is not None:  # not under an emulator, nor where the teacher does not fit
        assert teacher.latency_p95_ms is not None
        assert student.latency_p95_ms is not None
        faster = ratio(ratios.latency_p50_ms, "faster", "slower", ratios.latency_p50_interval)
        tail = ratio(teacher.latency_p95_ms / student.latency_p95_ms, "faster", "slower")
    fewer = ratio(ratios.parameters, "fewer", "more")
    smaller = ratio(ratios.file_bytes, "smaller", "bigger")
    less = "" if ratios.peak_rss_mb is None else ratio(ratios.peak_rss_mb, "less", "more")
    detail = summary.quality_detail
    theirs, ours = (quantity(each.value, "", each.interval) for each in (detail.teacher, detail.student))
    return [
        ("Precision", teacher.precision, student.precision, ""),
        ("Parameters", parameters(teacher.parameters), parameters(student.parameters), fewer),
        ("ONNX file", megabytes(teacher.file_bytes), megabytes(student.file_bytes), smaller),
        ("Latency p50", _fitting(teacher.latency_p50_ms, "ms"), _fitting(student.latency_p50_ms, "ms"), faster),
        ("Latency p95", _fitting(teacher.latency_p95_ms, "ms"), _fitting(student.latency_p95_ms, "ms"), tail),
        ("Peak memory", _fitting(teacher.peak_rss_mb, "MB"), _fitting(student.peak_rss_mb, "MB"), less),
        (f"Quality: {metric(summary.quality_metric)[0]}", theirs, ours, ""),
    ]


def _fitting(value: float | None, unit: str) -> str:
    return "does not fit" if value is None else quantity(value, unit)


def summary_table(summary: Summary) -> RichTable:
    """Teacher against student, for the end of a run."""
    title = f"{summary.student.name}, distilled from {summary.teacher.name}"
    return Table(("", "Teacher", "Student", "Student is"), summary_rows(summary), title, left=(0, 3)).rich()


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


def host_line(host: HostDescription) -> str:
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
