"""Instructions of an inference, where an emulator counts them: what a graph costs a processor that has no clock here.

They are the same each time, within some ten thousand. But a cheap one counts like a dear one, and a value that waits
for memory like one that does not: they compare graphs on one core, and are no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory, find_target, open_target
from homoexport.stages.measure.targets.emulated import EmulatedCpu
from homoexport.stages.measure.targets.protocol import refuse_needs
from homoexport.stages.measure.timing import Subject, Workload, inputs_request, load_model

_FEW_RUNS, _MANY_RUNS = 1, 2  # of each batch, beside one that nobody times


def instructions_of(worker: Worker, *, batches: int) -> float | None:
    """Instructions of one inference of a loaded model, at the mean of its batches; None where nothing counts them.

    It is what more runs take beyond fewer, so that all that is done once for a request is in neither.
    """
    counts = []
    for runs in (_FEW_RUNS, _FEW_RUNS, _MANY_RUNS):
        if worker.instructions() is None:
            return None
        worker.time(runs=runs * batches)
        counts.append(worker.instructions() or 0)
    before, few, many = counts
    return ((many - few) - (few - before)) / ((_MANY_RUNS - _FEW_RUNS) * batches)


def refuse_uncounted(device: str) -> None:
    """Refuse an emulated device whose instructions cannot be counted here.

    Raises:
        DeviceError: QEMU, plugins of it, or a C compiler is missing.
    """
    target = find_target(device)
    if isinstance(target, EmulatedCpu):
        refuse_needs(target.needs_to_count(), where=device)


def count_files(
    files: Sequence[Path],
    *,
    device: str,
    threads: int | None,
    batch_size: int,
    length: int,
    vocab_size: int,
    outputs: tuple[str, ...],
) -> list[float]:
    """Instructions of one inference of plain ONNX files on an emulated device; see `rank_files`.

    Infinity for a file that the target's memory cannot hold.

    Raises:
        PackageError: a file that onnxruntime cannot load or run.
        DeviceError: the device cannot be used, or nothing counts instructions there.
    """
    with open_target(device) as target:
        workload = Workload(target.cores() if threads is None else threads, batch_size, length)
        found = []
        for file in files:
            subject = Subject(file, str(file), vocab_size, outputs)
            try:
                with Worker(target, subject=subject.name) as worker:
                    load_model(worker, subject, threads=workload.threads)
                    batches = worker.inputs(inputs_request(subject, workload)).batches
                    counted = instructions_of(worker, batches=batches)
            except OutOfMemory:
                counted = float("inf")
            if counted is None:
                raise target.error("nothing counts instructions there", "see docs/targets.md")
            found.append(counted)
        return found
