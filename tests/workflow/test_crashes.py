"""Short forms of `make crash-test` and `make soak`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes


def assert_passes(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_distillation_that_is_killed_or_stopped_ends_at_the_same_bits():
    assert_passes("tests.crashes", "--verb", "distill", "--kills", "1", "--stops", "0")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--kills", "6", "--stops", "2"), ("--kills", "2", "--stops", "1", "--planned")])
def test_a_run_that_is_killed_or_stopped_ends_at_the_same_bits(flags):
    assert_passes("tests.crashes", *flags, "--seed", "1")


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are():
    assert_passes("tests.soak", "--minutes", "0")
