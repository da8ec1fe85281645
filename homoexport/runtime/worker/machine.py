"""What the kernel says of this process and of its host: memory, processor time, clock rate, energy.

Linux's /proc and /sys: proc_pid_status(5), proc_stat(5), and the kernel's documents on cpufreq,
power capping (RAPL) and hwmon. Where a file is not there, the figure is None.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from homoexport.cgroup import cpu_quota
from homoexport.runtime.worker.protocol import CountersReply

_PROC = Path("/proc")
_SYS = Path("/sys")
_STATUS = Path("/proc/self/status")
_TASKS = Path("/proc/self/task")
_SPIN_ADDITIONS = 10_000
_REST_SECONDS, _MOST_REST_SECONDS = 0.001, 1.0  # between two looks at a runtime's threads, and of all looks
_LIKE = 0.9  # cores whose highest clock rate is at least this share of the fastest one's


def peak_rss_bytes() -> int:
    """The most resident memory that this process has ever had.

    Linux says so in VmHWM, which starts anew with the program. `ru_maxrss` can be the parent's, so it serves only where
    there is no /proc.
    """
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int | None:
    return _status_bytes("VmRSS") if _STATUS.exists() else None


def _status_bytes(key: str) -> int:
    return int(_STATUS.read_text().split(f"{key}:")[1].split()[0]) * 1024


def counters(*, energy_source: str | None = None, others_cpu_ns: int = 0) -> CountersReply:
    """Processor time of this process, with that of others of its own, and of the whole host; the clock rate now."""
    busy_ns, stolen_ns = _host_cpu()
    return CountersReply(
        time_ns=time.monotonic_ns(),
        own_cpu_ns=time.process_time_ns() + others_cpu_ns,
        host_busy_ns=busy_ns,
        stolen_ns=stolen_ns,
        frequency_mhz=_frequency_mhz(),
        energy_source=energy_source,
    )


def _host_cpu() -> tuple[int | None, int | None]:
    """Nanoseconds that all cores together were busy, and that a hypervisor took away."""
    try:
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq) * tick_ns, steal * tick_ns


def _frequency_mhz(root: Path = _SYS) -> float | None:
    """The fastest core's clock rate now; None where the kernel does not say (most virtual machines)."""
    readings = map(_reading, root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return max((rate / 1000 for rate in readings if rate is not None), default=None)


def waited_ns(tasks: Path = _TASKS) -> int | None:
    """Nanoseconds that the threads of this process, all together, were ready to run and had no core to run on.

    Linux counts them in each thread's schedstat (Documentation/scheduler/sched-stats). It adds a wait when the thread
    gets its core, to the nanosecond, and not at its ticks, as it does with processor time; only what a thread waits for
    still is not in it. Where a control group has a quota, it has threads wait, too, so that nothing is told there.
    """
    if cpu_quota() is not None:
        return None
    try:
        return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks.iterdir())
    except (OSError, ValueError, IndexError):  # a kernel without it, or a thread that has just ended
        return None


def allowed_cores() -> list[int]:
    """The cores that this process may run on. Empty where unknown."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def like_cores(root: Path = _SYS) -> list[int]:
    """The allowed cores that a process can be moved among; of unlike ones, the fast.

    Hardware threads of one core stand far apart: first one of each core, then the second of each. So cores that
    follow one another in this list, as many as there are cores, are cores of their own.
    """
    cores = allowed_cores()
    folders = {core: root / f"devices/system/cpu/cpu{core}" for core in cores}
    rates = {core: _reading(folder / "cpufreq/cpuinfo_max_freq") for core, folder in folders.items()}
    fastest = max((rate for rate in rates.values() if rate), default=None)
    alike = [core for core in cores if fastest is None or (rates[core] or 0) >= _LIKE * fastest]
    seen: Counter[str] = Counter()
    turns = {}
    for core in alike:
        siblings = _text(folders[core] / "topology/thread_siblings_list") or str(core)
        turns[core] = seen[siblings]
        seen[siblings] += 1
    return sorted(alike, key=lambda core: (turns[core], core))


def pin(cores: Sequence[int]) -> None:
    """Have all threads of this process run on these cores alone."""
    for task in _TASKS.iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), cores)


def rest(runs: Callable[[], bool] | None = None) -> None:
    """Sleep until the runtime's threads do too, for a second at most; `runs` says whether one still runs.

    They go on spinning for some 40 ms after a run, in the hope of the next one, which would be
    another worker's time. Spinning stays on all the same, because it is on where the model is used.
    """
    runs, until = runs or own_threads_run, time.monotonic() + _MOST_REST_SECONDS
    while runs() and time.monotonic() < until:
        time.sleep(_REST_SECONDS)


def own_threads_run() -> bool:
    """Whether a thread of this process other than the caller's runs or waits for a core."""
    if _PROC.exists():
        return threads_run(os.getpid(), but=threading.get_native_id())
    before, before_ns = time.monotonic_ns(), time.process_time_ns()
    time.sleep(_REST_SECONDS)
    return time.process_time_ns() - before_ns > (time.monotonic_ns() - before) / 2


def threads_run(process: int, *, but: int | None = None) -> bool:
    """Whether one of a process's threads runs or waits for a core, by its state (proc_pid_stat(5)).

    Processor time would not say: the kernel brings that of other threads up to date at its ticks alone, often 4 ms.
    """
    for task in (_PROC / str(process)).glob("task/[0-9]*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "R" and task.name != str(but):
                return True
    return False


class EnergyMeter:
    """Energy counters of the host in microjoules: RAPL packages, else hwmon's energy sensors.

    They count the whole package, whatever runs on it, idle power included.
    """

    def __init__(self, root: Path = _SYS) -> None:
        packages = sorted(
            path
            for path in root.glob("class/powercap/intel-rapl:*/energy_uj")
            if path.parent.name.count(":") == 1  # intel-rapl:0:0 is a part of intel-rapl:0
        )
        sensors = sorted(root.glob("class/hwmon/hwmon*/energy*_input"))
        self._counters = [path for path in packages or sensors if _reading(path) is not None]

    @property
    def source(self) -> str | None:
        """`rapl`, `hwmon`, or None where no counter can be read."""
        if not self._counters:
            return None
        return "rapl" if self._counters[0].name == "energy_uj" else "hwmon"

    def read(self) -> list[int]:
        return [_reading(path) or 0 for path in self._counters]

    def since(self, before: list[int]) -> int | None:
        """Microjoules since `before`; a counter that wrapped is set right. None where there is no counter."""
        if not self._counters:
            return None
        spent = 0
        for path, was, now in zip(self._counters, before, self.read(), strict=True):
            spent += now - was if now >= was else now - was + (_reading(path.with_name("max_energy_range_uj")) or 0)
        return spent


def _reading(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # RAPL is root's alone since CVE-2020-8694
        return None


def spin(seconds: float, cores: Sequence[int] = ()) -> list[int]:
    """Nanoseconds of one fixed piece of arithmetic (some half a millisecond), done again and again.

    On a quiet machine all are alike; what is longer was interrupted, throttled or stolen. The piece is the same
    everywhere, so that its time also says how fast the machine was. Cores that are named share the time.
    """
    quanta: list[int] = []
    for where in [[core] for core in cores] or [[]]:
        if where:
            pin(where)
        _spin_ns()
        end = time.perf_counter_ns() + seconds * 1e9 / max(1, len(cores))
        while time.perf_counter_ns() < end:
            quanta.append(_spin_ns())
    return quanta


def _spin_ns() -> int:
    start = time.perf_counter_ns()
    total = 0
    for i in range(_SPIN_ADDITIONS):
        total += i
    return time.perf_counter_ns() - start
