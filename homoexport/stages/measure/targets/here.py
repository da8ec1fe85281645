"""What targets share whose workers are processes of this machine."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from homoexport.errors import HomoexportError
from homoexport.stages.measure.targets.protocol import OutOfMemory, Target


class TargetHere(Target):
    """Base of these: a subclass says in `_command` what starts a worker, and fills a folder of its own in `open`."""

    emulated = False
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def place(self, files: Sequence[Path]) -> list[str]:
        """The files are here already."""
        return [str(file.resolve()) for file in files]

    def start(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """A worker, isolated from the environment's Python settings."""
        return subprocess.Popen(self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def explain(self, status: int, said: str) -> HomoexportError | None:  # noqa: ARG002 - the protocol's
        """A SIGKILL that nobody here sent is the kernel's, for want of memory."""
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return OutOfMemory("the worker was killed, most likely for want of memory", where=self.name)
        return None

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()

    def _new_folder(self) -> Path:
        """A folder that goes when the target is closed."""
        self._folder = tempfile.TemporaryDirectory(prefix="homoexport-target-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def _command(self) -> list[str]:
        raise NotImplementedError
