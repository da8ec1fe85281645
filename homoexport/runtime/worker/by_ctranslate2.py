"""Models in CTranslate2, on the CPU. It gives an encoder's states; what comes behind them is numpy's.

`import ctranslate2` takes neither torch nor transformers, from 4.8 on: its converters, which do, are loaded when they
are used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.worker.head import STATES, read_head
from homoexport.runtime.worker.model import Feeds, Model
from homoexport.runtime.worker.protocol import LoadRequest

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_view = ctranslate2.StorageView.from_array


class CTranslate2Model(Model):
    """A folder of CTranslate2's, named by its model.bin, with our head.json beside it."""

    def __init__(self, request: LoadRequest) -> None:
        super().__init__()
        start = time.perf_counter_ns()
        folder = Path(request.model).parent
        self._head = read_head(folder)
        self._encoder = ctranslate2.Encoder(str(folder), inter_threads=1, intra_threads=request.threads)
        self.load_ns = time.perf_counter_ns() - start
        self.outputs = list(request.outputs) if request.outputs else None

    def input_types(self) -> dict[str, type[np.integer[Any]] | None]:
        return dict.fromkeys(_INPUTS if self._head.token_types else _INPUTS[:2], np.int32)

    def providers(self) -> list[str]:
        return [f"CTranslate2 CPU {self._encoder.compute_type}"]

    def run(self, outputs: Sequence[str] | None, feeds: Feeds) -> list[NDArray[Any]]:
        """Raises ValueError for ids that the model does not know, which CTranslate2 would look up all the same, and for
        a mask that is not of texts padded behind their end."""
        ids = np.ascontiguousarray(feeds["input_ids"], np.int32)  # [B, S]
        mask, types = feeds["attention_mask"], feeds.get("token_type_ids")
        _refuse_beyond(ids, self._head.vocab_size, "token")
        more: dict[str, Any] = {}
        if types is not None and types.any():  # without any they are 0
            _refuse_beyond(types, self._head.token_types, "token type")
            more["token_type_ids"] = types.tolist()
        answer = self._encoder.forward_batch(_view(ids), _view(_lengths(mask)), **more)
        states = np.asarray(answer.last_hidden_state)  # [B, S, D]
        names = outputs or [self._head.output]
        return [states if name == STATES else self._made(name, states, mask) for name in names]

    def _made(self, output: str, states: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        if output != self._head.output:
            raise ValueError(f"there is no output '{output}'")
        return self._head.apply(states, mask)


def _refuse_beyond(ids: NDArray[Any], count: int, kind: str) -> None:
    if ids.min() < 0 or ids.max() >= count:
        raise ValueError(f"a {kind}'s id is outside of the {count} that the model knows")


def _lengths(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Tokens of each text, by a 0/1 mask [B, S]."""
    lengths: NDArray[np.int32] = mask.sum(axis=1, dtype=np.int32)
    if not (lengths.all() and np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None])):
        raise ValueError("an attention_mask of CTranslate2's is 1 from the first position to a text's last, then 0")
    return lengths


def versions() -> dict[str, str]:
    """The runtime's version, by its name."""
    return {"ctranslate2": ctranslate2.__version__}


def available_providers() -> list[str]:
    """What it can run models on, as it was built."""
    return [f"CTranslate2 CPU {kind}" for kind in sorted(ctranslate2.get_supported_compute_types("cpu"))]


open_model = CTranslate2Model
