"""Models in OpenVINO's own runtime, on the CPU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from homoexport.runtime.worker.model import Feeds, Model
from homoexport.runtime.worker.protocol import LoadRequest

_DTYPES: dict[str, type[np.integer[Any]]] = {"i64": np.int64, "i32": np.int32}
_CPU = "OpenVINO CPU"


class OpenVinoModel(Model):
    """An OpenVINO or an ONNX file, compiled for inputs of any shape [B, S], in the precision of floats that it chooses.

    Callers that come at once have a request each.
    """

    def __init__(self, request: LoadRequest) -> None:
        super().__init__()
        self.outputs = list(request.outputs) if request.outputs else None
        self.settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": request.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the worker pins its threads itself
        }
        start = time.perf_counter_ns()
        self._core = openvino.Core()
        self._model = self._core.read_model(request.model)
        wanted = set(self.outputs or ())
        for result in self._model.get_results():
            if wanted and not result.output(0).get_names() & wanted:
                self._model.remove_result(result)  # nobody asks for it, and it would be computed
        self.compile()
        self.load_ns = time.perf_counter_ns() - start

    def compile(self) -> None:
        """Compile the model as it is."""
        self._compiled = self._core.compile_model(self._model, "CPU", self.settings)
        self._idle = deque([self._compiled.create_infer_request()])

    def input_types(self) -> dict[str, type[np.integer[Any]] | None]:
        ports = self._model.inputs
        return {port.any_name: _DTYPES.get(port.element_type.get_type_name()) for port in ports}

    def providers(self) -> list[str]:
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return [f"{_CPU} {precision}"]

    @contextmanager
    def request(self) -> Iterator[openvino.InferRequest]:
        """One that nobody else has in the block; what it answers is its own, and is gone with the block."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        yield request
        self._idle.append(request)  # after a failure it may still be at work

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[NDArray[Any]]:
        with self.request() as request:
            answers = request.infer(feeds, share_inputs=True, share_outputs=True)
            return [answers[name] for name in outputs] if outputs else list(answers.values())


def versions() -> dict[str, str]:
    """The runtime's version, by its name."""
    return {"openvino": openvino.get_version()}


def available_providers() -> list[str]:
    """What it can run models on, as it was built."""
    return [_CPU]


open_model = OpenVinoModel
