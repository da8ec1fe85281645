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

from homoexport.documents.artifact import StudentManifest, verify
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
        flags += ["--hidden-size", "16", "--intermediate-size", "24", "--heads", "2", "--batch-size", "12"]
        flags += ["--steps", str(steps), "--output", str(out), "--set", "text.held_out=10"]
        for assignment in ("prune_every=2", "checkpoint_every=3", "threads=1", "precision=fp32"):
            flags += ["--set", f"distill.{assignment}"]
        return ["-m", "homoexport", "distill", *flags]

    return build


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bits(command, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, *command("sentence-embedding", whole)], env=environment(), check=True)
    arguments = [sys.executable, *command("sentence-embedding", killed)]
    process = subprocess.Popen(arguments, env=environment())
    wait_for_lines(killed, 8, process)  # past two checkpoints, still pruning
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "manifest.json").exists()
    subprocess.run([*arguments, "--resume"], env=environment(), check=True)
    assert [line["loss"] for line in log_of(killed)] == [line["loss"] for line in log_of(whole)]
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert verify(killed, StudentManifest).details.held_out_loss == verify(whole, StudentManifest).details.held_out_loss


@pytest.mark.slow
def test_an_export_that_is_ended_leaves_nothing(tiny_folder, tmp_path):
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    work.mkdir()
    scratch.mkdir()
    arguments = ["export", "--onnx", str(tiny_folder()), "--output", str(work / "package"), "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "homoexport", *arguments],
        env=environment() | {"TMPDIR": str(scratch)},
        stderr=subprocess.DEVNULL,
    )
    for found in (lambda: list(work.iterdir()), lambda: list(scratch.glob("homoexport-*"))):
        deadline = time.monotonic() + 120
        while not found():  # the half-written package, and the candidates
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(work.iterdir()) == []
    assert list(scratch.glob("homoexport-*")) == []


def launch(processes: int, arguments: list[str]) -> list[str]:
    """The command line of several processes on this machine."""
    flags = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    flags += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [sys.executable, *flags, *arguments]


def assert_same_run(one: Path, other: Path) -> None:
    """Same widths at every step, losses within 1e-4, and the same neurons left in the same places."""
    alone, together = log_of(one), log_of(other)
    assert [line["widths"] for line in together] == [line["widths"] for line in alone]
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("sentence-embedding", []),
        ("sentence-embedding", ["--student-output", "teacher"]),
        pytest.param("sentence-embedding", ["--steps", "60"], id="the teacher's outputs from disk"),
        ("masked-lm", []),
    ],
)
def test_several_processes_prune_alike_and_end_at_the_same_loss(command, tmp_path, objective, more):
    one = tmp_path / "1"
    subprocess.run([sys.executable, *command(objective, one), *more], env=environment(), check=True)
    for processes in (2, 3):
        several = tmp_path / str(processes)
        subprocess.run(launch(processes, [*command(objective, several), *more]), env=environment(), check=True)
        assert_same_run(one, several)
        details = [verify(folder, StudentManifest).details for folder in (one, several)]
        assert [detail.processes for detail in details] == [1, processes]
        assert details[1].held_out_loss == pytest.approx(details[0].held_out_loss, abs=1e-4)


def process_of_rank(rank: int, folder: Path) -> int | None:
    """The process that distils into `folder` as this rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in arguments and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    return None


@pytest.mark.slow
def test_dead_process_ends_the_job_and_another_number_goes_on(command, tmp_path):
    """Killed in the middle of three processes, resumed on one, stopped, resumed on two."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([sys.executable, *command("masked-lm", whole)], env=environment(), check=True)
    arguments = command("masked-lm", broken)
    job = subprocess.Popen(launch(3, arguments), env=environment(), stderr=subprocess.PIPE, text=True)
    victim = wait_for_lines(broken, 8, job) and process_of_rank(2, broken)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "another process of this job has ended" in errors
    assert "--resume" in errors
    assert not (broken / "manifest.json").exists()
    alone = subprocess.Popen([sys.executable, *arguments, "--resume"], env=environment())
    wait_for_lines(broken, 15, alone)
    alone.kill()
    alone.wait()
    subprocess.run(launch(2, [*arguments, "--resume"]), env=environment(), check=True)
    assert_same_run(whole, broken)


def wait_for_lines(folder: Path, lines: int, process: subprocess.Popen) -> bool:
    """Wait until the run's log has that many lines."""
    log = folder / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() or len(log.read_text().splitlines()) < lines:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return True


@pytest.mark.slow
def test_streams_dealt_out_to_processes_make_the_same_students(tiny_folder, tmp_path):
    """Several students, so that a branch goes back to its place in the stream."""
    (tmp_path / "data").mkdir()
    for part in range(6):
        rows = [{"text": " ".join(f"w{(i * j + part) % 95}" for j in range(2, 6 + i % 9)) + "."} for i in range(200)]
        (tmp_path / "data" / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tree = {
        "name": "streamed",
        "teacher": str(tiny_folder(masked_lm=True)),
        "text": {
            "sources": [{"dataset": str(tmp_path / "data"), "streaming": True}],
            "max_length": 24,
            "held_out": 20,
        },
        "students": [
            {"name": "wide", "hidden_size": 24, "num_attention_heads": 4},
            {"name": "narrow", "hidden_size": 16, "num_attention_heads": 2},
        ],
        "distill": {
            "objective": "masked-lm",
            "steps": 20,
            "batch_size": 12,
            "prune_every": 2,
            "precision": "fp32",
            "threads": 1,
        },
    }
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(tree))  # JSON is YAML
    arguments = ["-m", "homoexport", "distill", str(recipe), "-o"]
    subprocess.run([sys.executable, *arguments, str(tmp_path / "1")], env=environment(), check=True)
    subprocess.run(launch(3, [*arguments, str(tmp_path / "3")]), env=environment(), check=True)
    for name in ("wide", "narrow"):
        assert_same_run(tmp_path / "1" / name, tmp_path / "3" / name)
