"""Calibration: which values the activations take on real text.

onnxruntime's calibrators see one text at a time, without padding, whose values nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)

from homoexport.choices import Calibration
from homoexport.stages.export.quiet import quiet

Tokens = Mapping[str, NDArray[np.int64]]

_METHODS: dict[Calibration, tuple[CalibrationMethod, dict[str, float]]] = {
    "min-max": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.999, "num_bins": 2048}),
}


class _One(CalibrationDataReader):  # type: ignore[misc]
    """One text's tokens; the calibrators cannot put texts of unlike lengths together."""

    def __init__(self, tokens: Tokens) -> None:
        self._left: list[Tokens] = [tokens]

    def get_next(self) -> Tokens | None:
        return self._left.pop() if self._left else None


def calibrate(file: Path, tokens: Iterable[Tokens], *, method: Calibration, work: Path) -> TensorsData:
    """Ranges of everything that enters or leaves a matrix product of an fp32 file, over texts one by one, [1, S] each.

    min-max: the least and the greatest; percentile: without the outermost 0.001 %. `work` is a folder for a graph that
    gives them all.
    """
    kind, settings = _METHODS[method]
    augmented = work / f"{file.stem}.{method}.calibrating.onnx"
    with quiet():
        calibrator = create_calibrator(
            file, ["MatMul"], augmented_model_path=str(augmented), calibrate_method=kind, extra_options=settings
        )
        for text in tokens:
            calibrator.collect_data(_One(text))
        ranges = calibrator.compute_data()
    augmented.unlink()
    return ranges
