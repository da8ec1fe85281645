"""Folders of sentence-transformers with every pooling, and what they make of texts, written out for one text alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from homoexport.encoder import Encoder

BY_HAND = {  # of states [S, D] of the tokens that count, with their positions, which count from 1
    "cls": lambda states, _places: states[0],
    "max": lambda states, _places: states.max(axis=0),
    "mean": lambda states, _places: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states, _places: states.sum(axis=0) / np.sqrt(len(states)),
    "weightedmean": lambda states, places: (states * places[:, None]).sum(axis=0) / places.sum(),
    "lasttoken": lambda states, _places: states[-1],
}
SEVERAL = ("lasttoken", "max", "mean")  # in an order that flags cannot say


def write_modules(folder: Path, pooling: dict[str, object], *, normalize: bool = True, inner: str = "") -> Path:
    """Make a model's folder one of sentence-transformers, with a pooling of these settings."""
    kinds = {"Transformer": inner, "Pooling": "1_Pooling", **({"Normalize": "2_Normalize"} if normalize else {})}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    return folder


def move_inside(folder: Path, name: str) -> None:
    """Have the model of a sentence-transformers folder lie in a folder of its own, as older versions left it."""
    of_modules = ("modules.json", "config_sentence_transformers.json", "README.md")
    (folder / name).mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in of_modules]:
        path.rename(folder / name / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))


def pooled_by_hand(
    encoder: Encoder, texts: Sequence[str], modes: Sequence[str], *, normalize: bool = True, skipped: int = 0
) -> NDArray[np.float32]:
    """Vectors of texts that are asked one by one; the first `skipped` tokens are read and not pooled."""
    rows = []
    for text in texts:
        with torch.no_grad():
            states = encoder.model(**encoder.tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        places = np.arange(1, len(states) + 1)
        row = np.concatenate([BY_HAND[mode](states[skipped:], places[skipped:]) for mode in modes])
        for layer in encoder.dense:
            row = layer(torch.from_numpy(row)).numpy()
        rows.append(row / np.linalg.norm(row) if normalize else row)
    return np.stack(rows)
