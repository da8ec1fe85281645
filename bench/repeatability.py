"""How far a measurement can be trusted on a machine, quiet or with a neighbour that burns a core.

    python bench/repeatability.py [--repeats 10] [--same 100] [--slower 50] [--output ...]

- ten measurements of one package: the spread of p50, and how often the verdict was right (the truth is the
  quiet median)
- 100 comparisons of a package with itself: how many call a winner
- 50 comparisons with a package that does a tenth more work: how many find it

Each is done without and with the neighbour, so there are 200 and 100 in all. The packages are stacks of small
layers, made here: 20 layers, and 22 for the slower one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.stages.measure import measure_packages
from homoexport.stages.measure.intervals import MARGIN
from tests.stages.measure.tiny_onnx import weights, write_package

LAYERS, SLOWER = 20, 22
OUTPUT = Path(__file__).parent / "results" / "repeatability.json"
QUICK = {"threads": 1, "length": 64, "min_seconds": 0.4}


def burn() -> None:
    """One core's worth of nothing."""
    while True:
        sum(range(100_000))


@contextmanager
def neighbour(there: bool) -> Iterator[None]:
    """A process that burns a core, for as long as the block lasts."""
    process = multiprocessing.Process(target=burn, daemon=True)
    if there:
        process.start()
    try:
        yield
    finally:
        if there:
            process.kill()
            process.join()


def alone(package: Path, repeats: int) -> list[dict[str, Any]]:
    """Measurements of one package by itself."""
    rows = []
    for _ in range(repeats):
        run = measure_packages([package], threads=1, length=64, min_seconds=2.0)
        (figures,) = run.results
        rows.append(
            {
                "p50_ms": figures.latency_p50_ms,
                "verdict": figures.verdict,
                "other_load_cores": run.noise.other_load_cores if run.noise else None,
            }
        )
    return rows


def told(rows: Sequence[dict[str, Any]], truth_ms: float) -> dict[str, Any]:
    """How far medians spread, and how often `steady` was said of one that is within the margin of the quiet truth."""
    medians = [row["p50_ms"] for row in rows]
    steady = [row["p50_ms"] for row in rows if row["verdict"] == "steady"]
    right = sum(abs(median / truth_ms - 1) <= MARGIN for median in steady)
    return {
        "spread": (max(medians) - min(medians)) / statistics.median(medians),
        "called_steady_and_right": right,
        "called_steady_and_wrong": len(steady) - right,
        "too_noisy_to_call": len(rows) - len(steady),
        "runs": list(rows),
    }


def comparisons(one: Path, other: Path, count: int, label: str) -> dict[str, Any]:
    """Verdicts of interleaved comparisons of two packages."""
    verdicts: Counter[str] = Counter()
    ratios = []
    for number in range(count):
        (found,) = measure_packages([one, other], **QUICK).comparisons
        verdicts[found.verdict] += 1
        ratios.append(found.speedup_p50)
        if (number + 1) % 20 == 0:
            print(f"  {label} {number + 1}/{count}: {dict(verdicts)}", flush=True)
    return {"count": count, "verdicts": dict(verdicts), "median_ratio": statistics.median(ratios), "ratios": ratios}


def measure(repeats: int, same: int, slower: int) -> dict[str, Any]:
    """Everything, without and with the neighbour."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        arrays = weights(hidden=192, layers=2)
        one, twin, more = (
            write_package(Path(name) / label, arrays=arrays, max_length=64, repeat=layers // 2)
            for label, layers in (("one", LAYERS), ("twin", LAYERS), ("more", SLOWER))
        )
        for there in (False, True):
            label = "with a neighbour" if there else "quiet"
            print(label, flush=True)
            with neighbour(there):
                rows = alone(one, repeats)
                if not there:
                    truth_ms = statistics.median(row["p50_ms"] for row in rows)
                result[label] = {
                    "alone": told(rows, truth_ms),
                    "same": comparisons(one, twin, same, "same"),
                    "slower": comparisons(one, more, slower, "a tenth slower"),
                }
    return result


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--same", type=int, default=100)
    parser.add_argument("--slower", type=int, default=50)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    result = measure(arguments.repeats, arguments.same, arguments.slower)
    for label, each in result.items():
        print(label, f"spread {each['alone']['spread']:.1%}", each["same"]["verdicts"], each["slower"]["verdicts"])
    write_text(arguments.output, to_json({**result, "host": vars(describe_host()), "versions": library_versions()}))


if __name__ == "__main__":
    main()
