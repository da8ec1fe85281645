"""What a caller does around the inference: text to token ids, and the answer to what is wanted of it.

N texts, B batch, S sequence, D hidden, C classes or vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.runtime.worker.model import Feeds, Model

_TOP = 5


def time_tokenizing(path: str, texts: Sequence[str], max_length: int, runs: int) -> list[int] | None:
    """Nanoseconds of each text's way to token ids; None where the `tokenizers` library is not there.

    It is imported here, after everything else has been measured, for its memory is not the model's.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    tokenizer.encode(texts[0])
    return [_time(lambda text: tokenizer.encode(text), texts[run % len(texts)]) for run in range(runs)]


def time_post_processing(model: Model, task: str, output: str, runs: int) -> list[int] | None:
    """Nanoseconds of what numpy has to do with one batch's answer; None where the graph does it all."""
    step = _STEPS.get(task)
    if step is None:
        return None
    feeds = model.batches[0]
    (answer,) = model.run([output], feeds)
    step(answer, feeds)
    return [_time(lambda values: step(values, feeds), answer) for _ in range(runs)]


def _time(function: Callable[[Any], Any], argument: Any) -> int:
    start = time.perf_counter_ns()
    function(argument)
    return time.perf_counter_ns() - start


def _pooled(states: NDArray[Any], feeds: Feeds) -> NDArray[Any]:
    """[B, S, D] to the normalised means over real tokens [B, D]."""
    mask = feeds["attention_mask"][:, :, None].astype(states.dtype)
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
    vectors: NDArray[Any] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return vectors


def _probabilities(logits: NDArray[Any], _feeds: Feeds) -> NDArray[Any]:
    """Softmax over the classes [..., C]."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _likeliest(logits: NDArray[Any], feeds: Feeds) -> NDArray[Any]:
    """The five likeliest words of one masked position in each text: [B, S, V] to [B, 5]."""
    row = _probabilities(logits[:, 0], feeds)
    return np.argsort(row, axis=-1)[:, -_TOP:]


_STEPS: dict[str, Callable[[NDArray[Any], Feeds], NDArray[Any]]] = {
    "feature-extraction": _pooled,
    "text-classification": _probabilities,
    "token-classification": _probabilities,
    "fill-mask": _likeliest,
}
