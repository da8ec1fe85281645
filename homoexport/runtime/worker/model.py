"""A loaded model with the inputs that it is timed on, whatever runtime it is loaded in. B batch, S sequence."""

from __future__ import annotations

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.worker.inputs import IntArray
from homoexport.runtime.worker.protocol import AnswerReply, WarmReply

Feeds = dict[str, NDArray[Any]]

_WARM_WINDOW_NS = 100_000_000
_STEADY = 0.98  # a window whose median is below this share of the best one so far still gets faster


class Model(ABC):
    """An open model. A subclass opens and runs it.

    `load_ns` is what opening it took; `outputs` are those that are asked for, None for all. `elsewhere` counts the
    operators, by type, that another provider than the first runs; None where only one was asked for, or the runtime
    does not tell.
    """

    load_ns: int
    outputs: list[str] | None
    elsewhere: dict[str, int] | None = None

    def __init__(self) -> None:
        self.batches: list[Feeds] = []
        self._next = 0

    @abstractmethod
    def input_types(self) -> dict[str, type[np.integer[Any]] | None]:
        """The inputs by name, each with the integers that it takes; None for one of another kind."""

    @abstractmethod
    def providers(self) -> list[str]:
        """What runs it, the preferred one first."""

    @abstractmethod
    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[NDArray[Any]]:
        """One inference; its answer may be in the runtime's own memory, good until the next."""

    def run_once(self, *, shrink: bool = False) -> None:  # noqa: ARG002 - a runtime may have an arena
        """One inference that nobody times; `shrink` gives unused memory back after it, where the runtime can."""
        self.run(self.outputs, self.next_feeds())

    def use(self, batches: Sequence[Mapping[str, IntArray]]) -> None:
        """Say what inferences are of: these batches take turns."""
        self.batches, self._next = [], 0
        for values in batches:
            feeds: Feeds = {}
            for name, kind in self.input_types().items():
                if name not in values or kind is None:
                    raise ValueError(f"input '{name}' is not one of {', '.join(values)} in integers")
                feeds[name] = values[name].astype(kind)
            self.batches.append(feeds)

    def run_ns(self) -> int:
        """Nanoseconds of one inference of the next batch; the answer is freed outside of them."""
        run, outputs, feeds = self.run, self.outputs, self.next_feeds()
        start = time.perf_counter_ns()
        answer = run(outputs, feeds)
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
        (values,) = self.run([output], self.batches[0])
        little = np.ascontiguousarray(values, dtype="<f4")
        return AnswerReply(list(little.shape), base64.b64encode(little.tobytes()).decode())
