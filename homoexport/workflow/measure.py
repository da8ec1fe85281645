"""Measuring as a recipe says, and holding what comes out against its budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import RuntimeChoice
from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.budget import (
    DOWNLOAD,
    LATENCY_LINES,
    THROUGHPUT,
    TIMED_LINES,
    Budget,
    BudgetVerdict,
    is_kept,
    judge,
)
from homoexport.documents.measurement import Grid, Interval, Measurement, Noise, PackageFigures
from homoexport.documents.recipe import MeasureSettings
from homoexport.errors import DeviceError, TextError, UserError, refusing
from homoexport.globs import at_home
from homoexport.limits import MB, limit, raise_hint
from homoexport.stages.measure import (
    Extras,
    as_chosen,
    check_measurement,
    check_packages,
    find_target,
    is_browser,
    keeps_pace,
    mean_interval,
    measure_packages,
    percentile_intervals,
    quiet_rounds,
)
from homoexport.text.lines import longest_text, too_long
from homoexport.workflow.progress import QUIET, Progress

T = TypeVar("T")


def measure(
    packages: Sequence[Path | str],
    *,
    device: str = "cpu",
    threads: int | Sequence[int | None] | None = None,
    batch_size: int | Sequence[int] = 1,
    length: int | Sequence[int] = 128,
    text: str | None = None,
    runtime: RuntimeChoice | Sequence[RuntimeChoice] = "auto",
    min_seconds: float = 2.0,
    budget: Budget | None = None,
    extras: Extras | None = None,
    progress: Progress = QUIET,
) -> Measurement | Grid:
    """Measure packages side by side, each in a process of its own, and hold the last one against a budget.

    Several threads, batch sizes or lengths are measured one condition after the other, and make a `Grid`. Lines of the
    budget that are relative to the teacher are held against the first package's figures. A package that does not fit
    into the target's memory is among the failures, and has missed the budget.

    Args:
        device: where; in a browser, in the provider and with the threads that the last package was exported for, unless
            these are named.
        threads: of one inference; by default as many as the target gives cores.
        batch_size: sequences of one inference.
        length: tokens of one sequence; of real texts, what they are truncated to.
        text: file of real texts, one a line, whose own lengths are measured with.
        runtime: what packages run in, all or each; auto is what each was the fastest in where it was exported, of what
            there is on the device.
        budget: in milliseconds and megabytes of 10**6 bytes, or relative: `4x`, `25%`.

    Raises:
        PackageError: not a package, altered, or nothing that onnxruntime can run.
        UserError: a device, a length, a number of threads or texts that cannot be had, extras of several conditions, or
            a line relative to the teacher and one package alone; all is checked before anything is measured.

    Example:
        >>> measured = measure(["teacher-onnx", "student-onnx"], threads=1, budget=Budget(latency_p95_ms="4x"))
        ... # doctest: +SKIP
    """
    folders, budget = [Path(package) for package in packages], budget or Budget()
    if folders and is_browser(device):
        chosen = verify(folders[-1], PackageManifest, strict=False).details.browser
        if chosen is not None:
            device, own_threads = as_chosen(device, chosen)
            threads = own_threads if threads is None else threads
    workloads = list(product(_several(threads), _several(batch_size), _several(length)))
    _check_asked(folders, budget, device, extras, conditions=len(workloads))
    texts = read_lines(Path(text)) if text else []
    runtimes: Sequence[RuntimeChoice] = [runtime] * len(folders) if isinstance(runtime, str) else runtime
    lengths = [tokens for *_, tokens in workloads]
    check_packages(folders, lengths, with_texts=bool(texts), device=device, runtimes=runtimes)
    check_measurement(device, workloads, texts=texts, min_seconds=min_seconds)
    cells = []
    for number, (count, batch, tokens) in enumerate(workloads):
        condition = f"{batch} x {tokens} tokens: " if len(workloads) > 1 else ""
        measured = measure_packages(
            folders,
            device=device,
            threads=count,
            batch_size=batch,
            length=tokens,
            texts=texts,
            text_source=text or "",
            runtimes=runtimes,
            min_seconds=min_seconds,
            extras=extras,
            progress=_part(progress, number, len(workloads), condition),
        )
        cells.append(_judged(measured, budget, folders))
    return cells[0] if len(cells) == 1 else Grid(cells=tuple(cells))


def measure_once(
    packages: Sequence[Path | str],
    settings: MeasureSettings,
    *,
    runtime: Sequence[RuntimeChoice] = ("onnxruntime",),
    progress: Progress = QUIET,
) -> Measurement:
    """`measure` under the one condition of a recipe's `measure` section, each package in its runtime."""
    measured = measure(packages, **settings.model_dump(), runtime=runtime, progress=progress)
    assert isinstance(measured, Measurement)
    return measured


def _check_asked(
    packages: Sequence[Path], budget: Budget, device: str, extras: Extras | None, *, conditions: int
) -> None:
    """Refuse lines of a budget that nothing can be held against, and extras of several conditions."""
    refuse_emulated_latency(budget, device)
    if budget.relative and len(packages) < 2:
        raise UserError(
            f"{budget.relative[0]} is relative to the teacher, and one package is measured",
            where="budget",
            hint="name the teacher's package first",
        )
    if conditions > 1 and extras not in (None, Extras()):
        raise UserError(
            "streams, arrivals and memory over batches are measured under one condition",
            where="bench",
            hint="give one number of threads, one batch size and one length, or leave them out",
        )


def _several(value: T | Sequence[T]) -> list[T]:
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]


def _part(progress: Progress, number: int, count: int, condition: str) -> Callable[[str, float], None]:
    """The share of one of several conditions, told as a part of all."""
    return lambda stage, share: progress.on_share(f"{condition}{stage}", (number + share) / count)


def _judged(measured: Measurement, budget: Budget, packages: Sequence[Path]) -> Measurement:
    """A measurement with the last package's verdicts, where both packages that they need were measured."""
    found = {result.package: result for result in measured.results}
    first, last = (found.get(str(folder)) for folder in (packages[0], packages[-1]))
    if last is None or (first is None and budget.relative):
        return measured
    return measured.model_copy(update={"budget": judge_package(budget, last, teacher=first, noise=measured.noise)})


def is_proven(measured: Measurement | Grid, *, allowed_slowdown: float | None = None) -> bool:
    """Whether every package fitted and answers on the target as it does here, and the budget is kept; and, where a
    slowdown is allowed (a share), every package is proven not to be slower than the first by more."""
    for cell in measured.cells:
        if cell.failures or is_kept(cell.budget) is not True:
            return False
        if any(result.agreement is not None and not result.agreement.within for result in cell.results):
            return False
        if allowed_slowdown is not None and not all(keeps_pace(line, allowed_slowdown) for line in cell.comparisons):
            return False
    return True


def texts_of(settings: MeasureSettings) -> list[str]:
    """The real texts that a recipe measures with; none where it names no file."""
    return read_lines(Path(settings.text)) if settings.text else []


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold anything; TextError where there are none, or it cannot be read."""
    where = str(path)
    with refusing(TextError, "cannot be read", where=where, hint="name a UTF-8 text file"):
        path = at_home(path)
        if path.exists() and not path.is_file():
            raise TextError("is no file", where=where, hint="name a UTF-8 text file")
        if path.stat().st_size == 0:  # as files of /proc are, which may make their reader wait
            raise TextError("holds no text", where=where, hint="give a text a line")
        if path.stat().st_size > limit("whole_mb") * MB:
            raise TextError(f"is larger than {limit('whole_mb')} MB", where=where, hint=raise_hint("whole_mb"))
        with path.open(encoding="utf-8") as file:
            content = file.read(limit("whole_mb") * MB)  # it may grow meanwhile
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise TextError("holds no text", where=where, hint="give a text a line")
    if max(map(len, lines)) > longest_text():
        raise too_long(where)
    return lines


def refuse_emulated_latency(budget: Budget, device: str) -> None:
    """An emulator's times say nothing of the device, so no budget of latency can be held against them."""
    if find_target(device).emulated and TIMED_LINES & budget.lines().keys():
        raise DeviceError(
            "its times are an emulator's and say nothing of the device",
            where=device,
            hint="leave the budget's latency out, or measure on a real one",
        )


def _budget_figures(result: PackageFigures) -> dict[str, float]:
    """One package's measured figures by the names of the budget's lines, times of all of its rounds."""
    download = result.package_download_bytes  # None in older results, which knew no such line
    return {
        "latency_p50_ms": result.latency_p50_ms,
        "latency_p95_ms": result.latency_p95_ms,
        "latency_p99_ms": result.latency_p99_ms,
        THROUGHPUT: result.throughput_per_s,
        "file_mb": result.file_bytes / 10**6,
        **({} if download is None else {DOWNLOAD: download / 10**6}),
        "peak_rss_mb": result.peak_rss_mb,
        "parameters": float(result.parameters),
    }


def _budget_intervals(result: PackageFigures) -> dict[str, Interval]:
    """95 % intervals of those figures that have one, by the names of the budget's lines."""
    found = {
        "latency_p50_ms": result.latency_p50_interval_ms,
        "latency_p95_ms": result.latency_p95_interval_ms,
        "latency_p99_ms": result.latency_p99_interval_ms,
        THROUGHPUT: _throughput(result, quiet_rounds(result)[0])[1],
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def _throughput(result: PackageFigures, rounds_ms: NDArray[np.float64]) -> tuple[float, Interval]:
    """Sequences a second in rounds [R, K], and the 95 % interval: those of one call over the mean's."""
    sequences = result.throughput_per_s * float(np.mean(result.samples_ms))
    low, high = mean_interval(rounds_ms)
    return sequences / float(rounds_ms.mean()), (sequences / high, sequences / low)


def _in_quiet_rounds(
    result: PackageFigures, rounds_ms: NDArray[np.float64]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Figures of time and their intervals, of some of a package's rounds [R, K]."""
    percents = dict(zip(LATENCY_LINES, (50, 95, 99), strict=True))
    intervals = dict(zip(percents, percentile_intervals(rounds_ms, tuple(percents.values())), strict=True))
    figures = {line: float(np.percentile(rounds_ms, percent)) for line, percent in percents.items()}
    figures[THROUGHPUT], intervals[THROUGHPUT] = _throughput(result, rounds_ms)
    return figures, intervals


def judge_package(
    budget: Budget, result: PackageFigures, *, teacher: PackageFigures | None = None, noise: Noise | None = None
) -> tuple[BudgetVerdict, ...]:
    """Hold one package's measured figures against a budget; relative lines against the teacher's of the same run.

    Times are those of the rounds in which the package had its cores to itself, see `BudgetVerdict`. `noise` says
    whether the machine was as fast as it can be.
    """
    if budget.relative and teacher is None:
        raise DeviceError(
            f"{budget.relative[0]} is relative to the teacher, which could not be measured there",
            where="budget",
            hint="give the line as a figure with its unit",
        )
    figures, intervals, share = _judged_figures(result)
    reference = None
    if teacher is not None:
        reference, _, theirs = _judged_figures(teacher)
        share = min(share, theirs) if TIMED_LINES & {*budget.relative} else share
    if noise is not None and noise.slowed:
        share = 0.0
    return tuple(judge(budget, figures, intervals, reference=reference, quiet_share=share))


def _judged_figures(result: PackageFigures) -> tuple[dict[str, float], dict[str, Interval], float]:
    """Figures and intervals by the budget's lines, and the share of the rounds that the times are of; 0 where it is of
    all of them, for too few were quiet."""
    rounds_ms, share = quiet_rounds(result)
    figures, intervals = _budget_figures(result), _budget_intervals(result)
    if 0 < share < 1:
        times, around = _in_quiet_rounds(result, rounds_ms)
        figures, intervals = figures | times, intervals | around
    return figures, intervals, share
