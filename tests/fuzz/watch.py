"""What must not happen while an input of a stranger is read.

An exception that is none of homoexport's; more than ten seconds; more than 1 GB beyond what the process held before;
a file changed outside of the folder that is given; a program started, a name looked up, a connection made.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
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
_CHANGES = {
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"),
}
_REACHES = {
    *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.getnameinfo"),
    *("socket.gethostbyname", "socket.gethostbyaddr"),
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
}
_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TooLongError(BaseException):
    """An input that takes more than its seconds."""


class Watch:
    """Counts the inputs of a target, and raises AssertionError at the first that does what none may do."""

    def __init__(self, inside: Path) -> None:
        self._inside = inside.resolve()
        self._forbidden = ""
        self._is_on = False
        self.inputs = self.refused = 0
        self.slowest = 0.0
        self.megabytes = 0  # the most that one input took, beyond what there was before it
        gc.collect()  # what earlier tests left would hide what an input takes: freed meanwhile, or taken again
        ctypes.CDLL(None).malloc_trim(0)
        signal.signal(signal.SIGALRM, _alarm)
        sys.addaudithook(self._hear)

    def read(self, reader: Callable[[], object]) -> None:
        """Have one input read, and check what became of it."""
        self.inputs += 1
        _FORGET_PEAK.write_text("5")
        held_kb, began = _peak_kb(), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)  # again and again, for a guard may swallow one
        self._is_on = True
        told = None
        try:
            reader()
        except HomoexportError as error:
            told = str(error)
        finally:
            self._is_on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.monotonic() - began
            self.slowest = max(self.slowest, took)
            self.megabytes = max(self.megabytes, (_peak_kb() - held_kb) // 1024)
        self.refused += told is not None
        assert told is None or (told.strip() and "\n" not in told), "an error that is not one line"
        assert took < SECONDS, f"{took:.1f} seconds"
        assert not self._forbidden, self._forbidden
        assert self.megabytes < MEGABYTES, f"{self.megabytes} MB"

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        with suppress(Exception):
            writes = event == "open" and isinstance(given[2], int) and given[2] & _WRITING
            paths = given[:1] if writes else given[:2] if event in _CHANGES else ()
            if event in _REACHES or any(map(self._is_outside, paths)):
                self._forbidden = f"{event} {given[:2]}"

    def _is_outside(self, given: object) -> bool:
        if not isinstance(given, str | bytes | os.PathLike):
            return False
        path = os.path.realpath(os.fsdecode(given))
        return not Path(path).is_relative_to(self._inside) and path != os.devnull


def _peak_kb() -> int:
    (found,) = re.findall(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
    return int(found)


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError(f"more than {SECONDS} seconds")
