"""Runtimes besides ONNX Runtime that a package may have files for: which were asked for, and what cannot be had."""

from __future__ import annotations

from collections.abc import Sequence

from homoexport.choices import OTHER_RUNTIMES, Quantization, Runtime, RuntimeChoice
from homoexport.documents.recipe import ExportSettings
from homoexport.errors import UserError
from homoexport.schemes import schemes_in
from homoexport.stages.measure import find_target, refuse_runtime


def others_of(asked: RuntimeChoice) -> Sequence[Runtime]:
    """The runtimes to try besides ONNX Runtime."""
    return [runtime for runtime in OTHER_RUNTIMES if asked in ("auto", runtime)]


def refuse_without(settings: ExportSettings, device: str, *, calibrated: bool) -> None:
    """Refuse a runtime that was asked for by name, where `refuse_impossible` does."""
    if settings.runtime != "auto":
        for runtime in others_of(settings.runtime):
            refuse_impossible(runtime, settings.quantize, device, calibrated=calibrated)


def refuse_impossible(runtime: Runtime, quantize: Quantization, device: str, *, calibrated: bool) -> None:
    """Refuse a runtime that does not run on the device, or has none of the schemes that were asked for.

    `calibrated`: whether there is text to calibrate on.

    Raises:
        DeviceError: it is not installed, or the device is another than this machine's CPU.
        UserError: no such scheme.
    """
    refuse_runtime(find_target(device), runtime, subject="the package")
    if not schemes_in(runtime, quantize, calibrated=calibrated):
        what = f"'{quantize}' cannot be had in {OTHER_RUNTIMES[runtime]}{'' if calibrated else ' without text'}"
        raise UserError(what, where="export.runtime", hint="quantize auto or none, or int8 with a file of text")
