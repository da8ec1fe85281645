"""Which targets there are here, what they can do, and what is missing for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from homoexport.documents.measurement import Device, Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import KINDS, find_target, open_target
from homoexport.stages.measure.targets.emulated import set_up_arm64
from homoexport.stages.measure.targets.web import set_up_web

_EXAMPLES = {"x86": "x86:haswell", "arm64": "arm64:cortex-a76"}  # kinds that need more than their name
_REMOTE = "ssh"
_SET_UP: dict[str, Callable[[Callable[[str], None]], Path]] = {"arm64": set_up_arm64, "web": set_up_web}


def diagnose() -> list[Device]:
    """Every kind of target with what it lacks here; nothing is started, so hosts are empty."""
    return [_without_host(kind) for kind in KINDS]


def list_devices(progress: Callable[[str], None] = lambda _name: None) -> list[Device]:
    """Every kind of target; those that are ready are asked what they are, after `progress` got their name."""
    devices = []
    for kind in KINDS:
        device = _without_host(kind)
        if device.ready and kind != _REMOTE:
            progress(device.name)
            device = _asked(device)
        devices.append(device)
    return devices


def set_up(kind: str, report: Callable[[str], None]) -> str:
    """Get what homoexport itself can get for a kind of target, `arm64` or `web`; where it lies.

    Raises:
        DeviceError: nothing to set up for it, or a step that failed.
    """
    if kind not in _SET_UP:
        hint = f"name one of: {', '.join(_SET_UP)}"
        raise DeviceError(f"nothing to set up for '{kind}'", where="--set-up", hint=hint)
    return str(_SET_UP[kind](report))


def _without_host(kind: str) -> Device:
    how = KINDS[kind][1]
    name = _EXAMPLES.get(kind, kind)
    target = find_target("ssh://host" if kind == _REMOTE else name)
    needs = tuple(target.needs())
    return Device(
        name=name, how=how, ready=not needs, emulated=target.emulated, providers=target.providers, needs=needs
    )


def _asked(device: Device) -> Device:
    """The same with what a worker there says."""
    try:
        with open_target(device.name) as target, Worker(target, subject=device.name) as worker:
            found = {
                "cores": target.cores(),
                "providers": tuple(worker.greeting.providers),
                "host": worker.greeting.host,
            }
            return device.model_copy(update=found)
    except HomoexportError as error:
        needs = (Need(what=str(error), command=device.how),)
        return Device(name=device.name, how=device.how, ready=False, emulated=device.emulated, needs=needs)
