"""What works with the small locks alone: other libraries cannot be imported in these processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.stages.measure.tiny_onnx import write_package
from tests.test_packaging import name_of, pins_of

ROOT = Path(__file__).parents[1]
ALONE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions

locked, words = set(sys.argv[1].split(",")) | {"homoexport"}, sys.argv[2:]
norm = lambda name: name.lower().replace("_", "-").replace(".", "-")
elsewhere = {
    module for module, owners in packages_distributions().items() if not locked & set(map(norm, owners))
} - set(sys.stdlib_module_names)

class Locked(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in elsewhere else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Locked
sys.argv = ["homoexport", *words]
from homoexport.cli import main

main()
"""
QUICK = ("--min-seconds", "0.05", "--length", "8", "--threads", "1")
JUDGED = ("--task", "sts", "--data", "dev.csv")


@pytest.fixture
def run(tmp_path):
    """`homoexport WORDS` in a folder with two packages and data, with what a lock has."""
    for name in ("package", "other"):
        write_package(tmp_path / name)
    rows = [f"w{i % 50} w{i % 7},w{i % 11} w{i % 50},{i % 6}" for i in range(60)]
    (tmp_path / "dev.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))

    def call(lock: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        locked = ",".join(name_of(pin) for pin in pins_of(f"requirements-{lock}-lock.txt"))
        command = [sys.executable, "-c", ALONE, locked, *words]
        return subprocess.run(command, cwd=tmp_path, input=stdin, capture_output=True, text=True, check=False)

    return call


@pytest.mark.parametrize("lock", ["runtime", "measure"])
def test_small_locks_are_of_the_large_one(lock):
    assert pins_of(f"constraints-{lock}.txt") < pins_of("constraints.txt"), "take the versions of constraints.txt"


def test_packages_are_used_with_the_runtimes_lock(run, tmp_path):
    done = run("runtime", "verify", "package")
    assert done.returncode == 0, done.stderr
    done = run("runtime", "embed", "package", "-o", "vectors.npy", stdin="w1 w2\nw3\n")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "vectors.npy").shape[0] == 2
    refused = run("runtime", "export", "package", "-o", "out")
    assert refused.returncode != 0
    assert "No module named" in refused.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    "words",
    [
        ("bench", "package", "other", *QUICK, "-o", "kept"),
        ("eval", "package", "other", *JUDGED),
        ("gate", "other", "package", *QUICK, *JUDGED, "--summary", "page.md"),
        ("devices",),
        ("doctor",),
    ],
    ids=lambda words: words[0],
)
def test_packages_are_measured_and_judged_with_the_measures_lock(run, words):
    done = run("measure", *words)
    assert done.returncode in ((0, 3) if words[0] == "gate" else (0,)), done.stderr
    assert "No module named" not in done.stderr
