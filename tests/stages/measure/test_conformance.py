"""What every target must do, whatever it is. A target that is not there is skipped by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from homoexport.errors import HomoexportError, PackageError
from homoexport.runtime.inference import open_package
from homoexport.runtime.worker.protocol import PROTOCOL_VERSION, InputsRequest, LoadReply, LoadRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import KINDS, Target, find_target
from tests.stages.measure.tiny_onnx import weights, write_encoder, write_package

pytestmark = pytest.mark.processes

DEVICES = [
    pytest.param("cpu", id="cpu"),
    pytest.param("cpu:threads=1,memory=400MB", id="limited"),
    pytest.param("cuda", id="cuda"),
    pytest.param("openvino", id="openvino"),
    pytest.param("ssh", id="ssh", marks=pytest.mark.ssh),
    pytest.param("arm64:cortex-a76", id="arm64", marks=pytest.mark.emulated),
    pytest.param("x86:haswell", id="x86", marks=pytest.mark.emulated),
    pytest.param("web", id="web", marks=pytest.mark.web),
]


@pytest.fixture(params=DEVICES)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    device = request.param
    if device.partition(":")[0] not in KINDS:
        pytest.skip(f"no such kind of target: {device}")
    if device == "ssh":
        device = request.getfixturevalue("ssh_device")
    found = find_target(device)
    for need in found.needs():
        pytest.skip(f"{need.what} is missing ({need.command})")
    found.open()
    yield found
    found.close()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_package(tmp_path / "package", arrays=weights(hidden=32, layers=2))


def loaded(worker: Worker, target: Target, model: Path) -> LoadReply:
    (placed,) = target.place([model])
    reply = worker.load(LoadRequest(placed, 1, outputs=("sentence_embedding",), providers=target.providers))
    worker.inputs(InputsRequest(2, 8, 64))
    return reply


def test_a_worker_greets_times_and_answers_as_this_cpu_does(target: Target, package: Path) -> None:
    assert target.cores() >= 1
    assert all(limit.by for limit in target.limits().values())
    model = package / "onnx/model.onnx"
    with Worker(target, subject="the package") as worker:
        greeting = worker.greeting
        assert greeting.protocol_version == PROTOCOL_VERSION
        assert greeting.runtime_rss_bytes > 1e6
        assert greeting.host.architecture
        assert loaded(worker, target, model).load_ns > 0
        warm = worker.warm(seconds=0.2)
        assert warm.first_inference_ns > 0
        timed = worker.time(runs=5)
        assert len(timed.samples_ns) == 5
        assert min(timed.samples_ns) >= 0
        values = worker.answer(output="sentence_embedding")
        assert worker.memory().peak_rss_bytes > greeting.runtime_rss_bytes / 2
        assert len(worker.spin(seconds=0.05)) >= 1
        assert worker.counters().time_ns > 0
    ids = np.random.default_rng(0).integers(0, 64, (2, 8))
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (expected,) = open_package(package, threads=1).run(inputs, ["sentence_embedding"])
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_two_workers_run_side_by_side(target: Target, package: Path) -> None:
    model = package / "onnx/model.onnx"
    with Worker(target, subject="one") as one, Worker(target, subject="other") as other:
        for worker in (one, other):
            loaded(worker, target, model)
            worker.warm(seconds=0.05)
        for worker in (other, one):
            assert len(worker.time(runs=2).samples_ns) == 2


def test_a_file_that_is_no_model_is_one_line(target: Target, tmp_path: Path) -> None:
    broken = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    broken.write_bytes(broken.read_bytes()[:-300])
    with Worker(target, subject="the package") as worker, pytest.raises(PackageError) as raised:
        loaded(worker, target, broken)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_what_was_placed_is_not_sent_again(target: Target, package: Path) -> None:
    files = [package / "onnx/model.onnx", package / "tokenizer.json"]
    first, second = target.place(files), target.place(files)
    assert first == second
    assert [Path(name).name for name in first] == [file.name for file in files]
    assert len({str(Path(name).parent) for name in first}) == 1 or first == [str(file.resolve()) for file in files]


def test_closing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = find_target("cpu")
    target.open()
    with Worker(target, subject="the package"):
        assert list(tmp_path.iterdir())
    target.close()
    assert list(tmp_path.iterdir()) == []


def test_every_kind_is_in_the_list() -> None:
    covered = {str(param.values[0]).partition(":")[0] for param in DEVICES}
    assert covered >= set(KINDS)


@pytest.mark.parametrize("device", ["toaster", "cpu:threads=0", "cpu:memory=8parsecs", "cpu:quota=", "cuda:x=1"])
def test_devices_that_cannot_be_read_are_refused(device: str) -> None:
    with pytest.raises(HomoexportError) as raised:
        find_target(device)
    assert raised.value.exit_code == 2
