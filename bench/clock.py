"""Our clock against others', on the same file, in turns in one run.

    python bench/clock.py PACKAGE [--turns 8] [--length 128] [--output bench/results/clock.json]

- a loop in C through ONNX Runtime's C API (clock/loop.c), compiled here: its p50 against ours
- hyperfine's slope over run counts of that loop: whole processes, timed from outside
- the peak memory of our worker as /usr/bin/time -v sees it, against our own figure
- what the parent's processor time is while a worker measures, and how long a worker takes to its first sample

Needs gcc, hyperfine and GNU time. A turn takes about ten seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from homoexport.artifact import write_json
from homoexport.host import describe_host, library_versions
from homoexport.inference import PackageDetails, read_package
from homoexport.measure.process import Worker
from homoexport.measure.targets import LocalCpu
from homoexport.measure.targets.protocol import build_worker

SECONDS = 0.7
BLOCKS = 3  # of ours and of the loop, in turns within a turn
FEW, MANY = 50, 250  # runs of the two processes that hyperfine's slope is taken between
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


def loop_command(program: Path, details: PackageDetails, folder: Path, *, length: int) -> list[str]:
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


def loop_p50_ms(command: list[str], runs: int) -> float:
    """The C loop's median, without its first tenth."""
    done = subprocess.run(with_runs(command, runs), check=True, capture_output=True, text=True)
    samples = [int(line) for line in done.stdout.split()]
    return statistics.median(samples[len(samples) // 10 :]) / 1e6


def slope_ms(command: list[str], folder: Path) -> float:
    """Milliseconds of one more run, by hyperfine's medians of processes of few and of many runs."""
    medians = []
    for runs in (FEW, MANY):
        path = folder / "hyperfine.json"
        words = ["hyperfine", "--shell=none", "--warmup=1", "--runs=5", f"--export-json={path}"]
        quoted = " ".join(f"'{word}'" for word in with_runs(command, runs))
        subprocess.run([*words, quoted], check=True, capture_output=True)
        medians.append(json.loads(path.read_text())["results"][0]["median"])
    return (medians[1] - medians[0]) / (MANY - FEW) * 1000


def side_by_side(details: PackageDetails, command: list[str], *, length: int) -> dict[str, float]:
    """Our median and the loop's, block by block; the worker's overheads; what the parent itself used meanwhile."""
    target = LocalCpu()
    target.open()
    began = time.perf_counter()
    with Worker(target, subject="package") as worker:
        load = worker.ask("load", model=str(details.model.resolve()), outputs=[details.output], threads=1)
        worker.ask("inputs", batch_size=1, length=length, vocab_size=details.vocab_size)
        worker.ask("time", runs=1)
        first_sample = time.perf_counter() - began - load["load_ns"] / 1e9
        runs = max(10, round(SECONDS * 1e9 / worker.ask("warm", seconds=10)["median_ns"]))
        ours, loops, used, elapsed = [], [], 0.0, 0.0
        for block in range(BLOCKS):
            for who in ("ours", "loop")[:: 1 if block % 2 else -1]:
                if who == "loop":
                    loops.append(loop_p50_ms(command, runs))
                    continue
                before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                ours.append(statistics.median(worker.ask("time", runs=runs)["samples_ns"]) / 1e6)
                after = resource.getrusage(resource.RUSAGE_SELF)
                elapsed += time.perf_counter() - start
                used += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    target.close()
    return {
        "p50_ms": statistics.median(ours),
        "loop_p50_ms": statistics.median(loops),
        "start_to_first_sample_s": first_sample,
        "parent_cpu_share": used / elapsed,
    }


def memory_mb(details: PackageDetails, folder: Path, *, length: int) -> dict[str, float]:
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


def measure(package: Path, *, turns: int, length: int) -> dict[str, Any]:
    """All clocks in turns; ratios are medians over the turns."""
    details = read_package(package)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = loop_command(compiled(folder), details, folder, length=length)
        rows = []
        for turn in range(turns):
            row = side_by_side(details, command, length=length)
            row["hyperfine_slope_ms"] = slope_ms(command, folder)
            rows.append(row)
            print(f"turn {turn + 1}/{turns}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        memory = [memory_mb(details, folder, length=length) for _ in range(3)]
    ratio = {
        key: statistics.median(row["p50_ms"] / row[key] for row in rows)
        for key in ("loop_p50_ms", "hyperfine_slope_ms")
    }
    return {
        "package": {"name": package.name, "precision": details.precision, "file_bytes": details.file_bytes},
        "threads": 1,
        "length": length,
        "ours_over": ratio,
        "memory": memory[len(memory) // 2],
        "start_to_first_sample_s": statistics.median(row["start_to_first_sample_s"] for row in rows),
        "parent_cpu_share": statistics.median(row["parent_cpu_share"] for row in rows),
        "turns": rows,
        "host": describe_host(),
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
    results = [measure(package, turns=arguments.turns, length=arguments.length) for package in arguments.packages]
    for result in results:
        print(json.dumps({key: result[key] for key in ("package", "ours_over", "memory")}, indent=2))
    write_json(arguments.output, {"results": results})


if __name__ == "__main__":
    main()
