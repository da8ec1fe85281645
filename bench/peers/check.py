"""How far a peer's answers lie from torch's. B texts, S tokens, D hidden."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from source import Source

TEXTS = (
    "A man is playing a guitar.",
    "The committee will meet again on Thursday, when the budget for next year is to be settled.",
    "Where can I get my phone repaired?",
    "Rain.",
    'She said: "I\'d rather walk home than wait another hour for that bus" - and off she went, in the snow.',
    "The film is slow to begin with, but its last half hour is among the best things I have seen in years.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen; the energy comes from sunlight.",
    "How do I undo the last commit in git without losing my changes to the files that I have been working on?",
)
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
SENTENCE_OUTPUTS = ("sentence_embedding",)

RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".bin": "ctranslate2"}  # by a file's suffix

Values = NDArray[np.float32]


def reference(source: Source) -> Values:
    """Torch's last hidden states [B, S, D]."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source.folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        batch = {name: torch.from_numpy(values) for name, values in source.tokens(list(TEXTS)).items()}
        states: Values = model(**batch).last_hidden_state.numpy()
    return states


def checked(path: Path, source: Source, states: Values) -> dict[str, Any]:
    """What goes in and comes out of a file, and the cosines of its answers with torch's `states` [B, S, D].

    Token by token over real tokens, and text by text over their means.
    """
    batch = source.tokens(list(TEXTS))
    inputs, answers = _RUNS[RUNTIMES[path.suffix]](path, batch)
    named = [name for name in TOKEN_OUTPUTS if name in answers]
    tokens = named[0] if named else next((name for name, values in answers.items() if values.ndim == 3), None)
    sentence = next((name for name in SENTENCE_OUTPUTS if name in answers), None)
    if tokens is None and sentence is None:
        raise ValueError(f"has neither token embeddings nor a sentence's among {', '.join(answers)}")
    mask = batch["attention_mask"]
    facts: dict[str, Any] = {
        "inputs": inputs,
        "outputs": list(answers),
        "token_output": tokens,
        "sentence_output": sentence,
        "cosine": {},
    }
    if tokens:
        facts["cosine"]["tokens"] = summary(cosines(answers[tokens], states)[mask == 1])
    means = pooled(answers[tokens], mask) if tokens else answers[str(sentence)]
    facts["cosine"]["sentences"] = summary(cosines(means, pooled(states, mask)))
    return facts


def run_onnx(path: Path, batch: dict[str, Any]) -> tuple[list[str], dict[str, Values]]:
    """The inputs' names, and the answers by output."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    answers = session.run(outputs, {name: batch[name] for name in inputs})
    return inputs, dict(zip(outputs, answers, strict=True))


def run_openvino(path: Path, batch: dict[str, Any]) -> tuple[list[str], dict[str, Values]]:
    """The same of an OpenVINO file, with float kept at f32."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = [port.any_name for port in compiled.inputs]
    answers = compiled({name: batch[name] for name in inputs})
    return inputs, {port.any_name: answers[port] for port in compiled.outputs}


def run_ctranslate2(path: Path, batch: dict[str, Any]) -> tuple[list[str], dict[str, Values]]:
    """The same of a folder of CTranslate2's, named by its model.bin."""
    import ctranslate2

    encoder = ctranslate2.Encoder(str(path.parent), intra_threads=1)
    lengths = batch["attention_mask"].sum(axis=1).tolist()
    ids = [row[:length].tolist() for row, length in zip(batch["input_ids"], lengths, strict=True)]
    states = np.asarray(encoder.forward_batch(ids).last_hidden_state)
    return ["input_ids", "attention_mask"], {TOKEN_OUTPUTS[0]: states}


def pooled(states: Values, mask: NDArray[np.int64]) -> Values:
    """[B, S, D] to the means over real tokens [B, D]."""
    weights = mask[:, :, None].astype(np.float32)
    means: Values = (states * weights).sum(axis=1) / weights.sum(axis=1)
    return means


def cosines(ours: Values, theirs: Values) -> Values:
    """Cosines over the last axis; a value that is no number comes out as one that is not, either."""
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    values: Values = (ours * theirs).sum(axis=-1) / norms
    return values


def summary(values: Values) -> dict[str, float]:
    """Mean and least."""
    return {"cosine_mean": round(float(values.mean()), 6), "cosine_min": round(float(values.min()), 6)}


_RUNS: dict[str, Callable[[Path, dict[str, Any]], tuple[list[str], dict[str, Values]]]] = {
    "onnxruntime": run_onnx,
    "openvino": run_openvino,
    "ctranslate2": run_ctranslate2,
}
