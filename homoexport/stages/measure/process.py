"""The parent's end of a worker: ask a question, sleep until the answer is there, leave no process behind.

The requests are explained in `homoexport.runtime.worker.protocol`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from homoexport.choices import Runtime
from homoexport.documents.document import first_fault
from homoexport.errors import DeviceError, HomoexportError, PackageError
from homoexport.limits import MB, SECONDS_PER_TOKEN, limit, raise_hint
from homoexport.runtime.worker import protocol
from homoexport.stages.measure.targets import OutOfMemory, Target, refuse_runtime

_EXIT_SECONDS = 5.0
_EMULATED = 10.0  # times as long may an emulator take
_WARM_WINDOWS = 3  # that a worker needs at least

Reply = TypeVar("Reply")


@dataclass(frozen=True)
class _Answer:
    """What every line of a worker's has."""

    ok: bool


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks a reply of that kind: it may come from another machine, or out of a browser."""
    return TypeAdapter(kind)


class Worker:
    """A running worker. Use it as a context manager: leaving the block ends the process in any case."""

    def __init__(self, target: Target, *, subject: str, runtime: Runtime = "onnxruntime") -> None:
        """Start a worker that is going to measure `subject` (for messages) in a runtime; raises as `load` does."""
        refuse_runtime(target, runtime, subject=subject)
        self.subject, self.target = subject, target
        self._tokens, self._batches = 0, 1  # of one inference; of them all
        self._ahead = b""  # what was read beyond a reply
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self._process = target.start(self._stderr, runtime)
        except BaseException:
            self._stderr.close()
            raise
        try:
            self.greeting = self._receive(protocol.Greeting, "a start")
            assert self.greeting.protocol_version == protocol.PROTOCOL_VERSION
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.kill()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def load(self, request: protocol.LoadRequest) -> protocol.LoadReply:
        """Open a model. Like each of the requests below it sleeps, in a blocking read, until the reply is there.

        Raises:
            PackageError: the model cannot be loaded or run.
            OutOfMemory: the target has too little memory for it.
            DeviceError: the target is gone, or cannot do that.
            HomoexportError: the worker died by itself, or its reply is none.
        """
        return self._ask(protocol.LoadReply, "load", **vars(request))

    def inputs(self, request: protocol.InputsRequest) -> protocol.InputsReply:
        length = request.length if request.rows is None else max(map(len, request.rows), default=0)
        self._tokens = request.batch_size * length
        reply = self._ask(protocol.InputsReply, "inputs", **vars(request))
        self._batches = reply.batches
        return reply

    def warm(self, *, seconds: float) -> protocol.WarmReply:
        return self._ask(protocol.WarmReply, "warm", seconds=seconds)

    def time(self, *, runs: int, cores: Sequence[int] = ()) -> protocol.TimeReply:
        return self._ask(protocol.TimeReply, "time", runs=runs, cores=list(cores) or None)

    def unpin(self) -> None:
        self._ask(protocol.UnpinReply, "unpin")

    def answer(self, *, output: str) -> NDArray[np.float32]:
        """In the shape of that output."""
        reply = self._ask(protocol.AnswerReply, "answer", output=output)
        return np.frombuffer(base64.b64decode(reply.float32), dtype="<f4").reshape(reply.shape)

    def memory(self) -> protocol.MemoryReply:
        return self._ask(protocol.MemoryReply, "memory")

    def own_peak_bytes(self) -> int:
        """The most that it has had resident, less the target's overhead now."""
        return self.memory().peak_rss_bytes - self.target.overhead_bytes(self.process_id)

    def instructions(self) -> int | None:
        """What it had run by its last reply; None where nothing counts them."""
        return self.target.instructions(self.process_id)

    def once(self, *, shrink: bool) -> protocol.MemoryReply:
        return self._ask(protocol.MemoryReply, "once", shrink=shrink)

    def streams(self, *, streams: int, seconds: float) -> protocol.StreamsReply:
        return self._ask(protocol.StreamsReply, "streams", streams=streams, seconds=seconds)

    def arrivals(self, *, rate_per_s: float, requests: int, seconds: float, seed: int) -> protocol.ArrivalsReply:
        fields = {"rate_per_s": rate_per_s, "requests": requests, "seconds": seconds, "seed": seed}
        return self._ask(protocol.ArrivalsReply, "arrivals", **fields)

    def tokenize(self, *, tokenizer: str, texts: Sequence[str], max_length: int, runs: int) -> list[int] | None:
        """Nanoseconds by text."""
        fields = {"tokenizer": tokenizer, "texts": list(texts), "max_length": max_length, "runs": runs}
        return self._ask(protocol.SamplesReply, "tokenize", **fields).samples_ns

    def post(self, *, task: str, output: str, runs: int) -> list[int] | None:
        """Nanoseconds by batch."""
        return self._ask(protocol.SamplesReply, "post", task=task, output=output, runs=runs).samples_ns

    def spin(self, *, seconds: float, cores: Sequence[int] = ()) -> list[float]:
        return self._ask(protocol.SpinReply, "spin", seconds=seconds, cores=list(cores) or None).quanta_ns

    def counters(self) -> protocol.CountersReply:
        return self._ask(protocol.CountersReply, "counters")

    def kill(self) -> None:
        """End the process at once and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a request that the dead worker never read
                pipe.close()

    def _ask(self, kind: type[Reply], command: str, **fields: object) -> Reply:
        assert self._process.stdin is not None
        given: dict[str, Any] = {
            name: value for name, value in fields.items() if value is not None
        }  # others have their defaults
        try:
            self._process.stdin.write(json.dumps({"command": command, **given}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._receive(kind, command, self._expected_seconds(command, given))

    def _expected_seconds(self, command: str, given: Mapping[str, Any]) -> float:
        """What a request asks for takes at most, on a slow machine."""
        inferences = _WARM_WINDOWS * self._batches if command == "warm" else given.get("runs", given.get("requests", 0))
        return float(given.get("seconds", 0.0)) + (1 + inferences) * self._tokens * SECONDS_PER_TOKEN

    def _receive(self, kind: type[Reply], command: str, seconds: float = 0.0) -> Reply:
        """The reply, which may take so many seconds by what was asked, and what the limit allows on top."""
        line = self._line(command, (seconds + limit("answer_seconds")) * (_EMULATED if self.target.emulated else 1.0))
        try:
            if _adapter(_Answer).validate_json(line).ok:
                reply: Reply = _adapter(cast(Hashable, kind)).validate_json(line, strict=True)
                return reply
            refusal: protocol.Refusal = _adapter(protocol.Refusal).validate_json(line, strict=True)
        except ValidationError as error:
            what = f"the worker's reply to '{command}' is not of the protocol ({first_fault(error)})"
            raise HomoexportError(f"{self.subject}: {what}") from None
        if refusal.kind == "memory":
            raise OutOfMemory(f"needs more memory than there is ({refusal.error})", where=self.subject)
        if refusal.kind == "unsupported":
            raise DeviceError(refusal.error, where=self.target.name, hint="measure that on another device")
        raise PackageError(f"the worker cannot measure it ({refusal.error})", where=self.subject)

    def _line(self, command: str, seconds: float) -> bytes:
        assert self._process.stdout is not None
        pipe, line, until = self._process.stdout.fileno(), bytearray(self._ahead), time.monotonic() + seconds
        while b"\n" not in line[-(1 << 16) :]:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                what = f"does not answer '{command}' within {seconds:.0f} seconds"
                raise PackageError(what, where=self.subject, hint=raise_hint("answer_seconds"))
            part = os.read(pipe, 1 << 16)
            if not part:
                raise self._death()
            line += part
            if len(line) > limit("whole_mb") * MB:
                what = f"its answer to '{command}' has no end"
                raise PackageError(what, where=self.subject, hint=raise_hint("whole_mb"))
        reply, _, self._ahead = bytes(line).partition(b"\n")
        return reply

    def _death(self) -> HomoexportError:
        try:
            status = self._process.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            self._process.kill()
            status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        special = self.target.explain(status, "\n".join(said))
        if isinstance(special, OutOfMemory):
            hint = "measure with a smaller batch or length, or with more memory"
            return OutOfMemory(special.what, where=self.subject, hint=hint)
        if special is not None:
            return special
        end = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return HomoexportError(f"{self.subject}: the worker {end}: {said[-1]}")
