"""This machine under limits: by control groups where they may be made, else by resource limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homoexport.cgroup import ChildGroups, find_group
from homoexport.documents.measurement import Limit
from homoexport.errors import DeviceError
from homoexport.host import available_cores
from homoexport.stages.measure import measure_packages
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import find_target
from tests.stages.measure.tiny_onnx import weights, write_package

pytestmark = pytest.mark.processes


def groups_may_be_made() -> bool:
    try:
        groups = ChildGroups(quota=0.5, memory_bytes=10**8)
        groups.make("probe")
        groups.remove()
    except OSError:
        return False
    return True


@pytest.fixture(params=["groups", "resource limits"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "groups" and not groups_may_be_made():
        pytest.skip("control groups may not be made here")
    if request.param == "resource limits":

        def refuse(**_: object) -> None:
            raise OSError("read-only file system")

        monkeypatch.setattr("homoexport.stages.measure.targets.local.ChildGroups", refuse)
    return request.param


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """40 layers of 1 MB, and an embedding of 0.1 MB."""
    return write_package(tmp_path / "heavy", arrays=weights(hidden=512, layers=150))  # 157 MB of weights


def test_a_package_that_does_not_fit_is_a_result(way: str, heavy: Path, tmp_path: Path) -> None:
    light = write_package(tmp_path / "light")
    found = measure_packages([light, heavy], device="cpu:memory=170MB", length=8, min_seconds=0.05)
    assert [figures.package for figures in found.results] == [str(light)]
    (failure,) = found.failures
    assert failure.package == str(heavy)
    assert failure.stage == "load"
    assert "170 MB" in failure.reason or "alloc" in failure.reason
    by = found.limits["memory_mb"].by
    assert by.startswith("cgroup v") if way == "groups" else by == "RLIMIT_DATA"
    assert found.comparisons == ()


def test_memory_too_small_even_for_the_runtime_is_a_result_too(way: str, tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    found = measure_packages([package], device="cpu:memory=4MB", length=8, min_seconds=0.05)
    (failure,) = found.failures
    assert failure.stage == "start"
    assert found.noise is None


def test_a_worker_has_the_cores_that_it_was_given(tmp_path: Path) -> None:
    target = find_target("cpu:threads=1")
    target.open()
    before = os.sched_getaffinity(0)
    with Worker(target, subject="x") as worker:
        assert len(os.sched_getaffinity(worker.process_id)) == 1
        assert worker.greeting.host.available_cores == 1
    target.close()
    assert os.sched_getaffinity(0) == before
    assert target.limits() == {"cores": Limit(limit=1, by="sched_setaffinity")}


def test_threads_default_to_the_cores_that_are_given(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    assert measure_packages([package], device="cpu:threads=1", length=8, min_seconds=0.05).threads == 1
    assert measure_packages([package], length=8, min_seconds=0.05).threads == available_cores()


@pytest.mark.alone
def test_a_quota_holds_and_is_said_to(tmp_path: Path) -> None:
    if not groups_may_be_made():
        pytest.skip("control groups may not be made here")
    package = write_package(tmp_path / "package", arrays=weights(hidden=256, layers=4), repeat=8)
    whole = measure_packages([package], device="cpu:threads=1", length=32, min_seconds=0.5).results[0]
    half = measure_packages([package], device="cpu:quota=0.3", length=32, min_seconds=0.5)
    assert half.limits["quota"].by.startswith("cgroup v")
    assert half.results[0].latency_mean_ms > 1.5 * whole.latency_mean_ms


def test_a_quota_that_nothing_can_enforce_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("homoexport.stages.measure.targets.local.ChildGroups", refuse)
    target = find_target("cpu:quota=0.5")
    with pytest.raises(DeviceError, match=r"a quota of 0.5 needs a control group, .* \(read-only file system\)"):
        target.open()
    target.close()


def test_a_quota_below_what_the_kernel_takes_is_told_and_leaves_no_group(tmp_path: Path) -> None:
    if not groups_may_be_made():
        pytest.skip("control groups may not be made here")
    target = find_target("cpu:quota=0.001")
    with pytest.raises(DeviceError, match=r"the kernel refuses a quota of 0.001"):
        target.open()
    target.close()
    group = find_group("cpu")
    assert group is not None
    assert not list(group.folder.glob(f"homoexport-{os.getpid()}-*"))


def test_more_cores_than_there_are_is_refused() -> None:
    for device in ("cpu:threads=4096", "cpu:quota=4096"):
        target = find_target(device)
        with pytest.raises(DeviceError, match="4096 where"):
            target.open()
        target.close()


def test_a_resource_limit_is_held_by_what_is_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_DATA counts no pages of libraries, so that a process may have more than it was given."""

    def refuse(**_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("homoexport.stages.measure.targets.local.ChildGroups", refuse)
    package = write_package(tmp_path / "package")
    monkeypatch.setattr(Worker, "own_peak_bytes", lambda _: 180_000_000)
    found = measure_packages([package], device="cpu:memory=170MB", length=8, min_seconds=0.05)
    assert found.results == ()
    (failure,) = found.failures
    assert failure.stage == "timing"
    assert "180.0 MB resident where 170 MB are given" in failure.reason
    enough = measure_packages([package], device="cpu:memory=190MB", length=8, min_seconds=0.05)
    assert len(enough.results) == 1
