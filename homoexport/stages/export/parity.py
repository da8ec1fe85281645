"""The parity ladder: does a graph answer as the torch model does, on real right-padded text?

Every rung (each form in fp32, and each scheme of fewer bits) is held against torch itself, so that small differences
cannot add up unseen from rung to rung. Only positions that count are held: those that carry a token, or a mask.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.choices import OUTPUT_NAMES, ModelTask, WeightPrecision
from homoexport.documents.package import Invariance, Parity
from homoexport.host import available_cores
from homoexport.runtime.vectors import cosines
from homoexport.stages.export.ladder import Batch, Batches

# Largest difference over the largest value. fp32 rungs do the same sums in another order: MiniLM and a 2 x 128 BERT
# stay below 2e-6.
FP32_MAX_DIFFERENCE = 1e-4
FP32_MIN_COSINE = 0.99999
# Dynamic int8 turns vectors by some degrees: MiniLM keeps cosines of 0.993 mean and 0.989 least.
FEWER_BITS_MEAN_COSINE = 0.97
FEWER_BITS_MIN_COSINE = 0.90
# Share of the positions or texts whose likeliest token or label stays the same; of the masks of a 2 x 128 BERT 0.91 do
# in int8.
FP32_TOP1_AGREEMENT = 0.999
FEWER_BITS_TOP1_AGREEMENT = 0.85

Answer = Callable[[Path, Sequence[Mapping[str, NDArray[np.int64]]]], Sequence[NDArray[np.float32]]]


@dataclass
class _Tally:
    of_scores: bool  # a classifier's, not vectors
    difference: float = 0.0
    scale: float = 0.0
    cosines: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[NDArray[np.float32]] = field(default_factory=list)  # [2, N, C], ours and torch's
    agreeing: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))  # [1], or [C]
    rows: int = 0

    def add(self, actual: NDArray[np.float32], expected: NDArray[np.float32], *, multi_label: bool = False) -> None:
        """Take in rows [N, D]; a value that is not finite makes the difference infinite."""
        difference = np.abs(actual - expected).max(initial=0.0)
        self.difference = max(self.difference, float(difference) if np.isfinite(difference) else float("inf"))
        self.scale = max(self.scale, float(np.abs(expected).max(initial=0.0)))
        if self.of_scores:
            self.scores.append(np.stack([actual, expected]))
        else:
            self.cosines.append(cosines(actual, expected))
        same = (actual > 0) == (expected > 0) if multi_label else (actual.argmax(1) == expected.argmax(1))[:, None]
        self.agreeing = self.agreeing + same.sum(axis=0)
        self.rows += len(expected)

    @property
    def one_score(self) -> bool:
        """Whether there is no choice among labels, but one score."""
        return any(scores.shape[2] == 1 for scores in self.scores)

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return self.difference / max(self.scale, 1e-12)

    def vector_cosines(self) -> NDArray[np.float64]:
        """Of each row; or, of scores, of all rows together, about each label's mean of torch's."""
        if not self.of_scores:
            return np.concatenate(self.cosines or [np.zeros(0)])
        if self.relative <= FP32_MAX_DIFFERENCE:  # scores that are all alike have no direction
            return np.ones(1)
        scores = np.concatenate(self.scores, axis=1)
        ours, torchs = (scores - scores[1].mean(axis=0)).reshape(2, 1, -1)
        return cosines(ours, torchs)


def check_parity(
    file: Path, batches: Sequence[Batch], *, task: ModelTask, precision: WeightPrecision, answer: Answer | None = None
) -> Parity:
    """Run an ONNX file on the batches and hold its answers against torch's, within the bounds of a precision.

    The figures are those of the task's output; fp32 graphs are held to all of their outputs. `answer` gives the task's
    output elsewhere than on this machine's CPU.
    """
    names = OUTPUT_NAMES[task] if answer is None else OUTPUT_NAMES[task][:1]
    tallies = {name: _Tally(of_scores=task.endswith("-classification")) for name in names}
    for batch, answers in zip(batches, _run(file, batches, names, answer), strict=True):
        for name, actual in zip(names, answers, strict=True):
            expected = batch.expected[name]
            rows = (actual, expected) if actual.ndim == 2 else (actual[batch.counted], expected[batch.counted])
            tallies[name].add(*rows, multi_label=batch.multi_label)
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


def check_invariance(file: Path, batches: Batches, *, task: ModelTask, answer: Answer | None = None) -> Invariance:
    """Ask for some texts alone and together, and hold the two answers against each other.

    fp32 and calibrated scales give the same but for the order of sums. Dynamic scales are the whole batch's, so that
    a text's answer depends on its neighbours. Asked are the first eight texts, and the shortest by a far longer one.
    """
    name = OUTPUT_NAMES[task][0]
    asked = [batches.eights[0], batches.mixed[-1], *batches.singles, batches.short_one]
    (eight,), (pair,), *alone = _run(file, asked, [name], answer)
    tally = _Tally(of_scores=task.endswith("-classification"))
    for (one,), other in zip(alone, [*eight, pair[0]], strict=True):
        tally.add(np.atleast_2d(one[0]), np.atleast_2d(other if other.ndim == 1 else other[: len(one[0])]))
    cosine = None if tally.of_scores else float(tally.vector_cosines().min())
    return Invariance(texts=len(alone), max_difference=_finite(tally.difference), min_cosine=cosine)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _figures(name: str, tally: _Tally, task: ModelTask, precision: WeightPrecision) -> Parity:
    directions = tally.vector_cosines()
    lowest, mean = float(directions.min()), float(directions.mean())
    agreement = float(tally.agreeing.min()) / max(tally.rows, 1) if name == "logits" and not tally.one_score else None
    if precision == "fp32":
        passed = tally.relative <= FP32_MAX_DIFFERENCE and lowest >= FP32_MIN_COSINE
        passed = passed and (agreement is None or agreement >= FP32_TOP1_AGREEMENT)
    elif agreement is None:
        passed = mean >= FEWER_BITS_MEAN_COSINE and lowest >= FEWER_BITS_MIN_COSINE
    else:
        # Where the text is of one label all along, agreement alone would pass any graph that knows but that one.
        passed = agreement >= FEWER_BITS_TOP1_AGREEMENT and (task == "fill-mask" or mean >= FEWER_BITS_MEAN_COSINE)
    return Parity(
        output=name,
        max_difference=_finite(tally.difference),
        max_relative_difference=_finite(tally.relative),
        min_cosine=lowest,
        mean_cosine=mean,
        top1_agreement=agreement,
        passed=passed,
    )
