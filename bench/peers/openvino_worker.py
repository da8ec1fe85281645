"""homoexport's measuring worker with OpenVINO in onnxruntime's place: the same protocol, inputs, pinning and clock.

    PEERS/bin/python -I bench/peers/openvino_worker.py

`load` takes {"model", "outputs", "threads", "providers": ["OpenVINO CPU f32"]}, or bf16; the model is an OpenVINO or an
ONNX file. OpenVINO is faster by some 5 to 20 % on a graph of fixed shape, so that it gets one as soon as `inputs` are
all of one shape. Texts of several lengths go through the dynamic graph. One caller at a time.

B batch, S sequence.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))
# The worker's memory is to be OpenVINO's: onnxruntime, which the modules below import, would add 22 MB of its own.
absent = ModuleType("onnxruntime")
absent.__version__, absent.get_available_providers = "", list  # type: ignore[attr-defined]
sys.modules["onnxruntime"] = absent

from homoexport.runtime.worker import protocol  # noqa: E402
from homoexport.runtime.worker.inputs import IntArray  # noqa: E402
from homoexport.runtime.worker.model import Feeds, Model  # noqa: E402
from homoexport.runtime.worker.serve import ModelServer, main  # noqa: E402


class Session:
    """What a Model asks of an onnxruntime session."""

    def __init__(self, path: str, *, threads: int, hint: str, outputs: Sequence[str] | None) -> None:
        self._core = openvino.Core()
        self._model = self._core.read_model(path)
        if outputs:  # onnxruntime computes nothing that nobody asks for, either
            for result in self._model.get_results():
                if not result.output(0).get_names() & set(outputs):
                    self._model.remove_result(result)
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
            "ENABLE_CPU_PINNING": False,  # the worker pins its threads itself
        }
        self._compiled: Any = None
        self._request: Any = None
        self._shape: tuple[int, ...] | None = None

    def compile(self, shape: tuple[int, ...] | None) -> int:
        """Nanoseconds to have the graph for inputs of one shape [B, S], or of any."""
        start = time.perf_counter_ns()
        if self._request is not None and shape == self._shape:
            return 0
        self._request = self._compiled = None  # two of them at once would be in the memory's peak
        self._model.reshape({port.any_name: list(shape) if shape else [-1, -1] for port in self._model.inputs})
        self._compiled = self._core.compile_model(self._model, "CPU", self._settings)
        self._request = self._compiled.create_infer_request()
        self._shape = shape
        return time.perf_counter_ns() - start

    def get_inputs(self) -> list[SimpleNamespace]:
        """Names and types, as onnxruntime spells them."""
        types = {"i64": "tensor(int64)", "i32": "tensor(int32)"}
        return [
            SimpleNamespace(name=port.any_name, type=types.get(port.element_type.get_type_name()))
            for port in self._model.inputs
        ]

    def get_providers(self) -> list[str]:
        """Where it runs, and in which precision."""
        return [f"OpenVINO CPU {self._settings['INFERENCE_PRECISION_HINT']}"]

    def run(self, outputs: Sequence[str] | None, feeds: Feeds, _options: object = None) -> list[NDArray[Any]]:
        """Answers that share OpenVINO's memory, as the inputs do: good until the next run."""
        answers = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        return [answers[name] for name in outputs] if outputs else list(answers.values())


class OpenVinoModel(Model):
    """A Model whose session is OpenVINO's."""

    session: Session

    def __init__(self, path: str, *, threads: int, hint: str, outputs: Sequence[str] | None) -> None:
        start = time.perf_counter_ns()
        self.session = Session(path, threads=threads, hint=hint, outputs=outputs)
        self.session.compile(None)
        self.load_ns = time.perf_counter_ns() - start
        self.elsewhere = None
        self.outputs = list(outputs) if outputs else None
        self.batches = []
        self._next = 0

    def use(self, batches: Sequence[Mapping[str, IntArray]]) -> None:
        super().use(batches)
        shapes = {values["input_ids"].shape for values in batches}
        self.session.compile(shapes.pop() if len(shapes) == 1 else None)

    def run_once(self, *, shrink: bool = False) -> None:  # noqa: ARG002
        """One inference that nobody times; there is no arena to shrink."""
        self.session.run(self.outputs, self.next_feeds())


class OpenVinoServer(ModelServer):
    """Loads OpenVinoModels."""

    def greeting(self, runtime_rss_bytes: int) -> protocol.Greeting:
        greeting = super().greeting(runtime_rss_bytes)
        versions = {"python": platform.python_version(), "numpy": np.__version__, "openvino": openvino.get_version()}
        return replace(greeting, versions=versions, providers=["OpenVINO CPU"])

    def do_load(self, **fields: Any) -> protocol.LoadReply:
        request = protocol.LoadRequest(**fields)
        hint = (request.providers or ["OpenVINO CPU f32"])[0].split()[-1]
        model = OpenVinoModel(request.model, threads=request.threads, hint=hint, outputs=request.outputs)
        self._model = model
        return protocol.LoadReply(model.load_ns, model.session.get_providers(), model.elsewhere)


if __name__ == "__main__":
    main(OpenVinoServer)
