"""What a browser leaves to choose: the execution provider of onnxruntime-web, and its threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from homoexport.choices import BrowserProvider
from homoexport.documents.package import BrowserChoice
from homoexport.errors import DeviceError
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import find_target, open_target
from homoexport.stages.measure.targets.web import WebTarget


@dataclass(frozen=True)
class OpenChoice:
    """A device for each provider that works there, why others do not, and the numbers of threads to try, ascending."""

    devices: Mapping[BrowserProvider, str]
    not_tried: Mapping[str, str]
    threads: tuple[int, ...]


def is_browser(device: str) -> bool:
    """Whether a device is a browser; raises DeviceError where there is no such device."""
    return isinstance(find_target(device), WebTarget)


def left_open(device: str, threads: int | None) -> OpenChoice | None:
    """What a device leaves to choose; None where it is no browser. `threads` are those that the user asked for.

    Raises:
        DeviceError: the device is unknown, or its only provider cannot be used.
    """
    target = find_target(device)
    if not isinstance(target, WebTarget):
        return None
    devices, not_tried = target.by_provider(), dict[str, str]()
    for provider, name in list(devices.items()):
        try:
            with open_target(name) as opened, Worker(opened, subject=name):
                pass
        except DeviceError as error:
            if provider != "webgpu" or len(devices) == 1:
                raise
            not_tried[provider] = error.what
            del devices[provider]
    return OpenChoice(devices, not_tried, target.thread_counts(threads))


def as_chosen(device: str, chosen: BrowserChoice) -> tuple[str, int | None]:
    """A browser with the provider that an export chose, unless it names one, and the threads that go with it.

    No threads are told where the device names them, and no more than there are here.
    """
    target = find_target(device)
    assert isinstance(target, WebTarget)
    counts = target.thread_counts(None)
    threads = min(chosen.threads, counts[-1]) if len(counts) > 1 else None
    return target.by_provider().get(chosen.provider, device), threads
