"""A loaded model with the inputs that it is timed on. B batch, S sequence."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.runtime.worker.inputs import IntArray
from homoexport.runtime.worker.protocol import AnswerReply, WarmReply

Feeds = dict[str, NDArray[Any]]

_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_WARM_WINDOW_NS = 100_000_000
_STEADY = 0.98  # a window whose median is below this share of the best one so far still gets faster
_SHRINK = "memory.enable_memory_arena_shrinkage"
_CPU = "CPUExecutionProvider"
_OPENVINO = "OpenVINOExecutionProvider"
_RECORD = "session.record_ep_graph_assignment_info"


class Model:
    """An open session. `load_ns` is what opening it took.

    `elsewhere` counts the operators, by type, that another provider than the first runs; None where only one was asked
    for, or the runtime does not tell.
    """

    def __init__(
        self, path: str, *, threads: int, outputs: Sequence[str] | None = None, providers: Sequence[str] | None = None
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        names = list(providers or [_CPU])
        if len(names) > 1:
            options.add_session_config_entry(_RECORD, "1")
        settings = {_OPENVINO: (_OPENVINO, {"device_type": "CPU", "num_of_threads": str(threads)})}
        start = time.perf_counter_ns()
        self.session = ort.InferenceSession(path, options, providers=[settings.get(name, name) for name in names])
        self.load_ns = time.perf_counter_ns() - start
        self.elsewhere = _elsewhere(self.session, names[0]) if len(names) > 1 else None
        self.outputs = list(outputs) if outputs else None
        self.batches: list[Feeds] = []
        self._next = 0

    def use(self, batches: Sequence[Mapping[str, IntArray]]) -> None:
        """Say what inferences are of: these batches take turns."""
        self.batches, self._next = [], 0
        for values in batches:
            feeds: Feeds = {}
            for node in self.session.get_inputs():
                if node.name not in values or node.type not in _DTYPES:
                    names = ", ".join(values)
                    raise ValueError(f"input '{node.name}' of type {node.type} is not one of {names} in integers")
                feeds[node.name] = values[node.name].astype(_DTYPES[node.type])
            self.batches.append(feeds)

    def run_ns(self) -> int:
        """Nanoseconds of one inference of the next batch; the answer is freed outside of them."""
        session, outputs, feeds = self.session, self.outputs, self.next_feeds()
        start = time.perf_counter_ns()
        answer = session.run(outputs, feeds)
        elapsed = time.perf_counter_ns() - start
        del answer
        return elapsed

    def next_feeds(self) -> Feeds:
        """The inputs of the next inference, in turn."""
        feeds = self.batches[self._next % len(self.batches)]
        self._next += 1
        return feeds

    def warm(self, seconds: float) -> WarmReply:
        """Run until two windows in a row bring no median below 98 % of the best one so far.

        A window is 100 ms of runs, or one run that takes longer, and holds every batch; `seconds` is
        the end in any case.
        """
        first_ns = self.run_ns()
        best, calm, runs, spent = float("inf"), 0, 1, 0
        while True:
            window: list[int] = []
            while sum(window) < _WARM_WINDOW_NS or len(window) % len(self.batches):
                window.append(self.run_ns())
            median = float(np.median(window))
            calm = 0 if median < _STEADY * best else calm + 1
            best = min(best, median)
            runs += len(window)
            spent += sum(window)
            if calm == 2 or spent >= seconds * 1e9:
                return WarmReply(first_ns, runs, steady=calm == 2, median_ns=median)

    def time(self, runs: int) -> list[int]:
        """Time `runs` inferences, from the first batch on, after one that brings the weights into the caches."""
        self.run_ns()
        self._next = 0
        return [self.run_ns() for _ in range(runs)]

    def answer(self, output: str) -> AnswerReply:
        """What the first batch is answered with."""
        (values,) = self.session.run([output], self.batches[0])
        little = np.ascontiguousarray(values, dtype="<f4")
        return AnswerReply(list(little.shape), base64.b64encode(little.tobytes()).decode())

    def run_once(self, *, shrink: bool = False) -> None:
        """One inference that nobody times; `shrink` gives the arena's unused memory back after it."""
        options = ort.RunOptions()
        if shrink:
            options.add_run_config_entry(_SHRINK, "cpu:0")
        self.session.run(self.outputs, self.next_feeds(), options)


def _elsewhere(session: ort.InferenceSession, provider: str) -> dict[str, int] | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    types = [node.op_type for part in parts if part.ep_name != provider for node in part.get_nodes()]
    return {name: types.count(name) for name in sorted(set(types))}
