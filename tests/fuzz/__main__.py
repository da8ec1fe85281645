"""Fuzz one target, or all: python -m tests.fuzz [TARGET] [--inputs N] [--seconds S] [--seed K]."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from tests.fuzz.outside import run_each
from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import Watch

_BEAT = 5  # seconds between two signs of life


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", choices=TARGETS, help="By default each, in a process of its own.")
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0, help="An input is the same for the same seed and number.")
    parser.add_argument("--from", dest="first", type=int, default=0, help="The first input, to see one again.")
    parser.add_argument("--go-on", action="store_true", help="Tell all that fell instead of ending with the first.")
    parser.add_argument("--here", action="store_true", help="In this process, which nothing ends when it hangs.")
    given = parser.parse_args()
    if not given.here:
        asked = sys.argv[1:]
        names = [given.target] if given.target else TARGETS
        command = [sys.executable, "-u", "-m", "tests.fuzz", "--here"]
        return run_each({name: [*command, *asked, *([] if given.target else [name])] for name in names})
    warnings.simplefilter("ignore")
    fell: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        make = TARGETS[given.target](Path(folder))
        watch, until, beat = Watch(Path(folder)), time.monotonic() + given.seconds, 0.0
        for number in range(given.first, given.first + given.inputs):
            if time.monotonic() > until:
                break
            if time.monotonic() > beat:
                print(f"{given.target}: at {number}", flush=True)
                beat = time.monotonic() + _BEAT
            try:
                watch.read(make(random.Random(f"{given.seed}/{number}")))
            except KeyboardInterrupt:
                raise
            except BaseException:  # a panic is no Exception
                told = traceback.format_exc()
                if (last := told.strip().splitlines()[-1][:60]) not in fell:
                    print(f"FELL {given.target} --seed {given.seed} --from {number} --inputs 1\n{told}", flush=True)
                fell.add(last)
                if not given.go_on:
                    break
        print(
            f"{given.target}: {watch.inputs} inputs, {watch.refused} refused, slowest {watch.slowest:.2f} s, "
            f"{watch.megabytes} MB more; {len(fell)} kinds fell",
            flush=True,
        )
    return int(bool(fell))


if __name__ == "__main__":
    sys.exit(main())
