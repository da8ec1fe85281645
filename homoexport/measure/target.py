"""Targets: where packages are measured. A target is a way to start a worker, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO, Protocol

from homoexport.errors import DeviceError
from homoexport.host import available_cores

WORKER = Path(__file__).with_name("worker.py")


class Target(Protocol):
    """What measuring needs of a target."""

    name: str

    def cores(self) -> int:
        """Cores that a worker may use there."""

    def start(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """A fresh worker with its stdin and stdout as pipes, and `stderr` for what it says besides."""


class LocalCpu:
    """This machine's CPU."""

    name = "cpu"

    def cores(self) -> int:
        """Cores that the scheduler and the cgroup give to this process."""
        return available_cores()

    def start(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """A worker in this interpreter, isolated from the environment's Python settings."""
        return subprocess.Popen(
            [sys.executable, "-I", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )


_TARGETS: dict[str, Target] = {"cpu": LocalCpu()}


def find_target(device: str) -> Target:
    """The target of that name.

    Raises:
        DeviceError: there is no such target.
    """
    if device not in _TARGETS:
        raise DeviceError(f"unknown device '{device}'", where="--device", mend=f"name one of: {', '.join(_TARGETS)}")
    return _TARGETS[device]
