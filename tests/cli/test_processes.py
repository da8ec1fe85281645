"""Whole processes: killed and resumed, and two of them against one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from homoexport.artifact import verify
from tests.conftest import write_sentences

pytestmark = pytest.mark.processes

STEPS = 24


@pytest.fixture
def command(tiny_folder, tmp_path):
    """The arguments of a small distillation; the objective decides the teacher."""

    def build(objective: str, out: Path, *, steps: int = STEPS) -> list[str]:
        teacher = tiny_folder(f"teacher-{objective}", masked_lm=objective == "masked-lm")
        text = write_sentences(tmp_path / "text.txt")
        flags = ["--teacher", str(teacher), "--data", str(text), "--objective", objective, "--max-length", "24"]
        flags += ["--hidden-size", "16", "--intermediate-size", "24", "--heads", "2", "--batch-size", "8"]
        flags += ["--steps", str(steps), "--output", str(out), "--set", "text.held_out=10"]
        for assignment in ("prune_every=2", "checkpoint_every=3", "threads=1", "precision=fp32"):
            flags += ["--set", f"distill.{assignment}"]
        return ["-m", "homoexport", "distill", *flags]

    return build


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_killed_run_resumes_to_the_same_bits(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, *command("sentence-embedding", whole)], env=environment(), check=True)
    arguments = [sys.executable, *command("sentence-embedding", killed)]
    process = subprocess.Popen(arguments, env=environment())
    log = killed / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() or len(log.read_text().splitlines()) < 8:  # past two checkpoints, still pruning
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.json").exists()
    subprocess.run([*arguments, "--resume"], env=environment(), check=True)
    assert [line["loss"] for line in log_of(killed)] == [line["loss"] for line in log_of(whole)]
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert verify(killed)["details"]["held_out_loss"] == verify(whole)["details"]["held_out_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
def test_two_processes_prune_alike_and_end_at_the_same_loss(command, tmp_path, objective):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *command(objective, one)], env=environment(), check=True)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    subprocess.run([sys.executable, *launch, *command(objective, two)], env=environment(), check=True)
    alone, together = log_of(one), log_of(two)
    assert [line["widths"] for line in together] == [line["widths"] for line in alone]
    assert together[-1]["loss"] == pytest.approx(alone[-1]["loss"], abs=1e-4)
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], abs=1e-4)
    details = [verify(folder)["details"] for folder in (one, two)]
    assert [detail["processes"] for detail in details] == [1, 2]
    assert details[1]["held_out_loss"] == pytest.approx(details[0]["held_out_loss"], abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for name, tensor in weights[0].items():  # the same neurons are left, in the same places
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=5e-3)
