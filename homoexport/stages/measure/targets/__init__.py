"""Targets: where packages are measured. A target is a way to start a worker and to have files there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from homoexport.errors import DeviceError
from homoexport.stages.measure.targets.emulated import parse_emulated
from homoexport.stages.measure.targets.local import LocalCpu, is_plain_cpu, parse_accelerated, parse_cpu
from homoexport.stages.measure.targets.protocol import OutOfMemory, Target, cache_folder, refuse_runtime
from homoexport.stages.measure.targets.ssh import parse_ssh
from homoexport.stages.measure.targets.web import parse_web

__all__ = [
    "KINDS",
    "LocalCpu",
    "OutOfMemory",
    "Target",
    "cache_folder",
    "find_target",
    "is_plain_cpu",
    "open_target",
    "refuse_runtime",
]

# How each kind of device is written; the parser takes the whole and what follows the first colon.
KINDS: dict[str, tuple[Callable[[str, str], Target], str]] = {
    "cpu": (parse_cpu, "cpu, or cpu:threads=1,memory=256MB,quota=0.5"),
    "cuda": (parse_accelerated, "cuda"),
    "openvino": (parse_accelerated, "openvino"),
    "arm64": (parse_emulated, "arm64, or arm64:cortex-a53 (-a57, -a72, -a76, neoverse-n1, armv8.6)"),
    "x86": (parse_emulated, "x86:haswell (nehalem, sandybridge, skylake-server, epyc)"),
    "web": (parse_web, "web, or web:threads=2,backend=webgpu,browser=PATH"),
    "ssh": (parse_ssh, "ssh://[user@]host[:port]?python=PATH,cache=FOLDER"),
}


def find_target(device: str) -> Target:
    """The target that a device names, not open yet.

    Raises:
        DeviceError: there is no such target, or an option of it cannot be read.
    """
    kind, _, options = device.partition(":")
    if kind not in KINDS:
        raise DeviceError(f"unknown device '{device}'", where="device", hint=f"name one of: {', '.join(KINDS)}")
    return KINDS[kind][0](device, options)


@contextmanager
def open_target(device: str) -> Iterator[Target]:
    """The target that a device names, open inside the block; raises DeviceError where it cannot be used."""
    target = find_target(device)
    try:
        target.open()
        yield target
    finally:
        target.close()
