"""onnxruntime's sessions in this process: quiet, and ended at the next operator by signals and by the limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.limits import SECONDS_PER_TOKEN, limit, raise_hint

T = TypeVar("T")
_SECONDS_TO_END = 1.0  # an interpreter that ends while C++ still runs is aborted


class OnnxSession:
    """An open graph on the CPU, by its file or its bytes; `library` has custom operators."""

    def __init__(self, model: Path | bytes, *, threads: int = 0, library: str | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, too; the log's lines are a terminal's commands
        if library is not None:
            options.register_custom_ops_library(library)
        source = model if isinstance(model, bytes) else str(model)
        self._session = _heard(lambda: ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]))

    def get_inputs(self) -> Sequence[Any]:
        """What it takes, each with a name and a type."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its answer in those outputs, by default in all; TimeoutError where it takes longer than the limit."""
        options = ort.RunOptions()
        names, given = None if outputs is None else list(outputs), dict(feeds)
        seconds = limit("answer_seconds") + SECONDS_PER_TOKEN * max((array.size for array in given.values()), default=0)
        try:
            return _heard(
                lambda: self._session.run(names, given, options), lambda: setattr(options, "terminate", True), seconds
            )
        except futures.TimeoutError:
            raise TimeoutError(f"no answer within {seconds:.0f} seconds; {raise_hint('answer_seconds')}") from None


def _heard(work: Callable[[], T], stop: Callable[[], None] = lambda: None, seconds: float | None = None) -> T:
    """Do what stays in C++ for long in a thread, so that this one hears signals; `stop` has it end, also by time.

    Its end is waited for a second: what runs a graph ends by then, and what opens one cannot be stopped.
    """
    answer: futures.Future[T] = futures.Future()

    def do() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=do, name="onnxruntime", daemon=True)
    thread.start()
    try:
        return answer.result(seconds)
    except BaseException:
        stop()
        thread.join(_SECONDS_TO_END)
        raise
