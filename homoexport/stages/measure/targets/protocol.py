"""What measuring needs of a target. A new target is a subclass of `Target`, and a line in `targets.KINDS`.

`tests/stages/measure/test_conformance.py` holds every target against it.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import homoexport
from homoexport.documents.measurement import Limit, Need
from homoexport.errors import DeviceError, HomoexportError

WORKER_FILE = "worker.pyz"

_PACKAGE = Path(homoexport.__file__).parent
_WORKER_SOURCES = ("__init__.py", "host.py", "cgroup.py", "runtime/__init__.py")
_WORKER_MAIN = "from homoexport.runtime.worker.serve import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date of the format: the same sources are the same bytes


class OutOfMemory(DeviceError):
    """A package that needs more memory than the target gives: a result, which measuring reports."""


class Target(Protocol):
    """Somewhere to measure."""

    name: str
    """As the user wrote it."""

    emulated: bool
    """Whether another processor is imitated there, so that its times say nothing of the real one."""

    providers: tuple[str, ...]
    """onnxruntime's execution providers, the preferred one first."""

    def needs(self) -> list[Need]:
        """What is missing here before it can be opened; quick, and nothing is started or connected to."""

    def open(self) -> None:
        """Make it ready. Once, before anything else but `needs`.

        Raises:
            DeviceError: it is not there, or lacks something; with the hint.
        """

    def cores(self) -> int:
        """Cores that a worker may use there."""

    def limits(self) -> dict[str, Limit]:
        """Limits that hold there, by name; none unless a target says otherwise."""
        return {}

    def place(self, files: Sequence[Path]) -> list[str]:
        """Have files there, side by side under their own names, and say where; what is there already stays.

        Raises:
            DeviceError: there is no room, or no way there any more.
        """

    def start(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """A fresh worker with its stdin and stdout as pipes, and `stderr` for what it says besides."""

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """What a worker's end means here, by its exit status and last words; None where nothing is special."""

    def overhead_bytes(self, process_id: int) -> int:  # noqa: ARG002 - a target may need it
        """Of what a worker has resident now, what is not its own but the target's: an emulator's."""
        return 0

    def close(self) -> None:
        """Leave nothing behind but what is kept to be found again by its digest. All workers are gone."""


def refuse_needs(target: Target) -> None:
    """Raise what `needs` says, if anything.

    Raises:
        DeviceError: the first thing that is missing, with the command that gets it.
    """
    for need in target.needs():
        raise DeviceError(f"{need.what} is missing", where=target.name, hint=need.command)


def read_options(text: str, *, device: str, known: Sequence[str]) -> dict[str, str]:
    """The options of `threads=1,memory=256MB`.

    Raises:
        DeviceError: an unknown or repeated one, or one without a value.
    """
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in known or key in options or not value:
            raise DeviceError(
                f"cannot read '{part}'", where=f"--device {device}", hint=f"options are {', '.join(known)}"
            )
        options[key] = value
    return options


def cache_folder() -> Path:
    """Where things are kept that can be had again: $HOMOEXPORT_CACHE, or `homoexport` in the user's cache."""
    if own := os.environ.get("HOMOEXPORT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "homoexport"


def build_worker(folder: Path) -> Path:
    """The worker as one zip file in `folder`; any Python with onnxruntime runs it."""
    path = folder / WORKER_FILE
    sources = [_PACKAGE / name for name in _WORKER_SOURCES] + sorted((_PACKAGE / "runtime" / "worker").glob("*.py"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), _WORKER_MAIN)
        for source in sources:
            name = f"homoexport/{source.relative_to(_PACKAGE).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), source.read_bytes())
    return path
