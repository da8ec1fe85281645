"""What a graph meets on a target: its processor, and the answers that it gives there, held against this CPU's.

The bounds: fp32 kernels do the same sums in another order. Dynamic int8 rounds its activations by scales
that follow from those sums, so a difference in the last digit can move a value by one step of the scale;
CPUs without VNNI saturate besides. Where answers leave the bound, the package is another model there.

B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.measurement import Agreement
from homoexport.documents.target import TargetHost
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.runtime.vectors import cosines
from homoexport.runtime.worker.protocol import InputsRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import find_target, is_plain_cpu, open_target
from homoexport.stages.measure.timing import Running, Subject, load_model

TEXTS, TOKENS = 2, 16
FP32_MAX_RELATIVE_DIFFERENCE = 1e-3
INT8_MIN_COSINE = 0.99


def host_of(device: str) -> TargetHost:
    """The processor and runtime of a target, as a worker there tells them.

    Raises:
        DeviceError: a device that is unknown, or cannot be used here.
    """
    target = find_target(device)
    host, versions, cores = describe_host(), library_versions(), available_cores()
    if not is_plain_cpu(target):
        with open_target(device) as target, Worker(target, subject=device) as worker:
            host, versions, cores = worker.greeting.host, worker.greeting.versions, target.cores()
    return TargetHost(
        is_here=is_plain_cpu(target),
        emulated=target.emulated,
        provider=target.providers[0],
        cpu=host.cpu,
        x86=host.architecture.lower() in ("x86_64", "amd64"),
        instruction_sets=host.instruction_sets,
        runtime=versions.get("onnxruntime", ""),
        cores=cores,
    )


def answers_of_file(
    file: Path, batches: Sequence[Mapping[str, NDArray[np.int64]]], *, device: str, pad_token_id: int, output: str
) -> list[NDArray[np.float32]]:
    """What a target answers to batches: `input_ids`, `attention_mask` and, where the model knows two texts apart,
    `token_type_ids` of right-padded texts, each [B, S].

    Raises:
        DeviceError: a device that cannot be used.
        PackageError: a graph that the runtime there cannot load or run.
    """
    subject = Subject(file, file.name, vocab_size=1, outputs=(output,))
    answers = []
    with open_target(device) as target, Worker(target, subject=file.name, runtime=subject.runtime) as worker:
        load_model(worker, subject, threads=1)
        for batch in batches:
            lengths = batch["attention_mask"].sum(axis=1)
            rows, types = _unpadded(batch["input_ids"], lengths), None
            if batch.get("token_type_ids", np.zeros(1)).any():
                types = _unpadded(batch["token_type_ids"], lengths)
            worker.inputs(InputsRequest(len(rows), rows=rows, pad_token_id=pad_token_id, types=types))
            answers.append(worker.answer(output=output))
    return answers


def _unpadded(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row[:length].tolist()) for row, length in zip(values, lengths, strict=True))


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
    with open_target("cpu") as target, Worker(target, subject=subject.name, runtime=subject.runtime) as worker:
        load_model(worker, subject, threads=1)
        return answer_of(worker, subject)


def compare_answers(there: NDArray[np.float32], here: NDArray[np.float32], *, output: str, precision: str) -> Agreement:
    """Hold answers from a target against those from here, by the bound of the precision."""
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
