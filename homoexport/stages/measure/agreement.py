"""Does a package answer on the target as it does on this machine's CPU?

The bounds: fp32 kernels do the same sums in another order. Dynamic int8 rounds its activations by scales
that follow from those sums, so a difference in the last digit can move a value by one step of the scale;
CPUs without VNNI saturate besides. Where answers leave the bound, the package is another model there.

B batch, S sequence, D hidden.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.measurement import Agreement
from homoexport.runtime.vectors import cosines
from homoexport.runtime.worker.protocol import InputsRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import is_plain_cpu, open_target
from homoexport.stages.measure.timing import Running, Subject, load_model

TEXTS, TOKENS = 2, 16
FP32_MAX_RELATIVE_DIFFERENCE = 1e-3
INT8_MIN_COSINE = 0.99


def agreement(one: Running, *, precision: str) -> Agreement | None:
    """A running package's answer held against this CPU's; None where that is where it runs."""
    if is_plain_cpu(one.worker.target):
        return None
    assert one.subject.outputs is not None
    there, here = answer_of(one.worker, one.subject), reference_answer(one.subject)
    return compare_answers(there, here, output=one.subject.outputs[0], precision=precision)


def answer_of(worker: Worker, subject: Subject) -> NDArray[np.float32]:
    """What a loaded model answers to one small batch of random token ids, the same everywhere."""
    assert subject.outputs is not None
    worker.inputs(InputsRequest(TEXTS, TOKENS, subject.vocab_size))
    return worker.answer(output=subject.outputs[0])


def reference_answer(subject: Subject) -> NDArray[np.float32]:
    """The same from this machine's CPU, in a worker of its own."""
    with open_target("cpu") as target, Worker(target, subject=subject.name) as worker:
        load_model(worker, subject, threads=1)
        return answer_of(worker, subject)


def compare_answers(there: NDArray[np.float32], here: NDArray[np.float32], *, output: str, precision: str) -> Agreement:
    """Hold two answers against each other, by the bound of the precision."""
    exact = precision == "fp32"
    bound = f"cosine at least {INT8_MIN_COSINE:g}"
    if exact:
        bound = f"largest difference at most {FP32_MAX_RELATIVE_DIFFERENCE:g} of the largest value"
    difference = relative = cosine = None
    within = False
    if there.shape == here.shape and np.isfinite(there).all() and np.isfinite(here).all():
        difference = float(np.abs(there - here).max())
        relative = difference / float(np.abs(here).max() or 1)
        rows, others = (values.reshape(-1, values.shape[-1]) for values in (there, here))
        cosine = float(cosines(rows, others).min())  # vectors, or logits
        within = relative <= FP32_MAX_RELATIVE_DIFFERENCE if exact else cosine >= INT8_MIN_COSINE
    return Agreement(
        output=output,
        max_difference=difference,
        max_relative_difference=relative,
        min_cosine=cosine,
        bound=bound,
        within=within,
    )
