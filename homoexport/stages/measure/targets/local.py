"""This machine: its CPU, its CPU under limits or through OpenVINO, its GPU."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from typing import IO, Annotated

import onnxruntime as ort
from pydantic import BeforeValidator, PositiveFloat, PositiveInt

from homoexport.cgroup import ChildGroups
from homoexport.choices import OTHER_RUNTIMES, Runtime
from homoexport.documents.measurement import Limit, Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.host import available_cores
from homoexport.stages.measure.targets.protocol import (
    Options,
    OutOfMemory,
    Target,
    TargetHere,
    build_worker,
    read_options,
    refuse_needs,
    refuse_too_many,
)
from homoexport.units import parse_bytes

_JOIN_AND_RUN = 'for group in $1; do echo 0 > "$group/cgroup.procs" || exit 125; done; shift; exec "$@"'
_LIMIT_AND_RUN = 'ulimit -d "$1" || exit 125; shift; exec "$@"'  # RLIMIT_DATA, in kibibytes
DATA_LIMIT = "RLIMIT_DATA"  # what enforces a limit of memory where no control group may be made
_MEMORY_SIGNS = (
    "MemoryError",
    "bad_alloc",
    "Cannot allocate memory",
    "failed to map segment",
    "cannot map zero-fill pages",
    "OpenBLAS: malloc failed",
)
_BUILDS = {
    "CPUExecutionProvider": "pip install onnxruntime",
    "CUDAExecutionProvider": "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "OpenVINOExecutionProvider": "pip uninstall -y onnxruntime && pip install onnxruntime-openvino",
}
_ACCELERATORS = {"cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider"}
_MB = 10**6


class CpuOptions(Options):
    """Cores, memory, and cores' worth of time (such as 0.5) that a worker may use."""

    threads: PositiveInt | None = None
    memory: Annotated[int, BeforeValidator(lambda text: parse_bytes(text, where="device"))] | None = None
    quota: PositiveFloat | None = None


def parse_cpu(device: str, options: str) -> LocalCpu:
    """`cpu`, or `cpu:threads=1,memory=256MB,quota=0.5`."""
    return LimitedCpu(device, read_options(options, CpuOptions, device=device)) if options else LocalCpu(device)


def parse_accelerated(device: str, options: str) -> LocalCpu:
    """`cuda`: the first GPU; `openvino`: this CPU through OpenVINO."""
    read_options(options, Options, device=device)
    return LocalCpu(device, (_ACCELERATORS[device.partition(":")[0]], "CPUExecutionProvider"))


class LocalCpu(TargetHere):
    """This machine's CPU; or its GPU, or its CPU through OpenVINO, where the providers say so."""

    def __init__(self, name: str = "cpu", providers: tuple[str, ...] = TargetHere.providers) -> None:
        super().__init__(name)
        self.providers = providers
        if providers == TargetHere.providers:
            self.runtimes = ("onnxruntime", *OTHER_RUNTIMES)

    def needs(self) -> list[Need]:
        """An onnxruntime that was built with the provider."""
        there = ort.get_available_providers()
        return [
            Need(what=f"onnxruntime's {name}", command=_BUILDS[name]) for name in self.providers if name not in there
        ]

    def open(self) -> None:
        """Pack the worker."""
        refuse_needs(self.needs(), where=self.name)
        self._worker = build_worker(self._new_folder())

    def cores(self) -> int:
        return available_cores()

    def _command(self) -> list[str]:
        return [sys.executable, "-I", str(self._worker)]


def is_plain_cpu(target: Target) -> bool:
    """Whether it runs what this machine's CPU runs: the same processor, with the same kernels."""
    return isinstance(target, LocalCpu) and target.providers == ("CPUExecutionProvider",)


class LimitedCpu(LocalCpu):
    """This machine's CPU with fewer cores, a quota of their time, or less memory."""

    def __init__(self, name: str, options: CpuOptions) -> None:
        super().__init__(name)
        self._threads, self._memory_bytes, self._quota = options.threads, options.memory, options.quota
        self._groups: ChildGroups | None = None
        self._numbers = count()
        self._affinity: set[int] = set()

    def open(self) -> None:
        """Find out what can enforce the limits."""
        super().open()
        here = available_cores()
        wanted = self._threads or min(here, math.ceil(self._quota or here))
        refuse_too_many("threads", wanted, here, where=self.name)
        refuse_too_many("quota", math.ceil(self._quota or 0), here, where=self.name)
        self._affinity = set(sorted(os.sched_getaffinity(0))[:wanted])
        if self._quota is None and self._memory_bytes is None:
            return
        try:
            self._groups = self._usable_groups()
        except OSError as refusal:
            if self._quota is not None and self._quota < wanted:
                raise self._no_quota(self._quota, refusal) from None

    def _usable_groups(self) -> ChildGroups:
        """Groups that a worker can be put into, after one of them was made and removed."""
        groups = ChildGroups(quota=self._quota, memory_bytes=self._memory_bytes)
        try:
            probe = groups.make("probe")
            joined = subprocess.run(_under(_JOIN_AND_RUN, " ".join(map(str, probe)), ["true"]), check=False)
            if joined.returncode:
                raise PermissionError(errno.EACCES, "no process can be moved into it")
        finally:
            groups.remove()
        return groups

    def _no_quota(self, quota: float, refusal: OSError) -> DeviceError:
        if refusal.errno == errno.EINVAL:
            hint = "ask for more: it gives a hundredth of a core at the least"
            return self.error(f"the kernel refuses a quota of {quota:g}", hint)
        what = f"a quota of {quota:g} needs a control group, which may not be made here ({refusal})"
        hint = "run it as root, or by your own systemd (systemd-run --user --scope homoexport ...), or leave it out"
        return self.error(what, hint)

    def cores(self) -> int:
        return len(self._affinity)

    def limits(self) -> dict[str, Limit]:
        """Each limit with what enforces it."""
        by_group = f"cgroup v{self._groups.version}" if self._groups else None
        limits = {"cores": Limit(limit=self.cores(), by="sched_setaffinity")}
        if self._quota is not None:
            limits["quota"] = Limit(limit=self._quota, by=by_group or "sched_setaffinity")
        if self._memory_bytes is not None:
            limits["memory_mb"] = Limit(limit=self._memory_bytes / _MB, by=by_group or DATA_LIMIT)
        return limits

    def start(self, stderr: IO[bytes], runtime: Runtime = "onnxruntime") -> subprocess.Popen[bytes]:
        """A worker in groups of its own, or with limits of its own."""
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._affinity)  # of this thread, and of what it starts
        try:
            return super().start(stderr, runtime)
        finally:
            os.sched_setaffinity(0, mine)

    def _command(self) -> list[str]:
        if self._groups is not None:
            groups = self._groups.make(str(next(self._numbers)))
            return _under(_JOIN_AND_RUN, " ".join(map(str, groups)), super()._command())
        if self._memory_bytes is not None:
            return _under(_LIMIT_AND_RUN, str(self._memory_bytes // 1024), super()._command())
        return super()._command()

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """Out of memory shows as SIGKILL under a group, and as all kinds of deaths under a resource limit."""
        killed = super().explain(status, said)
        if self._memory_bytes is None:
            return killed
        crashed = status in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
        if killed or crashed or any(sign in said for sign in _MEMORY_SIGNS):
            what = f"needs more than the {self._memory_bytes / _MB:g} MB that it was given"
            return OutOfMemory(what, where=self.name)
        return None

    def close(self) -> None:
        if self._groups is not None:
            self._groups.remove()
        super().close()


def _under(script: str, argument: str, command: Sequence[str]) -> list[str]:
    """A command that a line of shell starts."""
    return ["/bin/sh", "-c", script, "sh", argument, *command]
