"""A disk that is full, breaks, or becomes read-only at any write of a save: what was there before is there, whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def driven(shim: Path, folder: Path, *kinds: str, stride: int) -> None:
    command = [sys.executable, "-m", "tests.faults.drive", str(shim), str(folder), str(stride), *kinds]
    done = subprocess.run(
        command,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {result["kind"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(kinds)
    for result in found.values():
        assert result["fell"] == []
        assert result["faults"] >= 4


def test_a_fault_at_a_write_leaves_the_previous_state_whole(shim, tmp_path):
    driven(shim, tmp_path, "document", "staged", "in place", stride=4)


@pytest.mark.slow
def test_a_fault_at_any_write_does_so_too(shim, tmp_path):
    driven(shim, tmp_path, "document", "staged", "in place", "checkpoint", "student", stride=1)
    driven(shim, tmp_path, "distilled", stride=7)
