"""Our clock against others', on the same file, in turns in one run.

    python bench/clock.py PACKAGE [--turns 8] [--length 128] [--output bench/results/clock.json]

- a loop in C through ONNX Runtime's C API (clock/loop.c), compiled here: its p50 against ours
- hyperfine's slope over run counts of that loop: whole processes, timed from outside
- the peak memory of our worker as /usr/bin/time -v sees it, against our own figure
- what the parent's processor time is while a worker measures, and how long a worker takes to its first sample

All of it on one core, since the cores of a virtual machine need not be equally fast. Needs gcc,
hyperfine and GNU time. A turn takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import PackageInfo, read_package
from homoexport.runtime.worker.protocol import InputsRequest, LoadRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu
from homoexport.stages.measure.targets.protocol import build_worker

ROUND_SECONDS = 0.1
ROUNDS = 24  # of ours and of the loop in a turn: the machine's speed moves within seconds
PAIR_EVERY = 3  # rounds: one pair of processes for hyperfine
FEW, MANY = 0.2, 0.8  # seconds of the two processes that hyperfine's slope is taken between
SOURCE = Path(__file__).parent / "clock" / "loop.c"
OUTPUT = Path(__file__).parent / "results" / "clock.json"


def library() -> Path:
    """The shared library that the Python package itself runs on."""
    return next(Path(ort.__file__).parent.glob("capi/libonnxruntime.so.*"))


def compiled(folder: Path) -> Path:
    """The loop, as a program."""
    program = folder / "loop"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, SOURCE, "-ldl"], check=True)
    return program


def loop_command(program: Path, details: PackageInfo, folder: Path, *, length: int) -> list[str]:
    """The loop on the token ids that our worker draws; the number of runs is to be inserted at 7."""
    ids = np.random.default_rng(0).integers(0, details.vocab_size, (1, length))
    (folder / "ids.bin").write_bytes(ids.astype("<i8").tobytes())
    session = ort.InferenceSession(str(details.model), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    words = [program, library(), details.model.resolve(), details.output, 1, 1, length, folder / "ids.bin", *names]
    return list(map(str, words))


def with_runs(command: list[str], runs: int | str) -> list[str]:
    """The loop's command with a number of runs."""
    return [*command[:7], str(runs), *command[7:]]


def process_seconds(command: list[str], runs: int, path: Path) -> float:
    """Seconds of a whole process of so many runs, by hyperfine."""
    quoted = " ".join(f"'{word}'" for word in with_runs(command, runs))
    words = ["hyperfine", "--shell=none", "--runs=1", f"--export-json={path}", quoted]
    subprocess.run(words, check=True, capture_output=True)
    return float(json.loads(path.read_text())["results"][0]["mean"])


def slope_ms(command: list[str], runs: tuple[int, int], path: Path) -> float:
    """Milliseconds of one more run, between a process of few runs and one of many."""
    few, many = (process_seconds(command, count, path) for count in runs)
    return (many - few) / (runs[1] - runs[0]) * 1000


@contextmanager
def looping(command: list[str]) -> Iterator[Callable[[int], float]]:
    """The loop as a process that waits to be asked; asked for so many runs, it tells their median in milliseconds."""
    with subprocess.Popen(with_runs(command, 0), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(runs: int) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{runs + 1}\n")
            process.stdin.flush()
            _first, *samples = map(int, process.stdout.readline().split())  # ours runs once untimed, too
            return statistics.median(samples) / 1e6

        yield ask
        process.kill()


def turn(details: PackageInfo, command: list[str], folder: Path, *, length: int) -> dict[str, Any]:
    """All three clocks, round by round, in fresh processes; what starting and watching a worker costs."""
    target = LocalCpu()
    target.open()
    began = time.perf_counter()
    with Worker(target, subject="package") as worker, looping(command) as ask_loop:
        load = worker.load(LoadRequest(str(details.model.resolve()), 1, outputs=(details.output,)))
        worker.inputs(InputsRequest(1, length, details.vocab_size))
        worker.time(runs=1)
        first_sample = time.perf_counter() - began - load.load_ns / 1e9
        median_ns = worker.warm(seconds=10).median_ns
        runs, few, many = (max(3, round(seconds * 1e9 / median_ns)) for seconds in (ROUND_SECONDS, FEW, MANY))
        ask_loop(5 * runs)
        rounds, slopes, used, elapsed = [], [], 0.0, 0.0
        for number in range(ROUNDS):
            row = {}
            for who in ("loop", "ours")[:: 1 if number % 2 else -1]:
                if who == "loop":
                    row[who] = ask_loop(runs)
                    continue
                before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                row[who] = statistics.median(worker.time(runs=runs).samples_ns) / 1e6
                after = resource.getrusage(resource.RUSAGE_SELF)
                elapsed += time.perf_counter() - start
                used += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            rounds.append(row)
            if number % PAIR_EVERY == 0:
                slopes.append(slope_ms(command, (few, many), folder / "hyperfine.json"))
    target.close()
    return {
        "ours_ms": [row["ours"] for row in rounds],
        "loop_ms": [row["loop"] for row in rounds],
        "slope_ms": slopes,
        "start_to_first_sample_s": first_sample,
        "parent_cpu_share": used / elapsed,
    }


def memory_mb(details: PackageInfo, folder: Path, *, length: int) -> dict[str, float]:
    """The worker's own figure, and that of GNU time around the very same process."""
    load = {"command": "load", "model": str(details.model.resolve()), "outputs": [details.output], "threads": 1}
    inputs = {"command": "inputs", "batch_size": 1, "length": length, "vocab_size": details.vocab_size}
    requests = [load, inputs, {"command": "warm", "seconds": 1}, {"command": "time", "runs": 50}, {"command": "memory"}]
    done = subprocess.run(
        ["/usr/bin/time", "-v", sys.executable, "-I", str(build_worker(folder))],
        input="".join(json.dumps(request) + "\n" for request in requests),
        check=True,
        capture_output=True,
        text=True,
    )
    ours = json.loads(done.stdout.splitlines()[-1])["peak_rss_bytes"]
    theirs = int(done.stderr.split("Maximum resident set size (kbytes):")[1].split()[0]) * 1024
    return {"ours_mb": ours / 1e6, "gnu_time_mb": theirs / 1e6, "ratio": ours / theirs}


def compared(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Our time over the loop's, at the median of all rounds' ratios; our rounds' mean over that of the slopes.

    A slope lets through whatever noise its two processes saw, so only the mean of all of them is worth something.
    """
    ours, loop, slopes = ([value for row in rows for value in row[key]] for key in ("ours_ms", "loop_ms", "slope_ms"))
    return {
        "loop": statistics.median(one / other for one, other in zip(ours, loop, strict=True)),
        "hyperfine_slope": statistics.fmean(ours) / statistics.fmean(slopes),
    }


def measure(package: Path, *, turns: int, length: int) -> dict[str, Any]:
    """All clocks in turns; ratios are medians over the turns."""
    details = read_package(package)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = loop_command(compiled(folder), details, folder, length=length)
        rows = []
        for number in range(turns):
            rows.append(turn(details, command, folder, length=length))
            print(f"{package.name} {number + 1}/{turns}: {compared(rows)}", flush=True)
        memory = [memory_mb(details, folder, length=length) for _ in range(3)]
    return {
        "package": {"name": package.name, "precision": details.precision, "file_bytes": details.file_bytes},
        "threads": 1,
        "length": length,
        "ours_over": compared(rows),
        "memory": sorted(memory, key=lambda each: each["ratio"])[len(memory) // 2],
        "start_to_first_sample_s": statistics.median(row["start_to_first_sample_s"] for row in rows),
        "parent_cpu_share": statistics.median(row["parent_cpu_share"] for row in rows),
        "turns": rows,
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results = [measure(package, turns=arguments.turns, length=arguments.length) for package in arguments.packages]
    for result in results:
        print(json.dumps({key: result[key] for key in ("package", "ours_over", "memory")}, indent=2))
    write_text(arguments.output, to_json({"results": results}))


if __name__ == "__main__":
    main()
