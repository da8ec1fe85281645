"""Whole runs one after the other in one process, whose memory and open files must stay as they are.

`python -m tests.soak --minutes 60` prints a line a round: a distillation with its prune events and checkpoints,
exports, quantization, measurements, evaluation and a report. It fails where, after the first ten rounds, memory or open
files exceed those of the tenth by more than 5 %.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from homoexport.documents.recipe import load_recipe
from homoexport.workflow.run import run
from tests.crashes import write_recipe

SETTLED, BOUND = 10, 1.05  # rounds that fill caches, and what may be used after them of what was then


@dataclass(frozen=True)
class Use:
    """What this process uses between two rounds."""

    rss_mb: float
    open_files: int

    @classmethod
    def now(cls) -> Use:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd")))  # noqa: PTH208


def rounds_for(seconds: float, *, at_least: int = SETTLED + 2) -> list[Use]:
    """What is used after each round; the seed, and with it every weight, is another in each."""
    uses: list[Use] = []
    began = time.monotonic()
    with TemporaryDirectory(prefix="homoexport-soak-") as folder:
        os.environ.update(HOMOEXPORT_CACHE=f"{folder}/cache", HF_DATASETS_CACHE=f"{folder}/datasets")
        recipe = load_recipe(write_recipe(Path(folder), planned=False, steps=30))
        while time.monotonic() - began < seconds or len(uses) < at_least:
            distill = recipe.distill.model_copy(update={"checkpoint_every": 3, "prune_every": 2})
            this = recipe.model_copy(update={"seed": len(uses), "distill": distill})
            run(this, output=Path(folder) / "run")
            shutil.rmtree(Path(folder) / "run")
            uses.append(Use.now())
            told = f"round {len(uses):4}  {time.monotonic() - began:6.0f} s"
            print(f"{told}  {uses[-1].rss_mb:7.1f} MB  {uses[-1].open_files:4} open files", flush=True)
    return uses


def grown(uses: list[Use]) -> list[str]:
    """What grew past its bound."""
    settled, later = uses[SETTLED - 1], uses[SETTLED:]
    return [
        f"{name}: {max(getattr(use, name) for use in later):.1f} after {getattr(settled, name):.1f}"
        for name in ("rss_mb", "open_files")
        if max(getattr(use, name) for use in later) > BOUND * getattr(settled, name)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    used = rounds_for(60 * parser.parse_args().minutes)
    faults = grown(used)
    print(f"{len(used)} rounds: {'; '.join(faults) or 'flat'}")
    sys.exit(bool(faults))
