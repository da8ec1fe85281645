"""The examples run as they stand, on a tiny teacher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import homoexport

SCRIPT = Path(__file__).parents[1] / "examples/teacher_to_verdict.py"


@pytest.mark.processes
@pytest.mark.slow
def test_teacher_to_verdict(tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"w{i % 7} w{i % 11} w{i % 13} w{i % 5}" for i in range(2400)) + "\n")
    teacher = tiny_folder("encoder", positions=128)
    command = [sys.executable, SCRIPT, teacher, text, tmp_path / "out", "16", "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("M")
    assert lines[1].startswith("int8, cosine")
    assert [line.split(":")[0] for line in lines[2:]] == ["latency_p95_ms", "file_mb"]
    assert homoexport.verify(tmp_path / "out/student").kind == "student"
    assert homoexport.open_package(tmp_path / "out/student-onnx").embed(["w1 w2", ""]).shape == (2, 16)


def test_the_script_is_short():
    assert len(SCRIPT.read_text().splitlines()) <= 30
