"""The core of measuring: several models timed in turns, each in a process of its own.

Sessions that live in one process spin on each other's cores, so every model has its own worker. In
a round each worker has its turn while the others, and the parent, sleep in a blocking read; every
other round goes backwards, so that no model always comes first. Whatever disturbs the machine thus
disturbs all models alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homoexport.errors import DeviceError, UserError
from homoexport.measure.intervals import FloatArray
from homoexport.measure.process import Worker
from homoexport.measure.target import Target

Progress = Callable[[str, float], None]  # what is being done, and the share of it that is done (0 to 1)

_MIN_ROUNDS = 20
_TURN_SECONDS = 0.1
_WARM_SECONDS = 10.0


@dataclass(frozen=True)
class Subject:
    """One model to be timed.

    Args:
        model: the ONNX file.
        name: what messages call it.
        vocab_size: token ids are drawn below it.
        outputs: names of the outputs to ask for; None for all.
    """

    model: Path
    name: str
    vocab_size: int
    outputs: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Timing:
    """What one worker had to say. Times in milliseconds, memory in bytes.

    `rounds_ms` is [R, K]: R rounds of K runs each, in the order in which they ran.
    """

    load_ms: float
    first_inference_ms: float
    warmup_runs: int
    rounds_ms: FloatArray
    peak_rss_bytes: int
    runtime_rss_bytes: int
    versions: dict[str, str]


def check_request(target: Target, *, threads: int, batch_size: int, length: int, min_seconds: float) -> None:
    """Refuse what cannot be measured.

    Raises:
        DeviceError: more threads than the target has cores.
        UserError: a figure that is not positive.
    """
    for name, value in {
        "threads": threads,
        "batch_size": batch_size,
        "length": length,
        "min_seconds": min_seconds,
    }.items():
        if value <= 0:
            raise UserError(f"{value} is not positive", where=name)
    if threads > (cores := target.cores()):
        raise DeviceError(
            f"{threads} threads where {cores} core{'s' * (cores > 1)} may be used",
            where="threads",
            mend=f"measure with {cores} or fewer",
        )


def time_interleaved(
    subjects: Sequence[Subject],
    target: Target,
    *,
    threads: int,
    batch_size: int,
    length: int,
    min_seconds: float,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time models in turns.

    Args:
        subjects: the models.
        target: where the workers run.
        threads: threads of one inference.
        batch_size: sequences of one inference.
        length: tokens of one sequence.
        min_seconds: timed seconds of each model at the least; there are at least 20 rounds.
        progress: told what is being done.

    Raises:
        PackageError: a file that onnxruntime cannot load or run.
        DeviceError: too many threads, or a worker that was killed.
        UserError: a figure that is not positive.
    """
    check_request(target, threads=threads, batch_size=batch_size, length=length, min_seconds=min_seconds)
    tell = progress or _tell_nobody
    with ExitStack() as stack:
        workers, loads, warm_ups = [], [], []
        for done, subject in enumerate(subjects):
            tell(f"warming up {subject.name}", done / len(subjects))
            worker = stack.enter_context(Worker(target, subject=subject.name))
            load = worker.ask(
                "load",
                model=str(subject.model.resolve()),
                outputs=subject.outputs,
                threads=threads,
                batch_size=batch_size,
                length=length,
                vocab_size=subject.vocab_size,
            )
            workers.append(worker)
            loads.append(load)
            warm_ups.append(worker.ask("warm", seconds=_WARM_SECONDS))
        turn_ns = min(_TURN_SECONDS, min_seconds / _MIN_ROUNDS) * 1e9
        runs = [max(1, round(turn_ns / warm_up["median_ns"])) for warm_up in warm_ups]
        rounds = _take_rounds(workers, runs, min_seconds, tell)
        return [
            Timing(
                load_ms=loads[i]["load_ns"] / 1e6,
                first_inference_ms=warm_ups[i]["first_inference_ns"] / 1e6,
                warmup_runs=warm_ups[i]["runs"],
                rounds_ms=np.array(rounds[i], dtype=np.float64) / 1e6,
                peak_rss_bytes=worker.ask("memory")["peak_rss_bytes"],
                runtime_rss_bytes=worker.greeting["runtime_rss_bytes"],
                versions=worker.greeting["versions"],
            )
            for i, worker in enumerate(workers)
        ]


def _take_rounds(
    workers: Sequence[Worker], runs: Sequence[int], min_seconds: float, tell: Progress
) -> list[list[list[int]]]:
    """Nanoseconds of every run, by worker and round."""
    rounds: list[list[list[int]]] = [[] for _ in workers]
    timed_ns = [0] * len(workers)
    order = list(range(len(workers)))
    while len(rounds[0]) < _MIN_ROUNDS or min(timed_ns) < min_seconds * 1e9:
        tell("timing", min(1.0, len(rounds[0]) / _MIN_ROUNDS, min(timed_ns) / (min_seconds * 1e9)))
        for i in order:
            samples_ns = workers[i].ask("time", runs=runs[i])["samples_ns"]
            rounds[i].append(samples_ns)
            timed_ns[i] += sum(samples_ns)
        order.reverse()
    tell("timing", 1.0)
    return rounds


def _tell_nobody(_stage: str, _share: float) -> None:
    """Progress that nobody asked for."""
