"""What is measured besides the latency of one call: the caller's part, many callers, memory over batches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homoexport.data import sample_text
from homoexport.documents.measurement import ArenaStep, OpenLoop, RateFigures, StreamFigures
from homoexport.runtime.inference import PackageInfo
from homoexport.runtime.worker.protocol import InputsRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory
from homoexport.stages.measure.timing import Progress, Running, Workload, load_model

_AROUND_RUNS = 50
_STREAM_SECONDS = 1.0
_REQUESTS = 300  # enough for a p95 of 15 samples beyond it
_SECONDS_OF_RATE = 1.0, 10.0  # at least so long where there are requests enough, and never much longer
_HALVINGS = 6
_STEPS_DOWN, _STEP_DOWN = 4, 0.9  # from a rate that a lucky run let through
_MB = 10**6


@dataclass(frozen=True)
class Extras:
    """What is measured besides the latency of one call, each in the same workers after it.

    Args:
        streams: numbers of callers that share a session.
        rates_per_s: rates of Poisson arrivals.
        budget_p95_ms: look for the highest rate that keeps this p95.
        arena_batches: batch sizes after which a fresh worker's memory is read.
    """

    streams: tuple[int, ...] = ()
    rates_per_s: tuple[float, ...] = ()
    budget_p95_ms: float | None = None
    arena_batches: tuple[int, ...] = ()


def tokenizing_ms(one: Running, details: PackageInfo, workload: Workload) -> float | None:
    """Milliseconds of making token ids of a batch's texts, at the median, in a worker of its own.

    Without texts of the user's, sentences are joined until they have the workload's tokens, roughly. None
    where the package has no tokenizer, the target no library for it, or it would be an emulator's time.
    """
    subject, target = one.subject, one.worker.target
    if subject.tokenizer is None or target.emulated:
        return None
    with Worker(target, subject=subject.name) as worker:
        each = worker.tokenize(
            tokenizer=target.place(subject.files)[-1],
            texts=subject.texts or [_text_of(workload.length)],
            max_length=min(workload.length, details.max_length),
            runs=max(_AROUND_RUNS, len(subject.texts)),
        )
    return None if each is None else float(np.median(each)) / 1e6 * workload.batch_size


def post_processing_ms(one: Running, details: PackageInfo) -> float | None:
    """Milliseconds of what is done with a batch's answer, at the median; None where nothing is."""
    post = one.worker.post(task=details.task, output=details.output, runs=_AROUND_RUNS)
    return None if post is None else float(np.median(post)) / 1e6


def _text_of(tokens: int) -> str:
    """Sentences of about so many tokens: English has some four for three words."""
    words = " ".join(sample_text()).split()
    count = max(1, tokens * 3 // 4)
    return " ".join((words * (count // len(words) + 1))[:count])


def stream_figures(
    one: Running, workload: Workload, streams: Sequence[int], report: Progress
) -> tuple[StreamFigures, ...]:
    """Throughput and latency with so many callers at once."""
    found = []
    for number, callers in enumerate(streams):
        report(f"{callers} streams", number / len(streams))
        reply = one.worker.streams(streams=callers, seconds=_STREAM_SECONDS)
        p50, p95 = np.percentile(reply.samples_ns, (50, 95)) / 1e6
        rate = len(reply.samples_ns) * workload.batch_size / (reply.wall_ns / 1e9)
        found.append(
            StreamFigures(streams=callers, throughput_per_s=rate, latency_p50_ms=float(p50), latency_p95_ms=float(p95))
        )
    return tuple(found)


def open_loop(
    one: Running, extras: Extras, report: Progress, *, closed_p50_ms: float, closed_p95_ms: float
) -> OpenLoop | None:
    """Poisson arrivals at the given rates; then the highest rate whose p95 keeps the budget, if there is one.

    No rate above that of the closed loop can be served for long, and none at all where the closed loop's own p95
    is beyond the budget. So it is sought by halving between 0 and there. One run's p95 is a matter of luck:
    the rate that is reported has kept the budget at the median of three runs, whose arrivals differ.
    """
    budget_p95_ms = extras.budget_p95_ms
    if not extras.rates_per_s and budget_p95_ms is None:
        return None
    found = [_at_rate(one.worker, rate, 0, report) for rate in extras.rates_per_s]
    highest = None
    if budget_p95_ms is not None and closed_p95_ms <= budget_p95_ms:
        low, high = 0.0, 1000 / closed_p50_ms
        for seed in range(_HALVINGS):
            middle = (low + high) / 2
            found.append(_at_rate(one.worker, middle, seed, report))
            low, high = (middle, high) if found[-1].latency_p95_ms <= budget_p95_ms else (low, middle)
        for _ in range(_STEPS_DOWN if low else 0):
            again = [_at_rate(one.worker, low, seed, report) for seed in range(_HALVINGS, _HALVINGS + 3)]
            found += again
            if statistics.median(each.latency_p95_ms for each in again) <= budget_p95_ms:
                highest = low
                break
            low *= _STEP_DOWN
    rates = tuple(sorted(found, key=lambda at: at.rate_per_s))
    return OpenLoop(rates=rates, budget_p95_ms=budget_p95_ms, highest_rate_per_s=highest)


def _at_rate(worker: Worker, rate: float, seed: int, report: Progress) -> RateFigures:
    requests = max(_REQUESTS, round(rate * _SECONDS_OF_RATE[0]))
    report(f"{rate:.3g} arrivals/s", 0.5)
    reply = worker.arrivals(rate_per_s=rate, requests=requests, seconds=_SECONDS_OF_RATE[1], seed=seed)
    p50, p95, p99 = (float(value) / 1e6 for value in np.percentile(reply.latency_ns, (50, 95, 99)))
    return RateFigures(
        rate_per_s=rate,
        requests=len(reply.latency_ns),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        utilization=sum(reply.service_ns) / reply.wall_ns,
    )


def arena_steps(
    one: Running, workload: Workload, batch_sizes: Sequence[int], report: Progress
) -> tuple[ArenaStep, ...]:
    """Memory of fresh workers after batches of these sizes, in this order, with and without shrinking.

    A batch that does not fit ends the row: it and what follows have no figure.
    """
    if not batch_sizes:
        return ()
    report("memory over batches", 0.0)
    ways = [_grown(one, workload, batch_sizes, shrink=shrink) for shrink in (False, True)]
    return tuple(
        ArenaStep(batch_size=size, rss_mb=kept, shrunk_rss_mb=shrunk)
        for size, kept, shrunk in zip(batch_sizes, *ways, strict=True)
    )


def _grown(one: Running, workload: Workload, batch_sizes: Sequence[int], *, shrink: bool) -> list[float | None]:
    subject, target = one.subject, one.worker.target
    after: list[float | None] = []
    try:
        with Worker(target, subject=subject.name) as worker:
            load_model(worker, subject, threads=workload.threads)
            for batch_size in batch_sizes:
                worker.inputs(InputsRequest(batch_size, workload.length, subject.vocab_size))
                rss = worker.once(shrink=shrink).rss_bytes
                after.append(None if rss is None else (rss - target.overhead_bytes(worker.process_id)) / _MB)
    except OutOfMemory:
        after += [None] * (len(batch_sizes) - len(after))
    return after
