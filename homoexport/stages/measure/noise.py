"""How quiet the machine is: before measuring, and while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homoexport.documents.measurement import Noise
from homoexport.runtime.worker.protocol import CountersReply
from homoexport.stages.measure.process import Worker

SPIN_SECONDS = 0.3
_SPIN_CORES = 8
_LONG = 1.25  # a quantum that takes this many times the median was disturbed
_DISTURBED = 0.05
_OTHER_LOAD = 0.25
_STOLEN = 0.02
_FREQUENCY = 0.05


def calibrate(worker: Worker, cores: Sequence[int] = ()) -> list[float]:
    """Microseconds of the same arithmetic, again and again, in a worker that has nothing else to do.

    Of up to eight cores each has its share of the time.
    """
    quanta = worker.spin(seconds=SPIN_SECONDS, cores=cores[:_SPIN_CORES])
    return [quantum / 1e3 for quantum in quanta]


def judge_noise(spin_us: Sequence[float], counters: Sequence[tuple[CountersReply, CountersReply]]) -> Noise:
    """Noise from the calibration and each worker's counters before and after the timed rounds."""
    before, after = zip(*counters, strict=True)
    p50, p95 = (float(value) for value in np.percentile(spin_us, (50, 95)))
    disturbed = float(np.mean(np.array(spin_us) > _LONG * p50))
    elapsed_ns = after[0].time_ns - before[0].time_ns
    busy = _share(before[0].host_busy_ns, after[0].host_busy_ns, elapsed_ns)
    own = sum(late.own_cpu_ns - early.own_cpu_ns for early, late in counters) / elapsed_ns
    other = None if busy is None else max(0.0, busy - own)  # cores' worth of time that went to others than the workers
    stolen = _share(before[0].stolen_ns, after[0].stolen_ns, elapsed_ns)
    rates = before[0].frequency_mhz, after[0].frequency_mhz
    remarks = []
    if disturbed > _DISTURBED:
        remarks.append(f"{disturbed:.0%} of the idle spins were disturbed before the timing began")
    if other is not None and other > _OTHER_LOAD:
        remarks.append(f"other processes used {other:.1f} cores meanwhile")
    if stolen is not None and stolen > _STOLEN:
        remarks.append(f"the hypervisor took {stolen:.0%} of a core")
    if rates[0] and rates[1] and abs(rates[1] / rates[0] - 1) > _FREQUENCY:
        remarks.append(f"the clock rate went from {rates[0]:.0f} to {rates[1]:.0f} MHz")
    return Noise(
        spin_p50_us=p50,
        spin_p95_us=p95,
        disturbed_share=disturbed,
        other_load_cores=other,
        stolen_share=stolen,
        frequency_before_mhz=rates[0],
        frequency_after_mhz=rates[1],
        remarks=tuple(remarks),
    )


def _share(before: int | None, after: int | None, elapsed_ns: int) -> float | None:
    return None if before is None or after is None else float((after - before) / elapsed_ns)
