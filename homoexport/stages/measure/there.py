"""What a graph that is not a package yet meets on a target: its processor, and the answers that it gets there.

B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.target import TargetHost
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.runtime.worker.protocol import InputsRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import find_target, is_plain_cpu, open_target
from homoexport.stages.measure.timing import Subject, load_model


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
    """What a target answers to batches: `input_ids` and `attention_mask` of right-padded texts, each [B, S].

    Raises:
        DeviceError: a device that cannot be used.
        PackageError: a graph that the runtime there cannot load or run.
    """
    subject = Subject(file, file.name, vocab_size=1, outputs=(output,))
    answers = []
    with open_target(device) as target, Worker(target, subject=file.name) as worker:
        load_model(worker, subject, threads=1)
        for batch in batches:
            lengths = batch["attention_mask"].sum(axis=1)
            rows = tuple(tuple(ids[:length].tolist()) for ids, length in zip(batch["input_ids"], lengths, strict=True))
            worker.inputs(InputsRequest(len(rows), rows=rows, pad_token_id=pad_token_id))
            answers.append(worker.answer(output=output))
    return answers
