"""The parent's end of a worker: ask a question, sleep until the answer is there, leave no process behind."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any

from homoexport.errors import DeviceError, HomoexportError, PackageError
from homoexport.measure.targets import OutOfMemory, Target
from homoexport.runtime.worker import PROTOCOL_VERSION

_EXIT_SECONDS = 5.0


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
            self.greeting = self._receive()
            assert self.greeting["protocol_version"] == PROTOCOL_VERSION
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

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send one request and sleep (in a blocking read) until it is answered.

        Raises:
            PackageError: the model cannot be loaded or run.
            OutOfMemory: the target has too little memory for it.
            DeviceError: the target is gone.
            HomoexportError: the worker died by itself.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._receive()

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

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        if not reply.pop("ok"):
            if reply["kind"] == "memory":
                raise OutOfMemory(f"needs more memory than there is ({reply['error']})", where=self.subject)
            if reply["kind"] == "unsupported":
                raise DeviceError(reply["error"], where=self._target.name, hint="measure that on another device")
            raise PackageError(f"the worker cannot measure it ({reply['error']})", where=self.subject)
        return reply

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
