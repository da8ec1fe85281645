"""Dense modules behind a tiny model, in the files that sentence-transformers writes, and what they make of a vector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.special import erf, expit

from homoexport.encoder import Encoder

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
BY_HAND = {
    IDENTITY: lambda x: x,
    TANH: np.tanh,
    "torch.nn.modules.activation.ReLU": lambda x: np.maximum(x, 0),
    "torch.nn.modules.activation.GELU": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
    "torch.nn.modules.activation.Sigmoid": expit,
}
Layer = tuple[int, bool, str]  # width behind it, whether it has a bias, activation
TWO: tuple[Layer, ...] = ((24, True, TANH), (40, False, IDENTITY))


def write_layers(folder: Path, layers: Sequence[Layer] = TWO, *, width: int = 32, normalize: bool = True) -> Path:
    """Make a model's folder one of sentence-transformers, with random layers behind the mean of its tokens."""
    kinds = ["Transformer", "Pooling", *["Dense"] * len(layers), *["Normalize"] * normalize]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    generator = torch.Generator().manual_seed(4)
    for (out, bias, activation), path in zip(layers, paths[2:], strict=False):
        (folder / path).mkdir()
        settings = {"in_features": width, "out_features": out, "bias": bias, "activation_function": activation}
        (folder / path / "config.json").write_text(json.dumps(settings))
        tensors = {"linear.weight": torch.randn(out, width, generator=generator) * width**-0.5}
        if bias:
            tensors["linear.bias"] = torch.randn(out, generator=generator)
        save_file(tensors, folder / path / "model.safetensors")
        width = out
    return folder


def vectors_by_hand(encoder: Encoder, texts: list[str], *, normalize: bool = True) -> NDArray[np.float32]:
    """Each text alone: the mean of its tokens, then one layer after the other."""
    rows = []
    for text in texts:
        with torch.no_grad():
            row = encoder.model(**encoder.tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        for layer in encoder.dense:
            row = layer.linear.weight.numpy() @ row
            if layer.linear.bias is not None:
                row = row + layer.linear.bias.numpy()
            row = BY_HAND[layer.activation_name](row)
        rows.append(row / np.linalg.norm(row) if normalize else row)
    return np.stack(rows)
