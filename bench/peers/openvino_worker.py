"""homoexport's measuring worker with OpenVINO in onnxruntime's place: the same protocol, inputs, pinning and clock.

    PEERS/bin/python -I bench/peers/openvino_worker.py

`load` takes {"model", "outputs", "threads", "providers": ["OpenVINO CPU f32"]}, or bf16; the model is an OpenVINO or an
ONNX file. OpenVINO is faster by some 5 to 20 % on a graph of fixed shape, so that it gets one as soon as `inputs` are
all of one shape (`compile_ns` is in the answer). Texts of several lengths go through the dynamic graph. One caller at
a time.

B batch, S sequence.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))
# The worker's memory is to be OpenVINO's: onnxruntime, which the modules below import, would add 22 MB of its own.
sys.modules["onnxruntime"] = ModuleType("onnxruntime")

from homoexport.runtime.worker.model import Feeds, Model  # noqa: E402
from homoexport.runtime.worker.serve import Worker, main  # noqa: E402


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
        self.outputs = list(outputs) if outputs else None
        self.batches = []
        self.compile_ns = 0
        self._next = 0

    def _use(self, ids: list[NDArray[Any]], masks: list[NDArray[Any]] | None) -> None:
        super()._use(ids, masks)
        shapes = {rows.shape for rows in ids}
        self.compile_ns = self.session.compile(shapes.pop() if len(shapes) == 1 else None)

    def run_once(self, *, shrink: bool = False) -> None:  # noqa: ARG002
        """One inference that nobody times; there is no arena to shrink."""
        self.session.run(self.outputs, self.next_feeds())


class OpenVinoWorker(Worker):
    """A Worker that loads OpenVinoModels."""

    _model: OpenVinoModel | None

    def runtime(self) -> dict[str, Any]:
        """The greeting's part on what runs models here."""
        versions = {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "openvino": openvino.get_version(),
        }
        return {"versions": versions, "providers": ["OpenVINO CPU"]}

    def _load(
        self,
        model: str,
        threads: int,
        outputs: list[str] | None = None,
        providers: Sequence[str] = ("OpenVINO CPU f32",),
    ) -> dict[str, Any]:
        self._model = OpenVinoModel(model, threads=threads, hint=providers[0].split()[-1], outputs=outputs)
        return {"load_ns": self._model.load_ns, "providers": self._model.session.get_providers()}

    def _inputs(self, **request: Any) -> dict[str, Any]:
        reply = super()._inputs(**request)
        assert self._model is not None
        return reply | {"compile_ns": self._model.compile_ns}


if __name__ == "__main__":
    main(OpenVinoWorker)
