"""Two kept results against each other, and what the machine did meanwhile."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from homoexport.documents.measurement import Grid, Measurement, Noise, PackageFigures
from homoexport.errors import UserError
from homoexport.host import MeasuredHost
from homoexport.report import change_table
from homoexport.runtime.worker.protocol import CountersReply
from homoexport.stages.measure import compare_results, keeps_pace
from homoexport.stages.measure.noise import judge_noise

HOST = MeasuredHost(
    cpu="A",
    architecture="x86_64",
    cores=4,
    available_cores=4,
    instruction_sets=("avx2",),
    memory_mb=8000,
    system="Linux 6.1",
)
QUIET = Noise(
    spin_p50_us=500.0,
    spin_p95_us=505.0,
    disturbed_share=0.0,
    other_load_cores=0.0,
    stolen_share=0.0,
    frequency_before_mhz=None,
    frequency_after_mhz=None,
    remarks=(),
)


def figures(name: str, median_ms: float, *, spread: float = 0.01, seed: int = 0) -> PackageFigures:
    rng = np.random.default_rng(seed)
    samples = np.abs(median_ms * (1 + spread * rng.normal(size=200)))
    values = {
        field: 1.0
        for field in PackageFigures.model_fields
        if field.endswith(("_ms", "_mb", "_per_s")) and "interval" not in field
    }
    others = {"task": "fill-mask", "precision": "int8", "parameters": 1, "file_bytes": 1, "drift": 0.0}
    others |= {"verdict": "steady", "arena": (), "streams": (), "open_loop": None, "agreement": None}
    others |= {"download_bytes": None, "instructions": None, "energy_mj": None, "warmup_runs": 1}
    others |= {"warmup_steady": True, "runs": 200, "runs_per_round": 10, "samples_ms": tuple(samples.tolist())}
    intervals = {f"latency_{which}_interval_ms": (1.0, 1.0) for which in ("p50", "p95")}
    return PackageFigures(
        package=f"/tmp/{name}",
        name=name,
        **{**values, **others, **intervals, "latency_p50_ms": float(np.median(samples))},
    )


def measurement(*results: PackageFigures, **changes: object) -> Measurement:
    base = Measurement(
        device="cpu",
        emulated=False,
        limits={},
        threads=1,
        batch_size=1,
        length=128,
        texts=None,
        margin=0.05,
        host=HOST,
        versions={},
        noise=QUIET,
        energy_source=None,
        results=results,
        failures=(),
        comparisons=(),
    )
    return base.model_copy(update=changes)


def test_a_slower_package_is_found_by_name_whatever_the_order() -> None:
    before = measurement(figures("a", 10), figures("b", 5))
    after = measurement(figures("b", 5, seed=1), figures("a", 12, seed=2))
    changes = {change.package: change for change in compare_results(before, after)}
    assert changes["a"].verdict == "slower"
    assert changes["a"].speedup_p50 == pytest.approx(10 / 12, rel=0.01)
    assert changes["b"].verdict == "same"
    assert [keeps_pace(changes["a"], allowed) for allowed in (0.05, 0.2, 0.25)] == [False, None, True]
    assert keeps_pace(changes["b"], 0.05) is True


def test_noise_makes_no_verdict() -> None:
    (change,) = compare_results(measurement(figures("a", 10, spread=0.8)), measurement(figures("a", 11, spread=0.8)))
    assert change.verdict == "too noisy to call"
    assert keeps_pace(change, 0.01) is None


def test_a_machine_that_was_slower_itself_is_no_proof() -> None:
    """All of the packages' slowdown is the machine's: the idle spins took as much longer."""
    slow = QUIET.model_copy(update={"spin_p50_us": 620.0})
    (change,) = compare_results(measurement(figures("a", 10)), measurement(figures("a", 12.4), noise=slow))
    assert change.verdict == "too noisy to call"
    assert change.remarks == ("the machine itself took 1.24 times as long for the same arithmetic",)


def test_the_same_times_on_a_faster_machine_are_not_the_same_speed() -> None:
    fast = QUIET.model_copy(update={"spin_p50_us": 400.0})
    (change,) = compare_results(measurement(figures("a", 10)), measurement(figures("a", 10), noise=fast))
    assert change.verdict == "too noisy to call"
    assert keeps_pace(change, 0.05) is None


def test_what_others_took_of_the_cores_is_in_the_machines_pace() -> None:
    """The median of the idle spins is as ever, or better, where a neighbour has the core in slices."""
    before, after = (
        QUIET.model_copy(update={"spin_p50_us": p50, "spin_mean_us": mean})
        for p50, mean in ((500.0, 505.0), (480.0, 1160.0))
    )
    (change,) = compare_results(measurement(figures("a", 10), noise=before), measurement(figures("a", 23), noise=after))
    assert change.verdict == "too noisy to call"
    assert change.remarks == ("the machine itself took 2.30 times as long for the same arithmetic",)
    assert keeps_pace(change, 0.05) is None


def test_only_quiet_rounds_are_compared() -> None:
    calm = figures("a", 10)
    samples = (*[23.0] * 80, *calm.samples_ms[80:])
    busy = calm.model_copy(update={"samples_ms": samples, "disturbed_rounds": tuple(range(8))})
    (change,) = compare_results(measurement(calm), measurement(busy))
    assert change.verdict == "same"
    assert change.remarks == ("after: a waited for a core in 8 of 20 rounds",)
    assert keeps_pace(change, 0.05) is True
    never = busy.model_copy(update={"disturbed_rounds": tuple(range(15))})
    (change,) = compare_results(measurement(calm), measurement(never))
    assert (change.verdict, change.comparable, keeps_pace(change, 0.05)) == ("too noisy to call", False, None)


def test_packages_are_paired_by_name_or_by_order_and_never_by_guess() -> None:
    before = measurement(figures("a", 10), figures("b", 5))
    renamed = compare_results(before, measurement(figures("c", 10), figures("d", 20)))
    assert [(change.package, change.verdict) for change in renamed] == [("c", "same"), ("d", "slower")]
    rows = change_table(renamed).rows
    assert [row[0] for row in rows] == ["a -> c", "b -> d"]
    assert re.match(r"4\.\d\dx slower \(3\.\d\d to 4\.\d\d\)|3\.\d\dx slower", rows[1][4])
    twice = measurement(figures("a", 10), figures("a", 5))
    assert [change.verdict for change in compare_results(twice, twice)] == ["same", "same"]
    for other in (measurement(figures("c", 1), figures("a", 1)), measurement(figures("a", 1), figures("a", 1))):
        with pytest.raises(UserError, match="which is which of a, b against"):
            compare_results(before, other)


def test_grids_are_compared_cell_by_cell() -> None:
    cells = [measurement(figures("a", 10), length=length) for length in (32, 128)]
    later = [measurement(figures("a", ms, seed=3), length=length) for ms, length in ((10, 32), (20, 128))]
    changes = compare_results(Grid(cells=tuple(cells)), Grid(cells=tuple(later)))
    assert [(change.length, change.verdict) for change in changes] == [(32, "same"), (128, "slower")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"length": 64}, "length 128 against 64"),
        ({"device": "web"}, "device cpu against web"),
        ({"host": replace(HOST, cpu="B")}, r"measured on other machines \(cpu: A against B\)"),
        ({"results": (figures("a", 1), figures("b", 1))}, "1 packages against 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare_results(measurement(figures("a", 10)), measurement(figures("a", 10), **changed))


def test_emulated_times_are_not_compared() -> None:
    emulated = measurement(figures("a", 10), emulated=True)
    with pytest.raises(UserError, match="an emulator's times say nothing"):
        compare_results(emulated, emulated)


def counters(
    time_s: float, own_s: float, busy_s: float, stolen_s: float = 0.0, mhz: float | None = None
) -> CountersReply:
    seconds = {"time_ns": time_s, "own_cpu_ns": own_s, "host_busy_ns": busy_s, "stolen_ns": stolen_s}
    return CountersReply(**{name: round(value * 1e9) for name, value in seconds.items()}, frequency_mhz=mhz)


def test_other_load_is_the_hosts_without_the_workers() -> None:
    before = [counters(0, 1, 100), counters(0, 2, 100)]
    after = [counters(10, 6, 121), counters(10, 8, 121)]  # 21 s of the host in 10 s, 11 s of them the workers'
    noise = judge_noise([500.0] * 100, list(zip(before, after, strict=True)))
    assert noise.other_load_cores == pytest.approx(1.0)
    assert noise.disturbed_share == 0
    assert noise.remarks == ("other processes used 1.0 cores meanwhile",)


def test_everything_that_disturbs_is_said() -> None:
    spins = [500.0] * 90 + [900.0] * 10
    noise = judge_noise(spins, [(counters(0, 0, 0, mhz=3000), counters(10, 10, 10, 0.5, mhz=2000))])
    assert noise.disturbed_share == pytest.approx(0.1)
    assert noise.remarks == (
        "10% of the idle spins were disturbed before the timing began",
        "the hypervisor took 5% of a core",
        "the clock rate went from 3000 to 2000 MHz",
    )


def test_a_kernel_that_says_nothing_is_no_noise() -> None:
    early, late = (CountersReply(time_ns, 0, None, None, None) for time_ns in (0, 10**9))
    noise = judge_noise([500.0] * 10, [(early, late)])
    assert (noise.other_load_cores, noise.stolen_share, noise.remarks) == (None, None, ())
