"""What measuring needs of a target. A new target is a subclass of `Target`, and a line in `targets.KINDS`.

`tests/stages/measure/test_conformance.py` holds every target against it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import homoexport
from homoexport.choices import Runtime
from homoexport.documents.measurement import Limit, Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.lock import scratch_folder
from homoexport.runtime.installed import install_hint

WORKER_FILE = "worker.pyz"

_PACKAGE = Path(homoexport.__file__).parent
_WORKER_SOURCES = ("host.py", "cgroup.py", "telemetry.py", "runtime/__init__.py")
_WORKER_MAIN = "from homoexport.runtime.worker.serve import main\n\nmain()\n"
_WORKER_FACE = "from homoexport import telemetry\n"  # instead of the public verbs
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

    runtimes: tuple[Runtime, ...] = ("onnxruntime",)
    """What its workers can run models in."""

    def error(self, what: str, hint: str = "") -> DeviceError:
        """What is wrong with it."""
        return DeviceError(what, where=self.name, hint=hint)

    def needs(self) -> list[Need]:
        """What is missing here before it can be opened; quick, and nothing is started or connected to."""

    def open(self) -> None:
        """Make it ready. Once, before anything else but `needs`; raises DeviceError where it is not there."""

    def cores(self) -> int:
        """Cores that a worker may use there."""

    def limits(self) -> dict[str, Limit]:
        """Limits that hold there, by name."""
        return {}

    def place(self, files: Sequence[Path]) -> list[str]:
        """Have files there, side by side under their own names, and say where; what is there already stays."""

    def start(self, stderr: IO[bytes], runtime: Runtime = "onnxruntime") -> subprocess.Popen[bytes]:
        """A fresh worker with its stdin and stdout as pipes, and `stderr` for what it says besides.

        `runtime` is one of its `runtimes`.
        """

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """What a worker's end means here, by its exit status and last words; None where nothing is special."""

    def overhead_bytes(self, process_id: int) -> int:  # noqa: ARG002 - a target may need it
        """Of what a worker has resident now, what is not its own but the target's: an emulator's."""
        return 0

    def instructions(self, process_id: int) -> int | None:  # noqa: ARG002 - a target may need it
        """What a worker had run by the time of its last answer; None where nothing counts them."""
        return None

    def close(self) -> None:
        """Leave nothing behind but what is kept to be found again by its digest. All workers are gone."""


class TargetHere(Target):
    """Base of targets whose workers are processes of this machine.

    A subclass says in `_command` what starts a worker, and fills a folder of its own in `open`.
    """

    emulated = False
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(self, name: str) -> None:
        self.name = name
        self._left = ExitStack()

    def place(self, files: Sequence[Path]) -> list[str]:
        """The files are here already."""
        return [str(file.resolve()) for file in files]

    def start(self, stderr: IO[bytes], runtime: Runtime = "onnxruntime") -> subprocess.Popen[bytes]:
        command = [*self._command(), *([] if runtime == "onnxruntime" else [runtime])]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def explain(self, status: int, said: str) -> HomoexportError | None:  # noqa: ARG002 - the protocol's
        """A SIGKILL that nobody here sent is the kernel's, for want of memory."""
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return OutOfMemory("the worker was killed, most likely for want of memory", where=self.name)
        return None

    def close(self) -> None:
        self._left.close()

    def _new_folder(self) -> Path:
        """A folder that goes when the target is closed."""
        return self._left.enter_context(scratch_folder("homoexport-target-"))

    def _command(self) -> list[str]:
        """What starts a worker in onnxruntime; with another runtime's name behind it, in that."""
        raise NotImplementedError


def refuse_needs(needs: Sequence[Need], *, where: str) -> None:
    """Raise the first of the things that are missing, if anything is, with the command that gets it."""
    for need in needs:
        raise DeviceError(f"{need.what} is missing", where=where, hint=need.command)


def refuse_runtime(target: Target, runtime: Runtime, *, subject: str) -> None:
    """Raise where a target's workers cannot run a subject in a runtime, or its library is not installed."""
    if runtime not in target.runtimes:
        raise target.error(f"{subject} is for {runtime}, which runs on this machine's CPU alone", "measure on cpu")
    if hint := install_hint(runtime):
        raise target.error(f"{subject} is for {runtime}, which is not installed", hint)


def refuse_too_many(what: str, cores: int, here: int, *, where: str, why: str = "may be used") -> None:
    """Refuse more cores than there are."""
    if cores > here:
        there = f"{here} core{'s' * (here > 1)} {why}"
        raise DeviceError(f"{what} of {cores} where {there}", where=where, hint=f"ask for {here} or fewer")


class Options(BaseModel):
    """Base of the options of a kind of device."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


O = TypeVar("O", bound=Options)  # noqa: E741


def read_options(text: str, kind: type[O], *, device: str) -> O:
    """The options of `threads=1,memory=256MB`.

    Raises:
        DeviceError: an unknown or repeated one, or one without a value, or with one that cannot be.
        UserError: a size that cannot be read.
    """
    where, given = f"device {device}", dict[str, str]()
    for part in text.split(",") if text else ():
        key, _, value = part.partition("=")
        if key not in kind.model_fields or key in given or not value:
            known = ", ".join(kind.model_fields) or "none"
            raise DeviceError(f"cannot read '{part}'", where=where, hint=f"options are {known}")
        given[key] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0])
        hint = kind.model_fields[key].description or fault["msg"].lower()
        raise DeviceError(f"cannot read '{key}={given[key]}'", where=where, hint=hint) from None


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
        archive.writestr(zipfile.ZipInfo("homoexport/__init__.py", _EPOCH), _WORKER_FACE)
        for source in sources:
            name = f"homoexport/{source.relative_to(_PACKAGE).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), source.read_bytes())
    return path
