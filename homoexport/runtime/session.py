"""onnxruntime's sessions in this process: quiet, and ended at the next operator by signals and by the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.runtime.waiting import Answers, heard


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
        self._answers = Answers()
        self._session = heard(lambda: ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]))

    def get_inputs(self) -> Sequence[Any]:
        """What it takes, each with a name and a type."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its answer in those outputs, by default in all; TimeoutError where it takes longer than the limit."""
        options = ort.RunOptions()
        names, given = None if outputs is None else list(outputs), dict(feeds)
        return self._answers.of(
            lambda: self._session.run(names, given, options),
            given.values(),
            stop=lambda: setattr(options, "terminate", True),
        )

    def end(self) -> None:
        """End the inferences of other threads, and let none begin."""
        self._answers.end()
