"""What a graph that is not a package yet meets on a target: its processor, and the answers that it gets there.

B batch, S sequence, D hidden, C labels, V vocabulary.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.target import TargetHost
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.measure.process import Worker
from homoexport.measure.targets import LocalCpu, Target, find_target
from homoexport.measure.timing import Subject, load_model, place


def host_of(device: str) -> TargetHost:
    """The processor and runtime of a target, as a worker there tells them.

    Raises:
        DeviceError: a device that is unknown, or cannot be used here.
    """
    target = find_target(device)
    is_here = _is_here(target)
    host, versions, cores = describe_host(), library_versions(), available_cores()
    if not is_here:
        with closing(target):
            target.open()
            cores = target.cores()
            with Worker(target, subject=device) as worker:
                host, versions = (worker.greeting.get(name, {}) for name in ("host", "versions"))
    x86 = str(host.get("architecture", "")).lower() in ("x86_64", "amd64")
    return TargetHost(
        is_here=is_here,
        emulated=target.emulated,
        provider=target.providers[0],
        cpu=str(host.get("cpu", "an unknown CPU")),
        x86=x86,
        instruction_sets=tuple(host.get("instruction_sets", ())),
        runtime=str(versions.get("onnxruntime", "")),
        cores=cores,
    )


def _is_here(target: Target) -> bool:
    return isinstance(target, LocalCpu) and target.providers == ("CPUExecutionProvider",)


def answers_of_file(
    file: Path, batches: Sequence[Mapping[str, NDArray[np.int64]]], *, device: str, pad_token_id: int, output: str
) -> list[NDArray[np.float32]]:
    """What a target answers to batches of token ids.

    Args:
        file: an ONNX file.
        batches: `input_ids` and `attention_mask` of right-padded texts, each [B, S].
        device: where to ask.
        pad_token_id: of the padding.
        output: which output is asked for.

    Raises:
        DeviceError: a device that cannot be used.
        PackageError: a graph that the runtime there cannot load or run.
    """
    target = find_target(device)
    subject = Subject(file, file.name, vocab_size=1, outputs=(output,))
    answers = []
    with closing(target):
        target.open()
        with Worker(target, subject=file.name) as worker:
            load_model(worker, subject, target, model=place(subject, target)[0], threads=1)
            for batch in batches:
                lengths = batch["attention_mask"].sum(axis=1)
                rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], lengths, strict=True)]
                worker.ask("inputs", batch_size=len(rows), rows=rows, pad_token_id=pad_token_id)
                reply = worker.ask("answer", output=output)
                values = np.frombuffer(base64.b64decode(reply["float32"]), dtype="<f4")
                answers.append(values.reshape(reply["shape"]))
    return answers
