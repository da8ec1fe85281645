"""Machines that are not as fast as they can be: seen by waiting, and beside the best that was seen of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from homoexport.documents.measurement import Noise
from homoexport.runtime.worker import machine
from homoexport.stages.measure import measure_packages, quiet_rounds
from homoexport.stages.measure.noise import best_pace_us, disturbed_rounds, is_disturbed, judge_noise
from tests.stages.measure.test_compare import HOST, QUIET, counters, figures
from tests.stages.measure.tiny_onnx import weights, write_package

PAIR = (counters(0, 0, 0), counters(10, 10, 10))


def judged(spin_us: list[float], **given: Any) -> Noise:
    return judge_noise(spin_us, [PAIR], **given)


def test_a_machine_below_its_best_pace_is_slowed_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(Path.home() / "some cache"))
    quiet = judged([500.0] * 10, after_us=[510.0] * 10, best_us=480.0)
    assert (quiet.slowed, quiet.remarks) == (False, ())
    slow = judged([500.0] * 10, after_us=[1150.0] * 10, best_us=500.0)
    assert slow.pace == pytest.approx(2.3)
    assert slow.slowed
    (told,) = slow.remarks
    assert told.startswith("the machine took 2.30 times as long for idle arithmetic as at its best; if that is its ")
    assert told.endswith("remove ~/some cache/pace")
    assert judged([1150.0] * 10).pace is None  # nothing to compare with


def test_what_slices_take_is_in_the_mean_alone() -> None:
    """A neighbour that has the core half of the time leaves the median as it is."""
    sliced = judged(([500.0] * 8 + [4500.0]) * 10, best_us=500.0)
    assert sliced.spin_p50_us == 500
    assert sliced.spin_mean_us == pytest.approx(944, rel=0.01)
    assert sliced.disturbed_share == pytest.approx(1 / 9)
    assert is_disturbed(sliced, rounds=20, disturbed=())


@pytest.mark.parametrize(("busy", "slowed"), [(10, True), (160, False)])
def test_a_hypervisor_that_takes_time_has_slowed_the_machine(busy: float, slowed: bool) -> None:
    """By how much of what was wanted it took: the same second is nothing to sixteen busy cores."""
    assert judge_noise([500.0] * 10, [(counters(0, 0, 0), counters(10, 10, busy, 1.0))]).slowed is slowed


def greeting(**changes: Any) -> Any:
    given = {"host": HOST, "versions": {"python": "3.11.7"}, "cores": [0, 1]}
    return SimpleNamespace(**{**given, **changes})


def target(name: str = "cpu", *, emulated: bool = False) -> Any:
    return SimpleNamespace(name=name, emulated=emulated)


def test_the_best_pace_is_remembered_by_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path))
    assert best_pace_us(target(), greeting(), [600.0, 610.0, 620.0]) == 610
    assert best_pace_us(target(), greeting(), [500.0]) == 500
    assert best_pace_us(target("cpu:memory=70MB"), greeting(), [1150.0]) == 500
    others = (greeting(cores=[0]), greeting(versions={"python": "3.12.1"}))
    for other in others:
        assert best_pace_us(target(), other, [1150.0]) == 1150
    assert best_pace_us(target("ssh://pi"), greeting(), [900.0]) == 900
    assert best_pace_us(target("arm64", emulated=True), greeting(), [100.0]) is None
    for file in (tmp_path / "pace").iterdir():
        file.write_text("{")
    assert best_pace_us(target(), greeting(), [700.0]) == 700


def test_a_machine_that_is_new_is_not_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path))
    spins = [1150.0] * 10
    first = judged(spins, after_us=spins, best_us=best_pace_us(target(), greeting(), spins))
    assert (first.pace, first.slowed, first.remarks) == (1.0, False, ())


def test_a_pace_that_is_never_reached_again_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock may be changed for good."""
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path))
    day, today = 86_400.0, time.time()

    def best_on(days: float, spin_us: float) -> float | None:
        monkeypatch.setattr(time, "time", lambda: today + days * day)
        return best_pace_us(target(), greeting(), [spin_us])

    assert best_on(0, 500.0) == 500
    assert best_on(10, 520.0) == 500  # about as fast, so that two weeks begin anew
    assert best_on(23, 1150.0) == 500
    assert best_on(25, 1150.0) == 1150
    assert best_on(26, 1140.0) == 1140
    assert best_on(0, 1300.0) == 1300  # a clock that was turned back


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "file"))
    assert best_pace_us(target(), greeting(), [600.0]) == 600


def test_rounds_in_which_it_waited_are_found() -> None:
    rounds = [[100, 100], [100, 100], [400, 100], [100, 100]]
    assert disturbed_rounds(rounds, [0, 14, 300, 16]) == (2, 3)  # of 300 with the untimed run, a twentieth is 15
    assert disturbed_rounds(rounds, [None] * 4) == ()


@pytest.mark.parametrize(("disturbed", "steady"), [(0, True), (2, True), (3, False)])
def test_a_few_disturbed_rounds_of_twenty_move_no_median(disturbed: int, steady: bool) -> None:
    assert is_disturbed(QUIET, rounds=20, disturbed=range(disturbed)) is not steady


def test_figures_are_of_the_quiet_rounds_where_there_are_enough() -> None:
    calm = figures("a", 10)  # 20 rounds of 10
    assert quiet_rounds(calm)[1] == 1
    samples = list(calm.samples_ms)
    samples[:80] = [23.0] * 80
    busy = calm.model_copy(update={"samples_ms": tuple(samples), "disturbed_rounds": tuple(range(8))})
    rounds, share = quiet_rounds(busy)
    assert (rounds.shape, share) == ((12, 10), 0.6)
    assert rounds.max() < 12
    always = calm.model_copy(update={"disturbed_rounds": tuple(range(11))})
    rounds, share = quiet_rounds(always)
    assert (rounds.shape, share) == ((20, 10), 0)


def test_the_kernels_waiting_is_summed_over_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread, line in (("7", "100 2500 3\n"), ("8", "0 500 1\n")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(line)
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    assert machine.waited_ns(tmp_path) == 3000
    assert machine.waited_ns(tmp_path / "none") is None
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.5)  # which has it wait, too
    assert machine.waited_ns(tmp_path) is None


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A core that another process burns, and the only one that this one may use."""
    if not hasattr(os, "sched_setaffinity") or machine.waited_ns() is None:
        pytest.skip("the kernel does not tell who waited, or has a quota")
    mine = os.sched_getaffinity(0)
    core = max(mine)
    os.sched_setaffinity(0, {core})
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.3)
        yield core
        process.kill()
    os.sched_setaffinity(0, mine)


@pytest.mark.usefixtures("neighbour")
def test_the_kernels_waiting_is_exact_at_once() -> None:
    """Not brought up to date at its ticks alone, which come every 4 ms and would be lost on short rounds."""
    waits_ms, errors_ms = [], []
    for _ in range(21):
        told, began, ran = machine.waited_ns(), time.perf_counter_ns(), time.thread_time_ns()
        while time.thread_time_ns() < ran + 3_000_000:
            pass
        took, ran = time.perf_counter_ns() - began, time.thread_time_ns() - ran
        now = machine.waited_ns()
        assert told is not None
        assert now is not None
        waits_ms.append((took - ran) / 1e6)
        errors_ms.append(abs(now - told - (took - ran)) / 1e6)
    assert statistics.median(waits_ms) > 1
    assert statistics.median(errors_ms) < 0.2


@pytest.mark.processes
@pytest.mark.alone
def test_a_neighbour_on_the_only_core_is_seen(tmp_path: Path, neighbour: int) -> None:
    """It has half of the time for as long as the measurement takes, so that nothing drifts and no interval is wide."""
    package = write_package(tmp_path / "package", arrays=weights(hidden=256, layers=4), repeat=8)
    found = measure_packages([package], threads=1, length=32, min_seconds=0.5)
    (result,) = found.results
    assert len(result.disturbed_rounds) > len(result.samples_ms) / result.runs_per_round / 2
    assert quiet_rounds(result)[1] == 0
    assert result.verdict == "too noisy to call"
