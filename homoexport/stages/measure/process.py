"""The parent's end of a worker: ask a question, sleep until the answer is there, leave no process behind."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from homoexport.documents.document import first_fault
from homoexport.errors import DeviceError, HomoexportError, PackageError
from homoexport.runtime.worker.protocol import (
    PROTOCOL_VERSION,
    AnswerReply,
    ArrivalsReply,
    CountersReply,
    Greeting,
    GrowReply,
    InputsReply,
    InputsRequest,
    LoadReply,
    LoadRequest,
    MemoryReply,
    ModulesReply,
    Refusal,
    SamplesReply,
    SpinReply,
    StreamsReply,
    TimeReply,
    UnpinReply,
    WarmReply,
)
from homoexport.stages.measure.targets import OutOfMemory, Target

_EXIT_SECONDS = 5.0

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class _Answer:
    """What every line of a worker's has."""

    ok: bool


_ANSWER = TypeAdapter(_Answer)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks a reply of that kind: it may come from another machine, or out of a browser."""
    return TypeAdapter(kind)


class Worker:
    """A running worker. Use it as a context manager: leaving the block ends the process in any case."""

    def __init__(self, target: Target, *, subject: str) -> None:
        """Start a worker that is going to measure `subject` (for messages).

        Raises:
            DeviceError: the worker does not start, or dies at once.
            OutOfMemory: it has too little memory even to start.
        """
        self.subject = subject
        self._target = target
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self._process = target.start(self._stderr)
        except BaseException:
            self._stderr.close()
            raise
        try:
            self.greeting = self._receive(Greeting, "a start")
            assert self.greeting.protocol_version == PROTOCOL_VERSION
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process_id(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def load(self, request: LoadRequest) -> LoadReply:
        """Open a model. Like each of the requests below it sleeps, in a blocking read, until the reply is there.

        Raises:
            PackageError: the model cannot be loaded or run.
            OutOfMemory: the target has too little memory for it.
            DeviceError: the target is gone, or cannot do that.
            HomoexportError: the worker died by itself, or its reply is none.
        """
        return self._ask(LoadReply, "load", **vars(request))

    def inputs(self, request: InputsRequest) -> InputsReply:
        """Say what one inference is."""
        return self._ask(InputsReply, "inputs", **vars(request))

    def warm(self, *, seconds: float) -> WarmReply:
        """One first inference, then runs until the latency is steady, for so many seconds at most."""
        return self._ask(WarmReply, "warm", seconds=seconds)

    def time(self, *, runs: int, cores: Sequence[int] = ()) -> TimeReply:
        """Time so many inferences, on those cores; where it is if none are named."""
        return self._ask(TimeReply, "time", runs=runs, cores=list(cores) or None)

    def unpin(self) -> None:
        """Have it run on any core again."""
        self._ask(UnpinReply, "unpin")

    def answer(self, *, output: str) -> NDArray[np.float32]:
        """What the first batch is answered with, in the shape of that output."""
        reply = self._ask(AnswerReply, "answer", output=output)
        return np.frombuffer(base64.b64decode(reply.float32), dtype="<f4").reshape(reply.shape)

    def memory(self) -> MemoryReply:
        """Its resident memory."""
        return self._ask(MemoryReply, "memory")

    def grow(self, *, batch_size: int, length: int, vocab_size: int, shrink: bool) -> int | None:
        """Resident bytes after a batch of random token ids; `shrink` gives unused memory back after it."""
        fields = {"batch_sizes": [batch_size], "length": length, "vocab_size": vocab_size, "shrink": shrink}
        (rss_bytes,) = self._ask(GrowReply, "grow", **fields).rss_bytes
        return rss_bytes

    def streams(self, *, streams: int, seconds: float) -> StreamsReply:
        """So many callers that share the session, each asking again as soon as it is answered."""
        return self._ask(StreamsReply, "streams", streams=streams, seconds=seconds)

    def arrivals(self, *, rate_per_s: float, requests: int, seconds: float, seed: int) -> ArrivalsReply:
        """So many Poisson arrivals at a rate, for so many seconds at most."""
        fields = {"rate_per_s": rate_per_s, "requests": requests, "seconds": seconds, "seed": seed}
        return self._ask(ArrivalsReply, "arrivals", **fields)

    def tokenize(self, *, tokenizer: str, texts: Sequence[str], max_length: int, runs: int) -> list[int] | None:
        """Nanoseconds of each text's way to token ids; None without the library there."""
        fields = {"tokenizer": tokenizer, "texts": list(texts), "max_length": max_length, "runs": runs}
        return self._ask(SamplesReply, "tokenize", **fields).samples_ns

    def post(self, *, task: str, output: str, runs: int) -> list[int] | None:
        """Nanoseconds of what a caller does with a batch's answer; None where there is nothing to do."""
        return self._ask(SamplesReply, "post", task=task, output=output, runs=runs).samples_ns

    def spin(self, *, seconds: float, cores: Sequence[int] = ()) -> list[float]:
        """Nanoseconds of a fixed piece of work, again and again; cores that are named share the time."""
        return self._ask(SpinReply, "spin", seconds=seconds, cores=list(cores) or None).quanta_ns

    def counters(self) -> CountersReply:
        """Processor time so far."""
        return self._ask(CountersReply, "counters")

    def modules(self) -> list[str]:
        """What it has imported."""
        return self._ask(ModulesReply, "modules").modules

    def kill(self) -> None:
        """End the process at once and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # a request that the dead worker never read
                continue

    def _ask(self, kind: type[Reply], command: str, **fields: object) -> Reply:
        """Send one request, without the fields that are None, and wait for its reply."""
        assert self._process.stdin is not None
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            self._process.stdin.write(json.dumps({"command": command, **given}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._receive(kind, command)

    def _receive(self, kind: type[Reply], command: str) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        try:
            if _ANSWER.validate_json(line).ok:
                reply: Reply = _adapter(cast(Hashable, kind)).validate_json(line, strict=True)
                return reply
            refusal: Refusal = _adapter(Refusal).validate_json(line, strict=True)
        except ValidationError as error:
            what = f"the worker's reply to '{command}' is not of the protocol ({first_fault(error)})"
            raise HomoexportError(f"{self.subject}: {what}") from None
        if refusal.kind == "memory":
            raise OutOfMemory(f"needs more memory than there is ({refusal.error})", where=self.subject)
        if refusal.kind == "unsupported":
            raise DeviceError(refusal.error, where=self._target.name, hint="measure that on another device")
        raise PackageError(f"the worker cannot measure it ({refusal.error})", where=self.subject)

    def _death(self) -> HomoexportError:
        """What to say of a worker that is no more."""
        try:
            status = self._process.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            self._process.kill()
            status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        special = self._target.explain(status, "\n".join(said))
        if isinstance(special, OutOfMemory):
            return OutOfMemory(
                special.what,
                where=self.subject,
                hint="measure with a smaller batch or length, or with more memory",
            )
        if special is not None:
            return special
        if status < 0:
            return HomoexportError(f"{self.subject}: the worker died of {signal.Signals(-status).name}: {said[-1]}")
        return HomoexportError(f"{self.subject}: the worker ended with status {status}: {said[-1]}")
