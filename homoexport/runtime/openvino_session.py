"""OpenVINO's runtime in this process, on the CPU, as `session.OnnxSession` is onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from homoexport.runtime.waiting import Answers, heard
from homoexport.runtime.worker.by_openvino import OpenVinoModel
from homoexport.runtime.worker.protocol import LoadRequest


class OpenVinoSession:
    """An open OpenVINO file, by the settings that it is measured with."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self._answers = Answers()
        self._model = heard(lambda: OpenVinoModel(LoadRequest(str(model), threads)))

    def get_inputs(self) -> Sequence[Any]:
        """What it takes, each with a name."""
        return [SimpleNamespace(name=name) for name in self._model.input_types()]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its answer in those outputs; TimeoutError where it takes longer than the limit."""
        given = dict(feeds)
        with self._model.request() as request:
            self._answers.of(lambda: _infer(request, given), given.values(), stop=request.cancel)
            return [np.array(request.get_tensor(name).data) for name in outputs]

    def end(self) -> None:
        """End the inferences of other threads, and let none begin."""
        self._answers.end()


def _infer(request: openvino.InferRequest, feeds: dict[str, NDArray[Any]]) -> None:
    request.start_async(feeds)  # `infer` cannot be cancelled
    request.wait()
