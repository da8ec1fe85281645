"""Counting instructions: a worker that counts is asked for the difference, one that does not is not asked at all."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from homoexport.errors import DeviceError
from homoexport.stages.measure import count_files, counting
from homoexport.stages.measure.counting import instructions_of
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory
from tests.stages.measure.tiny_onnx import weights, write_package

CONDITIONS = {"threads": 1, "batch_size": 1, "length": 8, "vocab_size": 64, "outputs": ("sentence_embedding",)}


class Counting:
    """A worker that has started, and whose every request and inference costs the same."""

    def __init__(self, *, request: int = 3000, inference: int = 500) -> None:
        self.so_far: int | None = 10**6
        self.request, self.inference, self.runs = request, inference, 0

    def time(self, *, runs: int) -> None:
        self.runs += runs + 1
        if self.so_far is not None:
            self.so_far += self.request + (runs + 1) * self.inference

    def instructions(self) -> int | None:
        return self.so_far


@pytest.mark.parametrize("batches", [1, 7])
def test_what_a_request_takes_is_not_the_inferences(batches: int) -> None:
    assert instructions_of(cast(Worker, Counting()), batches=batches) == 500


def test_where_nothing_counts_nothing_is_run() -> None:
    worker = Counting()
    worker.so_far = None
    assert instructions_of(cast(Worker, worker), batches=1) is None
    assert worker.runs == 0


@pytest.mark.processes
def test_a_target_that_counts_nothing_ranks_nothing(tmp_path: Path) -> None:
    model = write_package(tmp_path / "package", arrays=weights()) / "onnx" / "model.onnx"
    with pytest.raises(DeviceError, match="nothing counts instructions there"):
        count_files([model], device="cpu", **CONDITIONS)


@pytest.mark.processes
def test_what_does_not_fit_costs_infinitely_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_package(tmp_path / "package", arrays=weights()) / "onnx" / "model.onnx"

    def load(*_: object, **__: object) -> None:
        raise OutOfMemory("too big", where="cpu")

    monkeypatch.setattr(counting, "load_model", load)
    assert count_files([model], device="cpu", **CONDITIONS) == [float("inf")]
