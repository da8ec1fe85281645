"""Models in onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.runtime.worker.model import Feeds, Model
from homoexport.runtime.worker.protocol import LoadRequest

_DTYPES: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_SHRINK = "memory.enable_memory_arena_shrinkage"
_CPU = "CPUExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"
_RECORD = "session.record_ep_graph_assignment_info"


class OnnxModel(Model):
    """An ONNX file in a session of onnxruntime's."""

    def __init__(self, request: LoadRequest) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        names = list(request.providers or [_CPU])
        if len(names) > 1:
            options.add_session_config_entry(_RECORD, "1")
        settings = {_OPENVINO: (_OPENVINO, {"device_type": "CPU", "num_of_threads": str(request.threads)})}
        start = time.perf_counter_ns()
        self._session = ort.InferenceSession(
            request.model, options, providers=[settings.get(name, name) for name in names]
        )
        self.load_ns = time.perf_counter_ns() - start
        self.elsewhere = _elsewhere(self._session, names[0]) if len(names) > 1 else None
        self.outputs = list(request.outputs) if request.outputs else None

    def input_types(self) -> dict[str, type[np.integer[Any]] | None]:
        return {node.name: _DTYPES.get(node.type) for node in self._session.get_inputs()}

    def providers(self) -> list[str]:
        names: list[str] = self._session.get_providers()
        return names

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[NDArray[Any]]:
        answers: list[NDArray[Any]] = self._session.run(outputs, feeds)
        return answers

    def run_once(self, *, shrink: bool = False) -> None:
        """`shrink` gives the arena's unused memory back."""
        options = ort.RunOptions()
        if shrink:
            options.add_run_config_entry(_SHRINK, "cpu:0")
        self._session.run(self.outputs, self.next_feeds(), options)


def _elsewhere(session: ort.InferenceSession, provider: str) -> dict[str, int] | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    types = [node.op_type for part in parts if part.ep_name != provider for node in part.get_nodes()]
    return {name: types.count(name) for name in sorted(set(types))}


def versions() -> dict[str, str]:
    """The runtime's version, by its name."""
    return {"onnxruntime": ort.__version__}


def available_providers() -> list[str]:
    """What it can run models on, as it was built."""
    names: list[str] = ort.get_available_providers()
    return names


open_model = OnnxModel
