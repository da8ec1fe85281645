"""Measuring packages, and ranking graphs that are not packages yet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from homoexport.choices import RuntimeChoice
from homoexport.documents.graph import count_weights
from homoexport.documents.measurement import Comparison, Measurement, TextLengths
from homoexport.errors import PackageError, UserError, refusing
from homoexport.host import library_versions
from homoexport.runtime.inference import PackageInfo, load_tokenizer, read_package
from homoexport.runtime.installed import install_hint
from homoexport.stages.measure.extras import Extras
from homoexport.stages.measure.figures import MB, PERCENTS, package_figures
from homoexport.stages.measure.intervals import MARGIN, speedup, verdict_of
from homoexport.stages.measure.targets import Target, find_target, open_target, refuse_runtime
from homoexport.stages.measure.timing import (
    WARM_RACE_SECONDS,
    WARM_SECONDS,
    Progress,
    Running,
    Session,
    Subject,
    Workload,
    check_request,
    running,
    take_rounds,
)

_MAX_TEXTS = 64
_FEW_WEIGHTS = 10**6  # that a graph may hold beside the model's: tables of positions, scales

Asked = tuple[int | None, int, int]  # threads (None for all cores there), batch size and length


def check_measurement(
    device: str, workloads: Sequence[Asked], *, texts: Sequence[str] = (), min_seconds: float
) -> None:
    """Refuse at once what `measure_packages` would refuse, as far as the packages do not matter.

    Raises:
        DeviceError: a device that is unknown or cannot be used, or more threads than it has cores.
        UserError: a figure that is not positive, or fewer texts than a batch takes.
    """
    with open_target(device) as target:
        for workload in workloads:
            check_request(target, _workload(target, workload), min_seconds=min_seconds)
            _evenly(texts, workload[1], "texts")


def check_packages(
    packages: Sequence[Path],
    lengths: Sequence[int],
    *,
    with_texts: bool,
    device: str = "cpu",
    runtimes: Sequence[RuntimeChoice] = (),
) -> list[PackageInfo]:
    """Read packages, and refuse those that cannot take one of the lengths; real texts are truncated to a package's own.

    Each is to be run in its runtime on the device, by default in ONNX Runtime.

    Raises:
        DeviceError: a runtime that the device has not.
        PackageError: not a package, or altered, or one of many more parameters than it says, which a budget may limit.
        UserError: no package, or a length above a package's own.
    """
    if not packages:
        raise UserError("no package to measure", hint="name at least one package folder")
    target = find_target(device)
    others = [runtime for runtime in target.runtimes if not install_hint(runtime)]
    described = []
    asked: Sequence[RuntimeChoice] = runtimes or ["onnxruntime"] * len(packages)
    for folder, runtime in zip(packages, asked, strict=True):
        if runtime != "auto":
            refuse_runtime(target, runtime, subject=str(folder))
        described.append(read_package(folder, runtime, runtimes=others))
    for details in described:
        if (found := count_weights(details.model)) > 2 * details.parameters + _FEW_WEIGHTS:  # some stand there twice
            what = f"its graph holds {found} weights, and its manifest says {details.parameters} parameters"
            raise PackageError(what, where=str(details.folder), hint="export the package again")
        if max(lengths) > details.max_length and not with_texts:
            what = f"{max(lengths)} tokens where {details.folder} takes {details.max_length}"
            raise UserError(what, where="length", hint=f"measure with --length {details.max_length}")
    return described


def measure_packages(
    packages: Sequence[Path],
    *,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 1,
    length: int = 128,
    texts: Sequence[str] = (),
    text_source: str = "",
    runtimes: Sequence[RuntimeChoice] = (),
    min_seconds: float = 2.0,
    extras: Extras | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure packages, and compare each of them with the first.

    Every package runs in a fresh process that imports only numpy and its runtime; they are timed in
    turns, in one run. Nothing but the inference is in the timed region, for the package's own
    output. A package that does not fit into the target's memory is among the failures.

    Args:
        length: tokens of one sequence; of real texts, what they are truncated to.
        texts: real texts, whose own lengths are measured with; up to 64, evenly taken, in their order.
        text_source: what the texts are called.
        runtimes: what each package runs in, by default all in ONNX Runtime; auto is what it was the fastest in where it
            was exported, of what there is on the device.
        min_seconds: timed seconds of each package; up to five times that where a comparison is too noisy to call.

    Raises:
        PackageError: not a package, altered, truncated, or nothing that its runtime can run.
        DeviceError: a device that is unknown or cannot be used, too many threads, or a runtime that it has not.
        UserError: no package, a length above a package's own, too few texts, or a figure that is not positive.
    """
    report = progress or _report_to_nobody
    described = check_packages(packages, [length], with_texts=bool(texts), device=device, runtimes=runtimes)
    chosen = _evenly(texts, batch_size, text_source)
    subjects = [_subject(details, chosen, length) for details in described]
    details_of = dict(zip(subjects, described, strict=True))
    asked = threads, batch_size, length
    with _session(subjects, device, asked, min_seconds=min_seconds, report=report) as session:
        noise = take_rounds(session, min_seconds=min_seconds, report=report)
        energy_source = session.running[0].worker.counters().energy_source if session.running else None
        results = [
            package_figures(details_of[one.subject], one, session, extras or Extras(), report, noise=noise)
            for one in session.running
        ]
        greeting, first = session.greeting, subjects[0]
        return Measurement(
            device=device,
            emulated=session.target.emulated,
            limits=session.target.limits(),
            threads=session.workload.threads,
            batch_size=batch_size,
            length=max(map(len, first.rows)) if first.rows else length,
            texts=_text_lengths(first, text_source),
            margin=MARGIN,
            host=greeting.host if greeting else None,
            versions=library_versions() | (greeting.versions if greeting else {}),
            noise=noise,
            energy_source=energy_source,
            results=tuple(results),
            failures=tuple(session.failures),
            comparisons=() if session.target.emulated else _comparisons(session.running, first),
        )


@dataclass(frozen=True)
class FileFigures:
    """What was measured of a plain ONNX file: latency percentiles by their number, mean, the worker's peak memory.

    `disturbed_share` is the share of its rounds in which it waited for a core that others had.
    """

    latency_ms: dict[int, float]
    latency_mean_ms: float
    peak_rss_mb: float
    disturbed_share: float = 0.0


def rank_files(files: Sequence[Path], **conditions: Any) -> list[float]:
    """Median latency in milliseconds, of `time_files`; infinity for a file that the target's memory cannot hold.

    What can be called slower than the fastest is timed no further, nor is anything where all the others are as fast, so
    that medians are of fewer runs.
    """
    figures = time_files(files, race=True, **conditions)
    return [float("inf") if found is None else found.latency_ms[50] for found in figures]


def rank_runs(
    runs: Sequence[tuple[Path, str, int]],
    *,
    vocab_size: int,
    outputs: tuple[str, ...],
    batch_size: int,
    length: int,
    min_seconds: float,
) -> list[float]:
    """`rank_files` of files each on a device and with threads of its own, all in turns; the devices are of one machine.

    Raises:
        PackageError, DeviceError: see `time_files`.
    """
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(
                _session(
                    [Subject(file, file.name, vocab_size, outputs)],
                    device,
                    (threads, batch_size, length),
                    min_seconds=min_seconds,
                    report=_report_to_nobody,
                    judged=False,
                    warm_seconds=WARM_RACE_SECONDS,
                )
            )
            for file, device, threads in runs
        ]
        together = replace(sessions[0], running=[one for session in sessions for one in session.running])
        take_rounds(together, min_seconds=min_seconds, report=_report_to_nobody, patient=False, race=True)
        return [
            next((float(np.median(one.rounds_ms)) for one in session.running if one in together.running), math.inf)
            for session in sessions
        ]


def time_files(
    files: Sequence[Path],
    *,
    vocab_size: int = 1000,
    outputs: tuple[str, ...] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 1,
    length: int = 128,
    min_seconds: float = 1.0,
    warm_seconds: float | None = None,
    race: bool = False,
    progress: Progress | None = None,
) -> list[FileFigures | None]:
    """Latency and memory of plain ONNX files, measured as packages are; None for one that does not fit into memory.

    Their inputs are `input_ids`, `attention_mask`, `token_type_ids`, or some of them. See `measure_packages`.

    Args:
        vocab_size: token ids are drawn below it.
        outputs: names of the outputs to ask for; by default all.
        warm_seconds: the most that each is warmed for; by default until it is steady, in a race for a moment.
        race: whether the fastest alone is looked for, see `take_rounds`.

    Raises:
        PackageError: a missing file, or one that onnxruntime cannot load or run.
        DeviceError: a device that is unknown or cannot be used, or too many threads.
        UserError: no file, or a figure that is not positive.
    """
    if not files:
        raise UserError("no file to rank", hint="name at least one ONNX file")
    for file in files:
        if not file.is_file():
            raise PackageError("no such file", where=str(file))
    report = progress or _report_to_nobody
    subjects = [Subject(file, str(file), vocab_size, outputs) for file in files]
    asked = threads, batch_size, length
    if warm_seconds is None:
        warm_seconds = WARM_RACE_SECONDS if race else WARM_SECONDS
    with _session(
        subjects, device, asked, min_seconds=min_seconds, report=report, judged=False, warm_seconds=warm_seconds
    ) as session:
        take_rounds(session, min_seconds=min_seconds, report=report, patient=False, race=race)
        figures = {one.subject.name: _file_figures(one) for one in session.running}
    return [figures.get(subject.name) for subject in subjects]


def _file_figures(one: Running) -> FileFigures:
    latencies = np.percentile(one.rounds_ms, PERCENTS)
    return FileFigures(
        latency_ms=dict(zip(PERCENTS, map(float, latencies), strict=True)),
        latency_mean_ms=float(one.rounds_ms.mean()),
        peak_rss_mb=one.peak_bytes / MB,
        disturbed_share=len(one.disturbed_rounds) / len(one.rounds_ns),
    )


@contextmanager
def _session(
    subjects: Sequence[Subject], device: str, asked: Asked, *, min_seconds: float, report: Progress, **how: Any
) -> Iterator[Session]:
    """Workers of all subjects on the device, once it is sure that it can do what is asked."""
    with open_target(device) as target:
        workload = _workload(target, asked)
        check_request(target, workload, min_seconds=min_seconds)
        with running(subjects, target, workload, report=report, **how) as session:
            yield session


def _workload(target: Target, asked: Asked) -> Workload:
    threads, batch_size, length = asked
    return Workload(target.cores() if threads is None else threads, batch_size, length)


def _evenly(texts: Sequence[str], batch_size: int, source: str) -> list[str]:
    """Up to 64 of the texts, or a batch of them if that is more, whole batches, spread over all."""
    if not texts:
        return []
    count = min(len(texts), max(_MAX_TEXTS, batch_size)) // batch_size * batch_size
    if count == 0:
        what = f"{len(texts)} texts where a batch takes {batch_size}"
        raise UserError(what, where=source, hint="give more, or a smaller batch")
    return [texts[i * len(texts) // count] for i in range(count)]


def _subject(details: PackageInfo, texts: Sequence[str], length: int) -> Subject:
    path = details.folder / "tokenizer.json"
    rows = None
    if texts:
        tokenizer = load_tokenizer(details, max_length=min(length, details.max_length))
        with refusing(PackageError, "its tokenizer cannot read a text", where=str(details.folder)):
            encodings = tokenizer.encode_batch(list(texts))
        rows = tuple(tuple(encoding.ids or [details.pad_token_id]) for encoding in encodings)
    return Subject(
        details.file,
        str(details.folder),
        details.vocab_size,
        (details.output,),
        texts=tuple(texts),
        rows=rows,
        pad_token_id=details.pad_token_id,
        tokenizer=path if path.is_file() else None,
    )


def _text_lengths(subject: Subject, source: str) -> TextLengths | None:
    if subject.rows is None:
        return None
    tokens = [len(row) for row in subject.rows]
    p50, p95 = np.percentile(tokens, (50, 95))
    return TextLengths(
        source=source, texts=len(tokens), tokens_p50=float(p50), tokens_p95=float(p95), tokens_max=max(tokens)
    )


def _comparisons(running: Sequence[Running], subject: Subject) -> tuple[Comparison, ...]:
    """All but the first package against it; none where it did not fit."""
    first = next((one for one in running if one.subject is subject), None)
    return tuple(_compare(one, first) for one in running if first is not None and one is not first)


def _compare(one: Running, first: Running) -> Comparison:
    ratio, interval = speedup(first.rounds_ms, one.rounds_ms)
    return Comparison(
        package=one.subject.name,
        against=first.subject.name,
        speedup_p50=ratio,
        interval=interval,
        verdict=verdict_of(ratio, interval),
    )


def _report_to_nobody(_stage: str, _share: float) -> None:
    """Progress that nobody asked for."""
