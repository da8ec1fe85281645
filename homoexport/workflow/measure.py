"""Measuring as a recipe says, and holding what comes out against its budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from homoexport.documents.budget import THROUGHPUT, TIMED_LINES, Budget, BudgetVerdict, judge
from homoexport.documents.measurement import Grid, Interval, Measurement, PackageFigures
from homoexport.documents.recipe import MeasureSettings
from homoexport.errors import DeviceError, TextError, UserError
from homoexport.measure import (
    Extras,
    check_measurement,
    check_packages,
    find_target,
    mean_interval,
    measure_packages,
    rounds_of,
)


def measure(
    packages: Sequence[Path],
    settings: MeasureSettings,
    *,
    extras: Extras | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Measurement:
    """Measure packages as a recipe's `measure` section says; see `measure_packages`."""
    return measure_packages(
        packages,
        device=settings.device,
        threads=settings.threads,
        batch_size=settings.batch_size,
        length=settings.length,
        texts=texts_of(settings),
        text_source=settings.text or "",
        min_seconds=settings.min_seconds,
        extras=extras,
        progress=progress,
    )


def measure_conditions(
    packages: Sequence[Path],
    settings: MeasureSettings,
    *,
    threads: Sequence[int | None],
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
    budget: Budget,
    extras: Extras | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Measurement | Grid:
    """Measure under one condition, or under every combination of several.

    The budget is held against the last package, of each condition; lines that are relative to the teacher against
    the first one's figures. A package that did not fit has missed it, which its failure says.

    Raises:
        UserError: see `measure_packages`; of several conditions, all are checked before the first is measured.
            Extras of several conditions. A line relative to the teacher, and one package alone.
    """
    refuse_emulated_latency(budget, settings.device)
    if budget.relative and len(packages) < 2:
        raise UserError(
            f"{budget.relative[0]} is relative to the teacher, and one package is measured",
            where="budget",
            hint="name the teacher's package first",
        )
    tell = progress or (lambda _stage, _share: None)
    workloads = list(product(threads, batch_sizes, lengths))
    if len(workloads) > 1 and extras not in (None, Extras()):
        raise UserError(
            "streams, arrivals and memory over batches are measured under one condition",
            where="bench",
            hint="give one number of threads, one batch size and one length, or leave them out",
        )
    texts = texts_of(settings)
    check_packages(packages, lengths, with_texts=bool(texts))
    check_measurement(settings.device, workloads, texts=texts, min_seconds=settings.min_seconds)
    each = [
        settings.model_copy(update={"threads": count, "batch_size": batch_size, "length": length})
        for count, batch_size, length in workloads
    ]
    cells = []
    for number, one in enumerate(each):

        def show(stage: str, share: float, number: int = number, one: MeasureSettings = one) -> None:
            where = f"{one.batch_size} x {one.length} tokens: " if len(each) > 1 else ""
            tell(f"{where}{stage}", (number + share) / len(each))

        measured = measure(packages, one, extras=extras, progress=show)
        found = {result.package: result for result in measured.results}
        first, last = (found.get(str(folder)) for folder in (packages[0], packages[-1]))
        if (first is not None and last is not None) or (last is not None and not budget.relative):
            measured = measured.model_copy(update={"budget": judge_package(budget, last, teacher=first)})
        cells.append(measured)
    return cells[0] if len(cells) == 1 else Grid(cells=tuple(cells))


def texts_of(settings: MeasureSettings) -> list[str]:
    """The real texts that a recipe measures with; none where it names no file.

    Raises:
        TextError: see `read_lines`.
    """
    return read_lines(Path(settings.text).expanduser()) if settings.text else []


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything.

    Raises:
        TextError: it cannot be read, is not UTF-8, or holds no text.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"cannot be read ({error})", where=str(path), hint="name a UTF-8 text file") from None
    if not lines:
        raise TextError("holds no text", where=str(path), hint="give a text a line")
    return lines


def refuse_emulated_latency(budget: Budget, device: str) -> None:
    """An emulator's times say nothing of the device, so no budget of latency can be held against them.

    Raises:
        DeviceError: an emulated device and such a budget; or an unknown device.
    """
    if find_target(device).emulated and TIMED_LINES & budget.lines().keys():
        raise DeviceError(
            "its times are an emulator's and say nothing of the device",
            where=device,
            hint="leave the budget's latency out, or measure on a real one",
        )


def budget_figures(result: PackageFigures) -> dict[str, float]:
    """One package's measured figures by the names of the budget's lines."""
    return {
        "latency_p50_ms": result.latency_p50_ms,
        "latency_p95_ms": result.latency_p95_ms,
        "latency_p99_ms": result.latency_p99_ms,
        THROUGHPUT: result.throughput_per_s,
        "file_mb": result.file_bytes / 10**6,
        "peak_rss_mb": result.peak_rss_mb,
        "parameters": float(result.parameters),
    }


def budget_intervals(result: PackageFigures) -> dict[str, Interval]:
    """95 % intervals of those figures that have one, by the names of the budget's lines."""
    found = {
        "latency_p50_ms": result.latency_p50_interval_ms,
        "latency_p95_ms": result.latency_p95_interval_ms,
        "latency_p99_ms": result.latency_p99_interval_ms,
        THROUGHPUT: _throughput_interval(result),
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def _throughput_interval(result: PackageFigures) -> Interval:
    """Of sequences a second: those of one call over the mean's interval."""
    rounds_ms = rounds_of(result.samples_ms, result.runs_per_round)
    sequences = result.throughput_per_s * float(rounds_ms.mean())
    low, high = mean_interval(rounds_ms)
    return sequences / high, sequences / low


def judge_package(
    budget: Budget, result: PackageFigures, *, teacher: PackageFigures | None = None
) -> tuple[BudgetVerdict, ...]:
    """Hold one package's measured figures against a budget.

    Args:
        budget: the limits.
        result: of the package.
        teacher: the result of the teacher's package, measured in the same run.

    Raises:
        DeviceError: a line is relative to the teacher, which could not be measured there.
    """
    if budget.relative and teacher is None:
        raise DeviceError(
            f"{budget.relative[0]} is relative to the teacher, which could not be measured there",
            where="budget",
            hint="give the line as a figure with its unit",
        )
    reference = None if teacher is None else budget_figures(teacher)
    return tuple(judge(budget, budget_figures(result), budget_intervals(result), reference=reference))
