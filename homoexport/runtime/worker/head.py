"""What comes behind an encoder's states, in numpy, where the runtime gives no more than these.

B batch, S sequence, D hidden, W width of a vector (W_i before a layer, W_o behind it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

HEAD_FILE, ARRAYS_FILE = "head.json", "head.npz"
STATES = "last_hidden_state"

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "Identity": lambda values: values,
    "Tanh": np.tanh,
    "ReLU": lambda values: np.maximum(values, 0),
    "GELU": lambda values: values * (1 + np.vectorize(math.erf, otypes="f")(values * np.float32(math.sqrt(0.5)))) / 2,
    "Sigmoid": lambda values: 1 / (1 + np.exp(-values)),
}


@dataclass(frozen=True)
class Layer:
    """activation(x Wᵀ + b) of vectors [..., W_i], given W [W_o, W_i] and b [W_o]."""

    activation: str
    weight: Floats
    bias: Floats

    def __call__(self, vectors: Floats) -> Floats:
        answer: Floats = ACTIVATIONS[self.activation](vectors @ self.weight.T + self.bias)
        return answer


@dataclass(frozen=True)
class Head:
    """What the output of that name is made of, and which ids the encoder knows.

    `pooling` is a mode of `Pooling`, or several; None where every token has an answer. `token_types` is 0 where it
    takes none.
    """

    output: str
    vocab_size: int
    token_types: int
    pooling: str | Sequence[str] | None = None
    normalize: bool = False
    layers: tuple[Layer, ...] = field(default=(), repr=False)

    def apply(self, states: Floats, mask: NDArray[Any]) -> Floats:
        """The output, [B, W] or [B, S, W], of states [B, S, D] and a mask [B, S], which is 1 where a token counts."""
        vectors = states
        if self.pooling is not None:
            modes = [self.pooling] if isinstance(self.pooling, str) else self.pooling
            vectors = np.concatenate([_pooled(states, mask, mode) for mode in modes], axis=-1)
        for layer in self.layers:
            vectors = layer(vectors)
        if self.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
        return vectors


def _pooled(states: Floats, mask: NDArray[Any], mode: str) -> Floats:
    """[B, S, D] to [B, D]; of a text without a token that counts, zeros from the means."""
    rows, places = np.arange(len(states)), np.arange(mask.shape[1])
    vectors: Floats
    if mode == "cls":
        vectors = states[rows, mask.argmax(axis=1)]
    elif mode == "lasttoken":
        vectors = states[rows, (mask * places).argmax(axis=1)]
    elif mode == "max":
        vectors = np.where(mask[:, :, None] == 0, np.finfo(np.float32).min, states).max(axis=1)
    else:
        weights = mask.astype(np.float32)
        if mode == "weightedmean":
            weights = weights * (places + 1).astype(np.float32)
        sums = np.matmul(weights[:, None], states)[:, 0]  # faster than a sum over S
        total = np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-9))
        vectors = sums / (np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)
    return vectors


def write_head(folder: Path, head: Head) -> None:
    """Write a head into a folder: what it is, and the layers' arrays, if it has any."""
    facts = {name: value for name, value in vars(head).items() if name != "layers"}
    facts["activations"] = [layer.activation for layer in head.layers]
    (folder / HEAD_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if head.layers:
        arrays = {
            f"{kind}_{number}": getattr(layer, kind)
            for number, layer in enumerate(head.layers)
            for kind in ("weight", "bias")
        }
        np.savez(folder / ARRAYS_FILE, allow_pickle=False, **arrays)


def read_head(folder: Path) -> Head:
    """The head that `write_head` wrote; whatever is raised says what is wrong with it."""
    facts = json.loads((folder / HEAD_FILE).read_text(encoding="utf-8"))
    activations = facts.pop("activations")
    if not activations:
        return Head(**facts)
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        layers = tuple(
            Layer(activation, arrays[f"weight_{number}"], arrays[f"bias_{number}"])
            for number, activation in enumerate(activations)
        )
    return Head(**facts, layers=layers)
