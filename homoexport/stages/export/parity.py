"""The parity ladder: does a graph answer as the torch model does, on real right-padded text?

Every rung (each form in fp32, and each scheme of fewer bits) is held against torch itself, so that small differences
cannot add up unseen from rung to rung. Only positions that count are held: those that carry a token, or a mask.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import CLASSIFYING, OUTPUT_NAMES, ModelTask, WeightPrecision
from homoexport.documents.package import Invariance, Parity
from homoexport.host import available_cores
from homoexport.runtime.session import OnnxSession
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


def check_parity(
    file: Path, batches: Sequence[Batch], *, task: ModelTask, precision: WeightPrecision, answer: Answer | None = None
) -> Parity:
    """Run an ONNX file on the batches and hold its answers against torch's, within the bounds of a precision.

    The figures are those of the task's output; fp32 graphs are held to all of their outputs. `answer` gives the task's
    output elsewhere than on this machine's CPU.
    """
    names = OUTPUT_NAMES[task] if answer is None else OUTPUT_NAMES[task][:1]
    answers = _run(file, batches, names, answer)
    figures = []
    for name, outputs in zip(names, zip(*answers, strict=True), strict=True):
        wanted = [batch.expected[name] for batch in batches]
        counted = [
            batch.counted if rows.ndim == 3 else slice(None) for batch, rows in zip(batches, wanted, strict=True)
        ]
        actual, expected = (
            np.concatenate([rows[which] for rows, which in zip(each, counted, strict=True)])
            for each in (outputs, wanted)
        )
        multi_label = any(batch.multi_label for batch in batches)
        figures.append(_figures(name, actual, expected, task=task, precision=precision, multi_label=multi_label))
    main = figures[0]
    if precision != "fp32" or not main.passed:
        return main
    return next((other for other in figures if not other.passed), main)


def _run(
    file: Path, batches: Sequence[Batch], names: Sequence[str], answer: Answer | None
) -> Sequence[Sequence[NDArray[np.float32]]]:
    if answer is not None:
        return [[one] for one in answer(file, [batch.tokens for batch in batches])]
    session = OnnxSession(file, threads=available_cores())
    taken = [node.name for node in session.get_inputs()]
    return [session.run(names, {name: batch.tokens[name] for name in taken}) for batch in batches]


def in_words(parity: Parity) -> str:
    """The figures of an output, for a reason."""
    agreement = "" if parity.top1_agreement is None else f", top-1 agreement {parity.top1_agreement:.3f}"
    difference = "not finite" if parity.max_difference is None else f"{parity.max_difference:.2g}"
    difference += f" in values of up to {parity.largest_value:.2g}" if parity.largest_value else ""
    return (
        f"({parity.output}) largest difference {difference}, "
        f"cosine {parity.mean_cosine:.4f} mean and {parity.min_cosine:.4f} least{agreement}"
    )


def check_invariance(file: Path, batches: Batches, *, task: ModelTask, answer: Answer | None = None) -> Invariance:
    """Ask for some texts alone and together, and hold the two answers against each other.

    fp32 and calibrated scales give the same but for the order of sums. Dynamic scales are the whole batch's, so that
    a text's answer depends on its neighbours. Asked are the first eight texts, and the shortest by a far longer one.
    """
    name = OUTPUT_NAMES[task][0]
    asked = [batches.eights[0], batches.mixed[-1], *batches.singles, batches.short_one]
    (eight,), (pair,), *alone = _run(file, asked, [name], answer)
    one_by_one = [np.atleast_2d(one[0]) for (one,) in alone]
    in_company = [
        np.atleast_2d(other if other.ndim == 1 else other[: len(one)])
        for one, other in zip(one_by_one, [*eight, pair[0]], strict=True)
    ]
    ours, others = np.concatenate(one_by_one), np.concatenate(in_company)
    cosine = None if task in CLASSIFYING else float(cosines(ours, others).min())
    return Invariance(texts=len(alone), max_difference=_finite(_difference(ours, others)), min_cosine=cosine)


def _difference(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest one; infinite where a value is not finite."""
    difference = float(np.abs(actual - expected).max(initial=0.0))
    return difference if math.isfinite(difference) else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _directions(
    actual: NDArray[np.float32], expected: NDArray[np.float32], relative: float, task: ModelTask
) -> NDArray[np.float64]:
    """Cosines of each row; or, of scores, of all rows together, about each label's mean of torch's."""
    if task not in CLASSIFYING:
        return cosines(actual, expected)
    if relative <= FP32_MAX_DIFFERENCE:  # scores that are all alike have no direction
        return np.ones(1)
    ours, torchs = (np.stack([actual, expected]) - expected.mean(axis=0)).reshape(2, 1, -1)
    return cosines(ours, torchs)


def _figures(
    name: str,
    actual: NDArray[np.float32],
    expected: NDArray[np.float32],
    *,
    task: ModelTask,
    precision: WeightPrecision,
    multi_label: bool,
) -> Parity:
    """Of rows [N, D] of an output."""
    difference = _difference(actual, expected)
    relative = difference / max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    directions = _directions(actual, expected, relative, task)
    lowest, mean = float(directions.min()), float(directions.mean())
    agreement = None
    if name == "logits" and expected.shape[1] > 1:  # one score is no choice among labels
        same = (actual > 0) == (expected > 0) if multi_label else (actual.argmax(1) == expected.argmax(1))[:, None]
        agreement = float(same.sum(axis=0).min()) / max(len(expected), 1)
    if precision == "fp32":
        passed = relative <= FP32_MAX_DIFFERENCE and lowest >= FP32_MIN_COSINE
        passed = passed and (agreement is None or agreement >= FP32_TOP1_AGREEMENT)
    elif agreement is None:
        passed = mean >= FEWER_BITS_MEAN_COSINE and lowest >= FEWER_BITS_MIN_COSINE
    else:
        # Where the text is of one label all along, agreement alone would pass any graph that knows but that one.
        passed = agreement >= FEWER_BITS_TOP1_AGREEMENT and (task == "fill-mask" or mean >= FEWER_BITS_MEAN_COSINE)
    return Parity(
        output=name,
        max_difference=_finite(difference),
        max_relative_difference=_finite(relative),
        min_cosine=lowest,
        mean_cosine=mean,
        top1_agreement=agreement,
        passed=passed,
    )
