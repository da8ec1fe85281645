"""CTranslate2's runtime in this process, on the CPU, as `session.OnnxSession` is onnxruntime's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.waiting import Answers, heard
from homoexport.runtime.worker.by_ctranslate2 import CTranslate2Model
from homoexport.runtime.worker.protocol import LoadRequest


class CTranslate2Session:
    """An open folder of CTranslate2's, named by its model.bin."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self._answers = Answers()
        self._model = heard(lambda: CTranslate2Model(LoadRequest(str(model), threads)))

    def get_inputs(self) -> Sequence[Any]:
        """What it takes, each with a name."""
        return [SimpleNamespace(name=name) for name in self._model.input_types()]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Its answer in those outputs; TimeoutError where it takes longer than the limit, though it runs on."""
        given = dict(feeds)
        return self._answers.of(lambda: self._model.run(outputs, given), given.values())

    def end(self) -> None:
        """Let no inference begin; those of other threads go to their end."""
        self._answers.end()
