"""What this machine is, from the standard library alone.

The core count is the one that the scheduler and the cgroup really give, not the host's.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from homoexport.cgroup import cpu_quota, memory_limit_bytes

_LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "ctranslate2",
    "numpy",
)
_INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)


def available_cores() -> int:
    """Cores that this process may use: its affinity, cut by the cgroup's quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that figures depend on, by package name."""
    versions = {"python": platform.python_version()}
    for name in ("homoexport", *_LIBRARIES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _memory_mb() -> int:
    """The machine's memory, cut by the cgroup's limit."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        installed = 0
    return min(installed, memory_limit_bytes() or installed) // 10**6


@dataclass(frozen=True)
class HostDescription:
    """CPU model, instruction sets, cores, memory and operating system of a machine."""

    cpu: str
    architecture: str
    instruction_sets: tuple[str, ...]
    cores: int
    available_cores: int
    memory_mb: int
    system: str


@dataclass(frozen=True)
class MeasuredHost(HostDescription):
    """The machine that was measured; a browser adds what it says of itself, its clock's step in microseconds."""

    cross_origin_isolated: bool | None = None
    clock_step_us: float | None = None
    gpu: str | None = None


@lru_cache(maxsize=1)
def describe_host() -> HostDescription:
    """This machine."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return HostDescription(
        cpu=cpu.get("model name", platform.processor() or platform.machine()),
        architecture=platform.machine(),
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in flags),
        cores=os.cpu_count() or 1,
        available_cores=available_cores(),
        memory_mb=_memory_mb(),
        system=f"{platform.system()} {platform.release()}",
    )
