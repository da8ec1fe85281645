"""OpenVINO's runtime in this process, on the CPU, as `session.OnnxSession` is onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from homoexport.runtime.waiting import answer_of, heard


class OpenVinoSession:
    """An open OpenVINO file. One caller at a time."""

    def __init__(self, model: Path, *, threads: int) -> None:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = heard(lambda: openvino.Core().compile_model(model, "CPU", settings))
        self._request = self._compiled.create_infer_request()

    def get_inputs(self) -> Sequence[Any]:
        """What it takes, each with a name."""
        return [SimpleNamespace(name=port.any_name) for port in self._compiled.inputs]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its answer in those outputs; TimeoutError where it takes longer than the limit."""
        given = dict(feeds)
        answer_of(lambda: self._infer(given), given.values(), stop=self._request.cancel)
        return [np.array(self._request.get_tensor(name).data) for name in outputs]

    def _infer(self, feeds: dict[str, NDArray[Any]]) -> None:
        self._request.start_async(feeds)  # `infer` cannot be cancelled
        self._request.wait()
