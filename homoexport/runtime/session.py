"""onnxruntime's sessions in this process: quiet, and ended by Ctrl-C and other signals at the next operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

T = TypeVar("T")


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
        """Its answer in those outputs, by default in all."""
        options = ort.RunOptions()
        names, given = None if outputs is None else list(outputs), dict(feeds)
        return _heard(lambda: self._session.run(names, given, options), lambda: setattr(options, "terminate", True))


def _heard(work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    """Do what stays in C++ for long in a thread, so that this one hears signals; `stop` has it end."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(work).result()
        except BaseException:
            stop()
            raise
