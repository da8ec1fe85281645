"""How quiet the machine is: before measuring, while it goes on, and beside the best that was ever seen of it.

A neighbour that shares a core takes it in slices: most pieces of arithmetic then take as long as ever, and some take
many times as long, so that it shows in their mean, and in how long the kernel says that threads waited for a core. A
neighbour on the same core's other hardware thread, a hypervisor that gives less, or a lower clock rate make all pieces
slower alike: that shows only beside the same arithmetic at a better time.

R rounds, K runs of a round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from homoexport.documents.document import digest_of, read_document, write_document
from homoexport.documents.measurement import Noise, PackageFigures
from homoexport.documents.pace import BestPace
from homoexport.errors import PackageError
from homoexport.runtime.worker.protocol import CountersReply, Greeting
from homoexport.stages.measure.intervals import MARGIN, FloatArray, rounds_of
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import Target, cache_folder
from homoexport.stages.measure.targets.web import WebTarget

SPIN_SECONDS = 0.3
_SPIN_CORES = 8
_LONG = 1.25  # a quantum that takes this many times the median was disturbed
_DISTURBED = 0.05
_OTHER_LOAD = 0.25
_STOLEN = 0.02
_FREQUENCY = 0.05
_SLOW = 1.25  # times as long as at the best: beyond what clock rates and placement do by themselves
_FORGOTTEN_SECONDS = 14 * 86_400  # a pace that was not reached for so long is the machine's no more
_FEW_DISTURBED = 0.1  # of the rounds: a steady median does not notice them
_FEWEST_QUIET, _LEAST_QUIET = 10, 0.25  # rounds, and as a share of all, that a figure may be taken from


def calibrate(worker: Worker, cores: Sequence[int] = ()) -> list[float]:
    """Microseconds of the same arithmetic, again and again, in a worker that has nothing else to do.

    Of up to eight cores each has its share of the time.
    """
    quanta = worker.spin(seconds=SPIN_SECONDS, cores=cores[:_SPIN_CORES])
    return [quantum / 1e3 for quantum in quanta]


def best_pace_us(target: Target, greeting: Greeting, spin_us: Sequence[float]) -> float | None:
    """The least median of the arithmetic, now or at any time before; None where it says nothing of the machine.

    It is remembered in the user's cache by what it depends on: the machine, its kernel, the cores that may be used, and
    the Python that runs it. One that was not reached again for two weeks is forgotten, for a clock may be changed for
    good. An emulator's pace is not the machine's, and a browser's is its compiler's.
    """
    if target.emulated or isinstance(target, WebTarget):
        return None
    now_us, host = float(np.median(spin_us)), greeting.host
    where = target.name if "://" in target.name else ""
    cores = greeting.cores[:_SPIN_CORES]
    machine = [where, host.cpu, host.architecture, host.system, host.cores, cores, greeting.versions.get("python")]
    file = _pace_folder() / f"{digest_of(machine)[:24]}.json"
    known_us = _remembered(file)
    if known_us is not None and now_us > (1 + MARGIN) * known_us:
        return known_us
    best_us = now_us if known_us is None else min(now_us, known_us)
    with suppress(OSError):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        write_document(file, BestPace(spin_p50_us=best_us, reached_at=time.time()))
    return best_us


def _pace_folder(*, short: bool = False) -> Path:
    """Where paces are remembered; short, the home folder is `~`, as a shell has it."""
    folder = cache_folder() / "pace"
    return Path("~") / folder.relative_to(Path.home()) if short and folder.is_relative_to(Path.home()) else folder


def _remembered(file: Path) -> float | None:
    try:
        known = read_document(file, BestPace)
    except PackageError:  # missing, or damaged
        return None
    return known.spin_p50_us if abs(time.time() - known.reached_at) < _FORGOTTEN_SECONDS else None


def judge_noise(
    spin_us: Sequence[float],
    counters: Sequence[tuple[CountersReply, CountersReply]],
    *,
    after_us: Sequence[float] = (),
    best_us: float | None = None,
) -> Noise:
    """Noise from the calibration, each worker's counters before and after the timed rounds, the calibration after
    these, and the best median that such a calibration had on the machine."""
    before, after = zip(*counters, strict=True)
    p50, p95 = (float(value) for value in np.percentile(spin_us, (50, 95)))
    disturbed = float(np.mean(np.array(spin_us) > _LONG * p50))
    elapsed_ns = after[0].time_ns - before[0].time_ns
    busy = _share(before[0].host_busy_ns, after[0].host_busy_ns, elapsed_ns)
    own = sum(late.own_cpu_ns - early.own_cpu_ns for early, late in counters) / elapsed_ns
    other = None if busy is None else max(0.0, busy - own)  # cores' worth of time that went to others than the workers
    stolen = _share(before[0].stolen_ns, after[0].stolen_ns, elapsed_ns)
    rates = before[0].frequency_mhz, after[0].frequency_mhz
    slowest = max(p50, float(np.median(after_us))) if after_us else p50
    pace = None if best_us is None else slowest / best_us
    remarks = []
    if disturbed > _DISTURBED:
        remarks.append(f"{disturbed:.0%} of the idle spins were disturbed before the timing began")
    if other is not None and other > _OTHER_LOAD:
        remarks.append(f"other processes used {other:.1f} cores meanwhile")
    if stolen is not None and stolen > _STOLEN:
        remarks.append(f"the hypervisor took {stolen:.0%} of a core")
    if rates[0] and rates[1] and abs(rates[1] / rates[0] - 1) > _FREQUENCY:
        remarks.append(f"the clock rate went from {rates[0]:.0f} to {rates[1]:.0f} MHz")
    if pace is not None and pace > _SLOW:
        remarks.append(
            f"the machine took {pace:.2f} times as long for idle arithmetic as at its best; if that is its pace from "
            f"now on, remove {_pace_folder(short=True)}"
        )
    return Noise(
        spin_p50_us=p50,
        spin_p95_us=p95,
        disturbed_share=disturbed,
        other_load_cores=other,
        stolen_share=stolen,
        frequency_before_mhz=rates[0],
        frequency_after_mhz=rates[1],
        remarks=tuple(remarks),
        spin_mean_us=float(np.mean([*spin_us, *after_us])),
        pace=pace,
        slowed=(pace or 0.0) > _SLOW or _is_stolen(stolen, busy),
    )


def _is_stolen(stolen: float | None, busy: float | None) -> bool:
    """Whether a hypervisor took more of the time that cores were wanted for than a figure's margin."""
    return stolen is not None and busy is not None and stolen > MARGIN * (busy + stolen)


def _share(before: int | None, after: int | None, elapsed_ns: int) -> float | None:
    return None if before is None or after is None else float((after - before) / elapsed_ns)


def disturbed_rounds(rounds_ns: Sequence[Sequence[int]], waited_ns: Sequence[int | None]) -> tuple[int, ...]:
    """The places of rounds in which a worker waited for a core for more than a twentieth of the time that it took.

    The untimed run that comes before a round's runs is in the waiting, so it is in the time, too.
    """
    return tuple(
        place
        for place, (runs, waited) in enumerate(zip(rounds_ns, waited_ns, strict=True))
        if waited is not None and waited > MARGIN * sum(runs) * (1 + 1 / len(runs))
    )


def is_disturbed(noise: Noise | None, *, rounds: int, disturbed: Sequence[int]) -> bool:
    """Whether a measurement of so many rounds, some of them disturbed, may not be called steady."""
    if noise is not None and (noise.slowed or noise.disturbed_share > _DISTURBED):
        return True
    return len(disturbed) > _FEW_DISTURBED * rounds


def has_quiet(rounds: int, disturbed: Sequence[int]) -> bool:
    """Whether so many rounds have enough quiet ones among them."""
    return not disturbed or rounds - len(disturbed) >= max(_FEWEST_QUIET, _LEAST_QUIET * rounds)


def quiet_rounds(result: PackageFigures) -> tuple[FloatArray, float]:
    """[R, K] of a package's rounds in which it had its cores, in milliseconds, and the share that they are of all.

    Where these are too few to go by, all of its rounds, and 0.
    """
    rounds = rounds_of(result.samples_ms, result.runs_per_round)
    if not has_quiet(len(rounds), result.disturbed_rounds):
        return rounds, 0.0
    disturbed = set(result.disturbed_rounds)
    quiet = [place for place in range(len(rounds)) if place not in disturbed]
    return rounds[quiet], len(quiet) / len(rounds)
