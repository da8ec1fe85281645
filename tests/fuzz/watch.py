"""What must not happen while an input of a stranger is read.

An exception that is none of homoexport's; more than ten seconds; more than 1 GB beyond what the process began with; a
file written outside of the folder that is given; a program started, a connection made.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from homoexport.errors import HomoexportError

SECONDS, MEGABYTES = 10, 1000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
_REACHES = {"socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"}


class TooLongError(BaseException):
    """An input that takes more than its seconds."""


class Watch:
    """Counts the inputs of a target, and raises AssertionError at the first that does what none may do."""

    def __init__(self, inside: Path) -> None:
        self._inside = str(inside.resolve())
        self._forbidden = ""
        self._is_on = False
        self._began_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.inputs = self.refused = 0
        self.slowest = 0.0
        signal.signal(signal.SIGALRM, _alarm)
        sys.addaudithook(self._hear)

    @property
    def megabytes(self) -> int:
        """The most memory so far, beyond what there was at first."""
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._began_kb) // 1024

    def read(self, reader: Callable[[], object]) -> None:
        """Have one input read, and check what became of it."""
        self.inputs += 1
        began = time.monotonic()
        signal.alarm(SECONDS)
        self._is_on = True
        told = None
        try:
            reader()
        except HomoexportError as error:
            told = str(error)
        finally:
            self._is_on = False
            signal.alarm(0)
            self.slowest = max(self.slowest, time.monotonic() - began)
        self.refused += told is not None
        assert told is None or (told.strip() and "\n" not in told), "an error that is not one line"
        assert not self._forbidden, self._forbidden
        assert self.megabytes < MEGABYTES, f"{self.megabytes} MB"

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        with suppress(Exception):
            writes = event == "open" and isinstance(given[2], int) and given[2] & _WRITING
            path = given[0] if writes or event in _CHANGES else None
            outside = isinstance(path, str | bytes) and not os.path.realpath(os.fsdecode(path)).startswith(self._inside)
            if event in _REACHES or (outside and os.fsdecode(path) != os.devnull):
                self._forbidden = f"{event} {given[:2]}"


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError(f"more than {SECONDS} seconds")
