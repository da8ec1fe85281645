"""The parity ladder: does a graph answer as the torch model does, on real right-padded text?

Every rung (each form in fp32, and each scheme of fewer bits) is held against torch itself, so that small differences
cannot add up unseen from rung to rung. Only positions that carry a token count.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from homoexport.encoder import Encoder, Task
from homoexport.export.graph import OUTPUT_NAMES, input_names, pool
from homoexport.export.quantize import Precision
from homoexport.host import available_cores

# Largest difference over the largest value. fp32 rungs do the same sums in another order: MiniLM and a 2 x 128 BERT
# stay below 2e-6.
FP32_MAX_DIFFERENCE = 1e-4
FP32_MIN_COSINE = 0.99999
# Dynamic int8 turns vectors by some degrees: MiniLM keeps cosines of 0.993 mean and 0.989 least.
FEWER_BITS_MEAN_COSINE = 0.97
FEWER_BITS_MIN_COSINE = 0.90
# Share of the positions or texts whose likeliest token or label stays the same; a 2 x 128 BERT keeps 0.96 in int8.
FP32_TOP1_AGREEMENT = 0.999
FEWER_BITS_TOP1_AGREEMENT = 0.85

MAX_TEXTS = 64  # a few seconds for a small encoder
SINGLE_TEXTS = 8
LONG_TOKENS = 512  # beyond every local window in use


@dataclass(frozen=True)
class Batch:
    """Tokens of one call, by input name, each [B, S], and torch's answer by output name."""

    tokens: dict[str, NDArray[np.int64]]
    expected: dict[str, NDArray[np.float32]]


Answer = Callable[[Path, Sequence[Mapping[str, NDArray[np.int64]]]], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Batches:
    """Right-padded batches: of one text, of eight in the texts' order, and of very unlike lengths.

    The first of `eights` holds the texts of `singles`, in the same order.
    """

    singles: tuple[Batch, ...]
    eights: tuple[Batch, ...]
    mixed: tuple[Batch, ...]

    @property
    def all(self) -> tuple[Batch, ...]:
        """All of them."""
        return self.singles + self.eights + self.mixed

    @property
    def few(self) -> tuple[Batch, ...]:
        """One of each kind and the longest text: enough to see that a graph is wrong."""
        return self.singles[:1] + self.eights[:1] + self.mixed

    @property
    def short(self) -> tuple[Batch, ...]:
        """Some that even an emulator answers in time."""
        return self.singles[:1] + self.eights[:1] + self.mixed[:1]


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


def make_batches(encoder: Encoder, texts: Sequence[str], *, max_length: int) -> Batches:
    """Real text in batches, each answered by torch.

    The longest text is many of them together, so that local attention and the last positions are seen, too.

    Args:
        encoder: the model that is the oracle, and its tokenizer.
        texts: at least one; of more than 64, 64 from all over are taken.
        max_length: tokens that a text is cut to.
    """
    chosen = ladder_texts(texts)
    by_length = sorted(chosen, key=len)
    words = " ".join(chosen).split() or [""]
    endless = " ".join(words * (LONG_TOKENS // len(words) + 1))

    def answered(groups: Sequence[Sequence[str]], longest: int = max_length) -> tuple[Batch, ...]:
        return tuple(_answer(encoder, group, longest) for group in groups)

    unlike = answered([[by_length[0], by_length[-1], by_length[len(by_length) // 2]]])
    return Batches(
        singles=answered([[text] for text in chosen[:SINGLE_TEXTS]]),
        eights=answered([chosen[start : start + 8] for start in range(0, len(chosen), 8)]),
        mixed=unlike + answered([[by_length[0], endless]], min(max_length, LONG_TOKENS)),
    )


def ladder_texts(texts: Sequence[str]) -> list[str]:
    """The texts that the ladder is climbed with: up to 64, from all over."""
    return list(texts[:: max(1, len(texts) // MAX_TEXTS)])[:MAX_TEXTS]


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


def check_parity(
    file: Path, batches: Sequence[Batch], *, task: Task, precision: Precision, answer: Answer | None = None
) -> Parity:
    """Run an ONNX file on the batches and hold its answers against torch's.

    Args:
        file: the graph.
        batches: some of what `make_batches` gave.
        task: which output counts; fp32 graphs are held to all of their outputs.
        precision: which bounds apply.
        answer: gives the task's output elsewhere than on this machine's CPU.

    Returns:
        The figures of the task's output, and whether every bound is kept.
    """
    names = OUTPUT_NAMES[task] if answer is None else OUTPUT_NAMES[task][:1]
    tallies = {name: _Tally() for name in names}
    for batch, answers in zip(batches, _run(file, batches, names, answer), strict=True):
        present = batch.tokens["attention_mask"].astype(bool)
        for name, actual in zip(names, answers, strict=True):
            expected = batch.expected[name]
            rows = (actual, expected) if actual.ndim == 2 else (actual[present], expected[present])
            tallies[name].add(*rows)
    figures = {name: _figures(name, tally, task, precision) for name, tally in tallies.items()}
    main = figures[names[0]]
    if precision != "fp32" or main.passed is False:
        return main
    return next((other for other in figures.values() if not other.passed), main)


def _run(
    file: Path, batches: Sequence[Batch], names: Sequence[str], answer: Answer | None
) -> Sequence[Sequence[NDArray[np.float32]]]:
    if answer is not None:
        return [[one] for one in answer(file, [batch.tokens for batch in batches])]
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4  # what a graph cannot do is raised, too
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken = [node.name for node in session.get_inputs()]
    return [session.run(list(names), {name: batch.tokens[name] for name in taken}) for batch in batches]


@dataclass(frozen=True)
class Invariance:
    """How far the same text's answers are from each other, alone and inside a padded batch of eight."""

    texts: int
    max_difference: float
    min_cosine: float

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def check_invariance(file: Path, batches: Batches, *, task: Task) -> Invariance:
    """Ask for some texts alone and together, and hold the two answers against each other.

    fp32 and calibrated scales give the same but for the order of sums. Dynamic scales are the whole batch's, so that
    a text's answer depends on its neighbours.
    """
    name = OUTPUT_NAMES[task][0]
    (together,), *alone = _run(file, [batches.eights[0], *batches.singles], [name], None)
    tally = _Tally()
    for row, (answer,) in enumerate(alone):
        one = answer[0]
        other = together[row] if one.ndim == 1 else together[row, : len(one)]
        tally.add(np.atleast_2d(one), np.atleast_2d(other))
    return Invariance(len(alone), tally.difference, float(tally.vector_cosines().min()))


def _figures(name: str, tally: _Tally, task: Task, precision: Precision) -> Parity:
    cosines = tally.vector_cosines()
    relative = tally.difference / max(tally.scale, 1e-12)
    lowest, mean = float(cosines.min()), float(cosines.mean())
    agreement = tally.agreeing / tally.rows if name == "logits" and not tally.scores else None
    if precision == "fp32":
        passed = relative <= FP32_MAX_DIFFERENCE and lowest >= FP32_MIN_COSINE
        passed = passed and (agreement is None or agreement >= FP32_TOP1_AGREEMENT)
    elif agreement is None:
        passed = mean >= FEWER_BITS_MEAN_COSINE and lowest >= FEWER_BITS_MIN_COSINE
    else:
        # Where the text is of one label all along, agreement alone would pass any graph that knows but that one.
        passed = agreement >= FEWER_BITS_TOP1_AGREEMENT and (task == "fill-mask" or mean >= FEWER_BITS_MEAN_COSINE)
    return Parity(name, tally.difference, relative, lowest, mean, agreement, passed)
