"""Measuring packages, and ranking graphs that are not packages yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homoexport.errors import PackageError, UserError
from homoexport.host import describe_host, library_versions
from homoexport.inference import PackageDetails, read_package
from homoexport.measure.intervals import MARGIN, Verdict, percentile_intervals, speedup, verdict_of
from homoexport.measure.target import find_target
from homoexport.measure.timing import Progress, Subject, Timing, check_request, time_interleaved

SCHEMA_VERSION = 1
_PERCENTS = (50, 90, 95, 99)
_MB = 10**6


@dataclass(frozen=True)
class PackageFigures:
    """One package's figures: latencies of one call in milliseconds, memory in MB of 10**6 bytes.

    The file is in the page cache when it is loaded. `peak_rss_mb` is the worker's high-water mark
    after all runs, `runtime_rss_mb` the same worker's before it loaded anything. Intervals are 95 %.
    `samples_ms` holds every timed run in order, `runs_per_round` of them from each round.
    """

    package: str
    name: str
    task: str
    precision: str
    parameters: int
    file_bytes: int
    load_ms: float
    first_inference_ms: float
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_mean_ms: float
    latency_std_ms: float
    latency_p50_interval_ms: tuple[float, float]
    latency_p95_interval_ms: tuple[float, float]
    throughput_per_s: float
    peak_rss_mb: float
    runtime_rss_mb: float
    warmup_runs: int
    runs: int
    runs_per_round: int
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """How many times faster than `against` (the first package) a package is at the median."""

    package: str
    against: str
    speedup_p50: float
    interval: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class Measurement:
    """Packages measured in one interleaved run. `margin` is what still counts as the same speed."""

    device: str
    threads: int
    batch_size: int
    length: int
    margin: float
    host: dict[str, Any]
    versions: dict[str, str]
    results: tuple[PackageFigures, ...]
    comparisons: tuple[Comparison, ...]

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict, with `schema_version`."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def check_measurement(device: str, *, threads: int, batch_size: int, length: int, min_seconds: float) -> None:
    """Refuse at once what `measure_packages` would refuse, as far as the packages do not matter.

    Raises:
        DeviceError: unknown device, or more threads than it has cores.
        UserError: a figure that is not positive.
    """
    target = find_target(device)
    check_request(target, threads=threads, batch_size=batch_size, length=length, min_seconds=min_seconds)


def measure_packages(
    packages: Sequence[Path],
    *,
    device: str = "cpu",
    threads: int = 1,
    batch_size: int = 1,
    length: int = 128,
    min_seconds: float = 2.0,
    progress: Progress | None = None,
) -> Measurement:
    """Measure packages, and compare each of them with the first.

    Every package runs in a fresh process that imports only numpy and onnxruntime; they are timed in
    turns, in one run. Nothing but the inference is in the timed region, for the package's own
    output and full-length sequences.

    Args:
        packages: folders that `homoexport export` wrote.
        device: where to measure: `cpu`.
        threads: threads of one inference.
        batch_size: sequences of one inference.
        length: tokens of one sequence.
        min_seconds: timed seconds of each package at the least.
        progress: called with what is being done and the share of it that is done.

    Raises:
        PackageError: not a package, altered, truncated, or nothing that onnxruntime can run.
        DeviceError: unknown device, too many threads, or a worker that was killed.
        UserError: no package, a length above a package's own, or a figure that is not positive.
    """
    target = find_target(device)
    if not packages:
        raise UserError("no package to measure", mend="name at least one package folder")
    check_request(target, threads=threads, batch_size=batch_size, length=length, min_seconds=min_seconds)
    described = [read_package(folder) for folder in packages]
    for details in described:
        if length > details.max_length:
            raise UserError(
                f"{length} tokens where {details.folder} takes {details.max_length}",
                where="length",
                mend=f"measure with {details.max_length} or fewer",
            )
    timings = time_interleaved(
        [Subject(details.model, str(details.folder), details.vocab_size, (details.output,)) for details in described],
        target,
        threads=threads,
        batch_size=batch_size,
        length=length,
        min_seconds=min_seconds,
        progress=progress,
    )
    results = [_figures(*pair, batch_size=batch_size) for pair in zip(described, timings, strict=True)]
    return Measurement(
        device=device,
        threads=threads,
        batch_size=batch_size,
        length=length,
        margin=MARGIN,
        host=describe_host(),
        versions={**library_versions(), **timings[0].versions},
        results=tuple(results),
        comparisons=tuple(
            _compare(result.package, results[0].package, timing, timings[0])
            for result, timing in zip(results[1:], timings[1:], strict=True)
        ),
    )


def rank_files(
    files: Sequence[Path],
    *,
    threads: int = 1,
    batch_size: int = 1,
    length: int = 128,
    min_seconds: float = 1.0,
    vocab_size: int = 1000,
    outputs: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Median latency of plain ONNX files on this CPU, measured as packages are.

    Args:
        files: ONNX files whose inputs are `input_ids`, `attention_mask`, `token_type_ids`, or some of them.
        threads: threads of one inference.
        batch_size: sequences of one inference.
        length: tokens of one sequence.
        min_seconds: timed seconds of each file at the least.
        vocab_size: token ids are drawn below it.
        outputs: names of the outputs to ask for; by default all.
        progress: called with what is being done and the share of it that is done.

    Returns:
        Milliseconds, in the order of the files.

    Raises:
        PackageError: a missing file, or one that onnxruntime cannot load or run.
        DeviceError: too many threads, or a worker that was killed.
        UserError: no file, or a figure that is not positive.
    """
    if not files:
        raise UserError("no file to rank", mend="name at least one ONNX file")
    for file in files:
        if not file.is_file():
            raise PackageError("no such file", where=str(file))
    timings = time_interleaved(
        [Subject(file, str(file), vocab_size, outputs) for file in files],
        find_target("cpu"),
        threads=threads,
        batch_size=batch_size,
        length=length,
        min_seconds=min_seconds,
        progress=progress,
    )
    return [float(np.median(timing.rounds_ms)) for timing in timings]


def _figures(details: PackageDetails, timing: Timing, *, batch_size: int) -> PackageFigures:
    samples_ms = timing.rounds_ms.ravel()
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples_ms, _PERCENTS))
    p50_interval, p95_interval = percentile_intervals(timing.rounds_ms, (50, 95))
    return PackageFigures(
        package=str(details.folder),
        name=details.folder.resolve().name,
        task=details.task,
        precision=details.precision,
        parameters=details.parameters,
        file_bytes=details.file_bytes,
        load_ms=timing.load_ms,
        first_inference_ms=timing.first_inference_ms,
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_mean_ms=float(samples_ms.mean()),
        latency_std_ms=float(samples_ms.std()),
        latency_p50_interval_ms=p50_interval,
        latency_p95_interval_ms=p95_interval,
        throughput_per_s=float(batch_size * 1000 / samples_ms.mean()),
        peak_rss_mb=timing.peak_rss_bytes / _MB,
        runtime_rss_mb=timing.runtime_rss_bytes / _MB,
        warmup_runs=timing.warmup_runs,
        runs=samples_ms.size,
        runs_per_round=timing.rounds_ms.shape[1],
        samples_ms=tuple(samples_ms.tolist()),
    )


def _compare(package: str, against: str, timing: Timing, against_timing: Timing) -> Comparison:
    ratio, interval = speedup(against_timing.rounds_ms, timing.rounds_ms)
    return Comparison(package, against, ratio, interval, verdict_of(interval))
