"""The core of measuring: several models timed in turns, each in a process of its own.

Sessions that live in one process spin on each other's cores, so every model has its own worker. In
a round each worker has its turn while the others, and the parent, sleep in a blocking read; every
other round goes backwards, so that no model always comes first. Whatever disturbs the machine thus
disturbs all models alike. Cores are not alike, least of all in a virtual machine, and a process tends to
stay on one: so all models of a round run on the same cores, and the rounds go over all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from homoexport.choices import TOO_NOISY, Runtime
from homoexport.documents.measurement import Failure, Noise
from homoexport.documents.package import parts_of, runtime_of
from homoexport.errors import DeviceError, UserError
from homoexport.runtime.worker.protocol import Greeting, InputsRequest, LoadReply, LoadRequest, WarmReply
from homoexport.stages.measure.intervals import FloatArray, speedup, verdict_of
from homoexport.stages.measure.noise import best_pace_us, calibrate, disturbed_rounds, has_quiet, judge_noise
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory, Target
from homoexport.stages.measure.targets.local import DATA_LIMIT

Figure = TypeVar("Figure")
Progress = Callable[[str, float], None]  # what is being done, and the share of it that is done (0 to 1)

MIN_ROUNDS = 20
_EMULATED_ROUNDS = 3  # an emulator's times say nothing, and it may take ten seconds for one run
_TURN_SECONDS = 0.1
WARM_SECONDS, WARM_RACE_SECONDS = 10.0, 0.1  # at most; in a race the first rounds, a few of many, warm the rest
_LOOK_EVERY = 5  # rounds: each look at the interval is a chance to be misled by it
_RACE_ROUNDS = 10  # after which a race may end
_MB = 10**6
_PATIENCE = 5  # rounds go on for up to this many times `min_seconds` while a comparison cannot be called


@dataclass(frozen=True)
class Subject:
    """One model to be timed, all its outputs where none are named.

    Token ids are random, below `vocab_size`, unless there are `rows` of them, those of real `texts`.
    """

    model: Path
    name: str
    vocab_size: int
    outputs: tuple[str, ...] | None = None
    texts: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] | None = None
    pad_token_id: int = 0
    tokenizer: Path | None = None

    @property
    def runtime(self) -> Runtime:
        """What runs it."""
        return runtime_of(self.model)

    @property
    def files(self) -> list[Path]:
        """The model first, its weights beside it, and the tokenizer last."""
        return [*parts_of(self.model), *([self.tokenizer] if self.tokenizer else [])]


@dataclass(frozen=True)
class Workload:
    """What one inference is: its threads, sequences, and tokens of each (of real texts, the most)."""

    threads: int
    batch_size: int
    length: int


@dataclass(eq=False)
class Running:
    """A worker with its model loaded and warm, and what it has answered so far. Times in nanoseconds."""

    subject: Subject
    worker: Worker
    batches: int
    load: LoadReply
    warm_up: WarmReply
    runtime_rss_bytes: int
    load_peak_bytes: int
    runs_per_round: int = 1
    rounds_ns: list[list[int]] = field(default_factory=list)
    waited_ns: list[int | None] = field(default_factory=list)
    energy_uj: list[int] = field(default_factory=list)
    energy_runs: int = 0

    @property
    def rounds_ms(self) -> FloatArray:
        """[R, K]: R rounds of K runs each, in the order in which they ran."""
        return np.array(self.rounds_ns, dtype=np.float64) / 1e6

    @property
    def disturbed_rounds(self) -> tuple[int, ...]:
        """The places of rounds in which it waited for a core."""
        return disturbed_rounds(self.rounds_ns, self.waited_ns)

    @property
    def energy_mj(self) -> float | None:
        """Millijoules of one inference."""
        return sum(self.energy_uj) / self.energy_runs / 1000 if self.energy_runs else None

    @property
    def timed_ns(self) -> int:
        return sum(map(sum, self.rounds_ns))

    @property
    def peak_bytes(self) -> int:
        """The most that the worker has had resident until now, with what loading took for a while."""
        return max(self.load_peak_bytes, self.worker.own_peak_bytes())

    def take_turn(self, cores: list[int]) -> None:
        """One round's runs, on those cores; on any where none are named."""
        reply = self.worker.time(runs=self.runs_per_round, cores=cores)
        self.rounds_ns.append(reply.samples_ns)
        self.waited_ns.append(reply.waited_ns)
        if reply.energy_uj is not None:
            self.energy_uj.append(reply.energy_uj)
            self.energy_runs += reply.energy_runs


@dataclass(eq=False)
class Session:
    """Workers that run side by side, and the models that did not fit. `greeting` is the first worker's."""

    target: Target
    workload: Workload
    greeting: Greeting | None = None
    running: list[Running] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    spin_us: list[float] = field(default_factory=list)

    @property
    def cores(self) -> list[int]:
        """Cores that workers can be moved among; none where that has no sense."""
        return [] if self.target.emulated or self.greeting is None else self.greeting.cores

    def fail(self, subject: Subject, stage: str, error: OutOfMemory) -> None:
        self.failures.append(Failure(package=subject.name, stage=stage, reason=error.what))

    def drop_too_big(self) -> None:
        """Hold packages to a limit of memory that is no limit of what they have resident, as RLIMIT_DATA is none."""
        limit = self.target.limits().get("memory_mb")
        if limit is None or limit.by != DATA_LIMIT:
            return
        for one in list(self.running):
            if (peak_mb := one.peak_bytes / _MB) > limit.limit:
                what = f"has {peak_mb:.1f} MB resident where {limit.limit:g} MB are given"
                self.fail(one.subject, "timing", OutOfMemory(what))
                self.running.remove(one)

    def fitting(self, subject: Subject, stage: str, measure: Callable[[], Figure]) -> Figure | None:
        """What is measured after the timing; where that takes too much memory, it is a failure."""
        try:
            return measure()
        except OutOfMemory as error:
            self.fail(subject, stage, error)
            return None


def check_request(target: Target, workload: Workload, *, min_seconds: float) -> None:
    """Refuse what cannot be measured on an open target: a figure that is not positive, more threads than cores."""
    for name, value in {**vars(workload), "min_seconds": min_seconds}.items():
        if value <= 0:
            raise UserError(f"{value} is not positive", where=name)
    if workload.threads > (cores := target.cores()):
        what = f"{workload.threads} threads where {cores} core{'s' * (cores > 1)} may be used"
        raise DeviceError(what, where="threads", hint=f"measure with {cores} or fewer")


@contextmanager
def running(
    subjects: Sequence[Subject],
    target: Target,
    workload: Workload,
    *,
    report: Progress,
    judged: bool = True,
    warm_seconds: float = WARM_SECONDS,
) -> Iterator[Session]:
    """Start a worker for every model, load and warm it; all are gone when the block is left.

    A model that does not fit into the target's memory is among the failures.

    Args:
        judged: whether the machine's noise is to be judged, for which a worker first spins for a while.
        warm_seconds: the most that a model is warmed for.

    Raises:
        PackageError: a file that its runtime cannot load or run.
        DeviceError: the target is gone, has not the runtime, or its provider cannot be used.
    """
    session = Session(target, workload)
    with ExitStack() as stack:
        for number, subject in enumerate(subjects):
            report(f"warming up {subject.name}", number / len(subjects))
            stage = "start"
            worker: Worker | None = None
            try:
                worker = stack.enter_context(Worker(target, subject=subject.name, runtime=subject.runtime))
                runtime = worker.greeting.runtime_rss_bytes - target.overhead_bytes(worker.process_id)
                if session.greeting is None:
                    session.greeting = worker.greeting
                    session.spin_us = calibrate(worker, session.cores) if judged else []
                stage = "load"
                load = load_model(worker, subject, threads=workload.threads)
                load_peak = worker.own_peak_bytes()
                stage = "first inference"
                batches = worker.inputs(inputs_request(subject, workload)).batches
                warm_up = worker.warm(seconds=0.0 if target.emulated else warm_seconds)
            except OutOfMemory as error:
                if worker is not None:
                    worker.kill()  # its memory is the others'
                session.fail(subject, stage, error)
                continue
            session.running.append(Running(subject, worker, batches, load, warm_up, runtime, load_peak))
        yield session


def load_model(worker: Worker, subject: Subject, *, threads: int) -> LoadReply:
    """Place a model on the worker's target, and have it loaded there.

    Raises:
        DeviceError: onnxruntime quietly took another provider than the target's, as it does where a GPU cannot be used.
    """
    target = worker.target
    load = worker.load(load_request(subject, target, threads=threads))
    if subject.runtime == "onnxruntime" and load.providers[:1] != list(target.providers[:1]):
        raise target.error(
            f"onnxruntime cannot use its {target.providers[0]} here and took {load.providers[0]} in its place",
            "see `homoexport devices`, and check the driver and the libraries that the provider needs",
        )
    return load


def load_request(subject: Subject, target: Target, *, threads: int) -> LoadRequest:
    """What a worker is to open for a subject, which is placed for it."""
    providers = target.providers if subject.runtime == "onnxruntime" else None
    return LoadRequest(target.place(subject.files)[0], threads, outputs=subject.outputs, providers=providers)


def inputs_request(subject: Subject, workload: Workload) -> InputsRequest:
    """What one inference is for a subject: its rows, or random token ids."""
    if subject.rows is None:
        return InputsRequest(workload.batch_size, workload.length, subject.vocab_size)
    return InputsRequest(workload.batch_size, rows=subject.rows, pad_token_id=subject.pad_token_id)


def take_rounds(
    session: Session, *, min_seconds: float, report: Progress, patient: bool = True, race: bool = False
) -> Noise | None:
    """Time all models in turns until each has its share, and until every comparison can be called.

    Each has at least 20 rounds and `min_seconds`; where a comparison with the first is too noisy to call, or a model
    had its cores to itself in too few rounds, they go on for up to five times that. Under an emulator it is three
    rounds of one run. A model that needs more memory than there is leaves, and is among the failures.

    Args:
        session: the workers; what they say is added to them.
        patient: whether rounds go on for the sake of the comparisons and of quiet rounds.
        race: whether the fastest alone is looked for: what can be called slower than it has no more turns, and it ends
            where all that are left can be called as fast.

    Returns:
        What disturbed it; None where no model fits, or nobody asked.
    """
    if session.target.emulated:
        min_seconds, patient = 1e-9, False
    least_rounds = _EMULATED_ROUNDS if session.target.emulated else MIN_ROUNDS
    turn_ns = min(_TURN_SECONDS, min_seconds / MIN_ROUNDS) * 1e9
    for one in session.running:
        turns = max(1, round(turn_ns / one.warm_up.median_ns / one.batches))
        one.runs_per_round = turns * one.batches  # so that every round is of the same texts
    before = [(one, one.worker.counters()) for one in session.running]
    order = list(session.running)
    while order:
        least_ns, rounds = min(one.timed_ns for one in order), len(order[0].rounds_ns)
        if rounds >= least_rounds and least_ns >= min_seconds * 1e9:
            patience = _PATIENCE * max(min_seconds * 1e9, turn_ns * MIN_ROUNDS) if patient else 0
            if least_ns >= patience or (rounds % _LOOK_EVERY == 0 and not _undecided(session.running)):
                break
        if race and rounds and rounds % _LOOK_EVERY == 0:
            order = _not_slower(order)
            if rounds >= _RACE_ROUNDS and _are_alike(order):
                break
        report("timing", min(1.0, rounds / least_rounds, least_ns / (min_seconds * 1e9)))
        cores = _cores_of_round(session.cores, session.workload.threads, rounds)
        for one in list(order):
            try:
                one.take_turn(cores)
            except OutOfMemory as error:
                one.worker.kill()  # its memory is the others'
                session.fail(one.subject, "timing", error)
                session.running.remove(one)
                order.remove(one)
        order.reverse()
    report("timing", 1.0)
    for one in session.running if session.cores else ():
        one.worker.unpin()
    session.drop_too_big()
    if not session.spin_us or not session.running or session.greeting is None:
        return None
    pairs = [(early, one.worker.counters()) for one, early in before if one in session.running]
    after_us: list[float] = []
    with suppress(OutOfMemory):  # of a worker that has not a byte left
        after_us = calibrate(session.running[0].worker, session.cores)
    fastest_us = min(filter(None, (session.spin_us, after_us)), key=np.median)
    best_us = best_pace_us(session.target, session.greeting, fastest_us)
    return judge_noise(session.spin_us, pairs, after_us=after_us, best_us=best_us)


def _cores_of_round(cores: Sequence[int], threads: int, rounds: int) -> list[int]:
    """As many cores as threads, the next ones every other round; none where there are too few alike."""
    if len(cores) < threads:
        return []
    start = rounds // 2 * threads
    return [cores[(start + i) % len(cores)] for i in range(threads)]


def _not_slower(running: Sequence[Running]) -> list[Running]:
    """All but those that can be called slower than the fastest, by the same rounds."""
    fastest = min(running, key=lambda one: float(np.median(one.rounds_ms)))
    return [one for one in running if verdict_of(*speedup(fastest.rounds_ms, one.rounds_ms)) != "slower"]


def _are_alike(running: Sequence[Running]) -> bool:
    first, *others = running
    return all(verdict_of(*speedup(first.rounds_ms, other.rounds_ms)) == "same" for other in others)


def _undecided(running: Sequence[Running]) -> bool:
    first, *others = running
    if not all(has_quiet(len(one.rounds_ns), one.disturbed_rounds) for one in running):
        return True
    return any(verdict_of(*speedup(first.rounds_ms, other.rounds_ms)) == TOO_NOISY for other in others)
