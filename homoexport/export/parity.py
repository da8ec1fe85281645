"""The parity ladder: does a graph answer as the torch model does, on real right-padded text?

Every rung (portable, fused, int8) is held against torch itself, so that small differences cannot add up unseen from
rung to rung. Only positions that carry a token count.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from homoexport.encoder import Encoder, Task
from homoexport.export.graph import OUTPUT_NAMES, input_names, pool
from homoexport.host import available_cores

Precision = Literal["fp32", "int8"]

# Largest difference over the largest value. fp32 rungs do the same sums in another order: MiniLM and a 2 x 128 BERT
# stay below 2e-6.
FP32_MAX_DIFFERENCE = 1e-4
FP32_MIN_COSINE = 0.99999
# Dynamic int8 turns vectors by some degrees: MiniLM keeps cosines of 0.993 mean and 0.989 least.
INT8_MEAN_COSINE = 0.97
INT8_MIN_COSINE = 0.90
# Share of the positions or texts whose likeliest token or label stays the same; a 2 x 128 BERT keeps 0.96 in int8.
FP32_TOP1_AGREEMENT = 0.999
INT8_TOP1_AGREEMENT = 0.85

MAX_TEXTS = 64  # a few seconds for a small encoder
SINGLE_TEXTS = 8
LONG_TOKENS = 512  # beyond every local window in use


@dataclass(frozen=True)
class Batch:
    """Tokens of one call, by input name, each [B, S], and torch's answer by output name."""

    tokens: dict[str, NDArray[np.int64]]
    expected: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """How far a graph's answers are from torch's, over all batches.

    `max_difference` is absolute; `max_relative_difference` is over the largest absolute value of that output.
    Cosines are of the task's vectors: sentences, or the tokens' hidden states, or logits. A classifier of one label
    gives no vectors but scores: there both cosines are that of all scores together, about their mean.
    `top1_agreement` is of logits: the share of tokens or texts whose likeliest token or label stays the same.
    """

    output: str
    max_difference: float
    max_relative_difference: float
    min_cosine: float
    mean_cosine: float
    top1_agreement: float | None
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def make_batches(encoder: Encoder, texts: Sequence[str], *, max_length: int) -> list[Batch]:
    """Right-padded batches of one text, of eight in the texts' order, and of very unlike lengths; torch answers them.

    The longest text is many of them together, so that local attention and the last positions are seen, too.

    Args:
        encoder: the model that is the oracle, and its tokenizer.
        texts: at least one; of more than 64, 64 from all over are taken.
        max_length: tokens that a text is cut to.
    """
    step = max(1, len(texts) // MAX_TEXTS)
    chosen = list(texts[::step])[:MAX_TEXTS]
    by_length = sorted(chosen, key=len)
    groups = [[text] for text in chosen[:SINGLE_TEXTS]]
    groups += [chosen[start : start + 8] for start in range(0, len(chosen), 8)]
    groups.append([by_length[0], by_length[-1], by_length[len(by_length) // 2]])
    batches = [_answer(encoder, group, max_length) for group in groups]
    words = " ".join(chosen).split() or [""]
    endless = " ".join(words * (LONG_TOKENS // len(words) + 1))
    return [*batches, _answer(encoder, [by_length[0], endless], min(max_length, LONG_TOKENS))]


def _answer(encoder: Encoder, texts: Sequence[str], max_length: int) -> Batch:
    tokens = encoder.tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_length, padding_side="right", return_tensors="pt"
    )
    tokens = {name: tokens[name] for name in input_names(encoder)}
    with torch.no_grad():
        output = encoder.model(**tokens)
    answers: tuple[torch.Tensor, ...]
    if "logits" in OUTPUT_NAMES[encoder.task]:
        answers = (output.logits,)
    elif encoder.pooling is None:
        answers = (output.last_hidden_state,)
    else:
        answers = (
            pool(output.last_hidden_state, tokens["attention_mask"], encoder.pooling),
            output.last_hidden_state,
        )
    expected = {name: value.numpy() for name, value in zip(OUTPUT_NAMES[encoder.task], answers, strict=True)}
    return Batch({name: value.numpy() for name, value in tokens.items()}, expected)


@dataclass
class _Tally:
    difference: float = 0.0
    scale: float = 0.0
    cosines: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)  # [N, 2], ours and torch's, of rows of one value
    agreeing: int = 0
    rows: int = 0

    def add(self, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Take in rows [N, D]; a value that is not finite makes the difference infinite."""
        difference = np.abs(actual - expected).max(initial=0.0)
        self.difference = max(self.difference, float(difference) if np.isfinite(difference) else float("inf"))
        self.scale = max(self.scale, float(np.abs(expected).max(initial=0.0)))
        self.cosines.append(_cosines(actual, expected))
        if expected.shape[1] == 1:
            self.scores.append(np.concatenate([actual, expected], axis=1))
        self.agreeing += int((actual.argmax(axis=1) == expected.argmax(axis=1)).sum())
        self.rows += len(expected)

    def vector_cosines(self) -> NDArray[np.float64]:
        """Of each row; or, where rows have one value, of all rows together, about the mean of torch's."""
        if not self.scores:
            return np.concatenate(self.cosines or [np.zeros(0)])
        scores = np.concatenate(self.scores)
        centred = scores - scores[:, 1].mean()
        return _cosines(centred[None, :, 0], centred[None, :, 1])


def _cosines(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of rows [N, D], [N]; -1 where they are not finite."""
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", actual, expected, dtype=np.float64) / np.maximum(norms, 1e-12)
    finite: NDArray[np.float64] = np.nan_to_num(cosines, nan=-1.0, posinf=-1.0, neginf=-1.0)
    return finite


def check_parity(file: Path, batches: Sequence[Batch], *, task: Task, precision: Precision) -> Parity:
    """Run an ONNX file on the batches and hold its answers against torch's.

    Args:
        file: the graph.
        batches: from `make_batches`.
        task: which output counts; fp32 graphs are held to all of their outputs.
        precision: which bounds apply.

    Returns:
        The figures of the task's output, and whether every bound is kept.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4  # what a graph cannot do is raised, too
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = OUTPUT_NAMES[task]
    tallies = {name: _Tally() for name in names}
    for batch in batches:
        feeds = {node.name: batch.tokens[node.name] for node in session.get_inputs()}
        present = batch.tokens["attention_mask"].astype(bool)
        for name, actual in zip(names, session.run(list(names), feeds), strict=True):
            expected = batch.expected[name]
            rows = (actual, expected) if actual.ndim == 2 else (actual[present], expected[present])
            tallies[name].add(*rows)
    figures = {name: _figures(name, tally, task, precision) for name, tally in tallies.items()}
    main = figures[names[0]]
    if precision == "int8" or main.passed is False:
        return main
    return next((other for other in figures.values() if not other.passed), main)


def _figures(name: str, tally: _Tally, task: Task, precision: Precision) -> Parity:
    cosines = tally.vector_cosines()
    relative = tally.difference / max(tally.scale, 1e-12)
    lowest, mean = float(cosines.min()), float(cosines.mean())
    agreement = tally.agreeing / tally.rows if name == "logits" and not tally.scores else None
    if precision == "fp32":
        passed = relative <= FP32_MAX_DIFFERENCE and lowest >= FP32_MIN_COSINE
        passed = passed and (agreement is None or agreement >= FP32_TOP1_AGREEMENT)
    elif agreement is None:
        passed = mean >= INT8_MEAN_COSINE and lowest >= INT8_MIN_COSINE
    else:
        # Where the text is of one label all along, agreement alone would pass any graph that knows but that one.
        passed = agreement >= INT8_TOP1_AGREEMENT and (task == "fill-mask" or mean >= INT8_MEAN_COSINE)
    return Parity(name, tally.difference, relative, lowest, mean, agreement, passed)
