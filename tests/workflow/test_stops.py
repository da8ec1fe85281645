"""Runs that are stopped by signals, killed, or lost to a loss that is no number."""

from __future__ import annotations

import json
import math
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from homoexport.cli.screen import Bars
from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT, LOG
from homoexport.documents.output import refuse_existing
from homoexport.errors import OutputError
from homoexport.stages.distill import Run
from homoexport.workflow import distill as distilling
from tests.workflow.conftest import write_recipe

STEPS = 12


@pytest.fixture
def command(tmp_path) -> list[str]:
    """A small distillation with no checkpoints but its own, on one thread."""
    text = str(tmp_path / "text.txt")
    settings = {"steps": STEPS, "prune_every": 2, "checkpoint_every": 100, "threads": 1, "precision": "fp32"}
    assignments = [f"--set=distill.{name}={value}" for name, value in settings.items()]
    return ["distill", str(write_recipe(tmp_path)), *assignments, f"--set=text.sources=[{{files: {text}}}]"]


@pytest.fixture
def at_step(monkeypatch) -> Callable[..., None]:
    """Has something done when a run has made its step of that number (for the `time`-th time)."""

    def arrange(step: int, act: Callable[[], None], *, time: int = 1) -> None:
        told, seen = Bars.on_distill, []

        def on_distill(self, progress):
            told(self, progress)
            seen.append(progress.step.step)
            if progress.step.step == step and seen.count(step) == time:
                act()

        monkeypatch.setattr(Bars, "on_distill", on_distill)

    return arrange


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def stream(command: list[str], folder: Path) -> None:
    """Have the text read as a stream."""
    (folder / "data").mkdir()
    (folder / "text.txt").rename(folder / "data" / "train.txt")
    command[-1] = f"--set=text.sources=[{{dataset: {folder / 'data'}, streaming: true}}]"


def assert_same(one: Path, other: Path) -> None:
    assert [line["loss"] for line in log_of(one)] == [line["loss"] for line in log_of(other)]
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "streaming"),
    [
        pytest.param(signal.SIGINT, False, id="SIGINT, map"),
        pytest.param(signal.SIGTERM, True, id="SIGTERM, stream"),
        pytest.param(signal.SIGTERM, False, id="SIGTERM, map", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, False, id="SIGHUP, map", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_after_the_step_in_hand_and_the_told_command_goes_on(
    homoexport, command, at_step, tmp_path, number, streaming
):
    if streaming:
        stream(command, tmp_path)
    assert homoexport(*command, "-o", tmp_path / "whole").code == 0
    out = tmp_path / "stopped run"
    at_step(5, lambda: signal.raise_signal(number))
    stopped = homoexport(*command, "-o", out)
    assert stopped.code == 128 + number
    assert [line["step"] for line in log_of(out)] == [0, 1, 2, 3, 4, 5]
    assert "stopping after the step in hand" in stopped.err
    assert "stopped after step 6 of 12" in stopped.err
    (told,) = [line for line in stopped.err.splitlines() if "this goes on: " in line]
    program, *words = shlex.split(told.partition("this goes on: ")[2])
    assert (program, words[-1]) == ("homoexport", "--resume")
    resumed = homoexport(*words)
    assert resumed.code == 0, resumed.err
    assert "going on after step 6 of 12" in resumed.err
    assert_same(tmp_path / "whole", out)
    assert not list(out.glob(".checkpoint*"))


def test_a_signal_at_the_last_step_loses_nothing(homoexport, command, at_step, tmp_path):
    at_step(STEPS - 1, lambda: signal.raise_signal(signal.SIGTERM))
    assert homoexport(*command, "-o", tmp_path / "out").code == 143
    assert len(log_of(tmp_path / "out")) == STEPS
    assert homoexport(*command, "-o", tmp_path / "out", "--resume").code == 0


def test_a_second_signal_ends_at_once_and_nothing_done_is_said(homoexport, command, at_step, tmp_path):
    def both() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    at_step(5, both)
    stopped = homoexport(*command, "-o", tmp_path / "out")
    assert stopped.code == 130
    assert "nothing was done yet that could be kept" in stopped.err
    assert not (tmp_path / "out").exists()


def test_a_stop_before_the_first_step_puts_back_what_force_would_have_replaced(
    homoexport, command, tmp_path, monkeypatch
):
    assert homoexport(*command, "-o", tmp_path / "out").code == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("homoexport.workflow.distill.open_job", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        stopped = homoexport(*command, "-o", tmp_path / "out", "--force")
    assert stopped.code == 143
    assert "this goes on" not in stopped.err
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_stop_while_the_student_is_mended_does_not_wait_for_the_first_step(
    homoexport, command, tmp_path, monkeypatch
):
    told = []

    def on_measure(_bars: Bars, what: str, share: float) -> None:
        told.append((what, share))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Bars, "on_measure", on_measure)
    pruned_at_once = ["--set=distill.method=one-shot", "--set=distill.repair=true"]
    command.remove("--set=distill.prune_every=2")
    stopped = homoexport(*command, *pruned_at_once, "-o", tmp_path / "out")
    assert (stopped.code, told) == (143, [("mending the pruned student", 0.0)])
    assert "nothing was done yet that could be kept" in stopped.err
    assert not (tmp_path / "out").exists()


def test_ignored_signals_stay_ignored(homoexport, command, at_step, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(5, lambda: signal.raise_signal(signal.SIGHUP))
        assert homoexport(*command, "-o", tmp_path / "out").code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


class Killed(Exception):
    """Stands in for SIGKILL: nothing is written any more."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--set=distill.checkpoint_every=4"], "going on after step 4 of 12"),
        (["--set=distill.checkpoint_every=null"], "going on after step 6 of 12"),  # a fifth: every third step
    ],
)
def test_resuming_says_from_where(homoexport, command, at_step, tmp_path, flags, told):
    at_step(6, kill)
    assert homoexport(*command, *flags, "-o", tmp_path / "out").code == 1
    resumed = homoexport(*command, *flags, "-o", tmp_path / "out", "--resume")
    assert (resumed.code, told in resumed.err) == (0, True), resumed.err


@pytest.fixture
def killed(homoexport, command, at_step, tmp_path) -> Path:
    """A run's folder, with a checkpoint after its fourth step and the log of seven."""
    command.append("--set=distill.checkpoint_every=4")
    at_step(6, kill)
    assert homoexport(*command, "-o", tmp_path / "out").code == 1
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("steps", "torn"),
    [(4, b""), (4, b"\0" * 4096), (5, b'{"step": 5, "lo'), (7, b"\xff\n")],
)
def test_a_log_that_ends_torn_after_the_checkpoint_is_written_on(homoexport, command, killed, steps, torn):
    lines = (killed / LOG).read_bytes().splitlines(keepends=True)
    (killed / LOG).write_bytes(b"".join(lines[:steps]) + torn)
    resumed = homoexport(*command, "-o", killed, "--resume")
    assert (resumed.code, "going on after step 4 of 12" in resumed.err) == (0, True), resumed.err
    assert [line["step"] for line in log_of(killed)] == list(range(STEPS))


def assert_refused(outcome, word: str) -> None:
    *_, line = outcome.err.splitlines()
    assert (outcome.code, line.startswith("error: "), word in line) == (2, True, True), outcome.err


def test_a_log_without_the_checkpoints_steps_is_refused(homoexport, command, killed):
    whole = (killed / LOG).read_bytes().splitlines(keepends=True)
    for content in (b"", b"".join(whole[:3]), b"".join(whole[:3]) + b"\0" * 4096, whole[0] + b"\xff\n" * 6):
        (killed / LOG).write_bytes(content)
        assert_refused(homoexport(*command, "-o", killed, "--resume"), "does not hold the steps up to the checkpoint")
        assert (killed / CHECKPOINT).is_file()


def test_a_checkpoint_that_holds_something_else_is_refused(homoexport, command, killed):
    """Each part left out, or of another kind: a stranger's run is no reason for a traceback."""
    sound = torch.load(killed / CHECKPOINT, weights_only=True)
    parts = [(sound, name) for name in sound if name not in ("at_branch", "at_end")]
    parts += [(sound["run"], name) for name in ("step", "widths", "student", "optimizer", "rate", "ranking", "depth")]
    for holder, name in parts:
        value = holder.pop(name)
        for other in ({}, {name: "x"}, {name: [0]}):
            holder.update(other)
            torch.save(sound, killed / CHECKPOINT)
            assert_refused(homoexport(*command, "-o", killed, "--resume"), "")
            holder.pop(name, None)
        holder[name] = value
    torch.save({"format": sound["format"]}, killed / CHECKPOINT)
    assert_refused(homoexport(*command, "-o", killed, "--resume"), "--force")


def while_loading(monkeypatch, act: Callable[[], None]) -> None:
    """Has something done between a command's first checks and its work."""
    open_job, waiting = distilling.open_job, [act]

    def opened(*args, **kwargs):
        while waiting:
            waiting.pop()()
        return open_job(*args, **kwargs)

    monkeypatch.setattr(distilling, "open_job", opened)


def test_what_another_process_finished_meanwhile_is_not_made_again(homoexport, command, killed, monkeypatch):
    manifests = []

    def finish() -> None:
        assert homoexport(*command, "-o", killed, "--resume").code == 0
        manifests.append((killed / "manifest.json").stat().st_mtime_ns)

    while_loading(monkeypatch, finish)
    outcome = homoexport(*command, "-o", killed, "--resume")
    assert (outcome.code, "starting at step 1" in outcome.err) == (0, False), outcome.err
    assert manifests == [(killed / "manifest.json").stat().st_mtime_ns]


def test_what_another_process_began_anew_meanwhile_is_not_gone_on_with(homoexport, command, killed, monkeypatch):
    other = [*command, "--set=distill.learning_rate=0.001", "--force"]
    while_loading(monkeypatch, lambda: homoexport(*other, "-o", killed))
    assert_refused(homoexport(*command, "-o", killed, "--resume"), "with other settings")
    assert (killed / "manifest.json").is_file()


def test_a_run_without_a_checkpoint_says_that_it_starts_again(homoexport, command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("homoexport.workflow.student.save_checkpoint", lambda *_, **__: kill())
        patch.setattr("homoexport.workflow.distill.holds", lambda *_: True)  # as after SIGKILL, nothing is removed
        assert homoexport(*command, "-o", tmp_path / "out").code == 1
    resumed = homoexport(*command, "-o", tmp_path / "out", "--resume")
    assert (resumed.code, "no checkpoint was left: starting at step 1" in resumed.err) == (0, True)


@pytest.fixture
def no_number(monkeypatch) -> Callable[[Callable[[Run], bool]], None]:
    """Makes the weights no numbers after every step of which a run says so."""

    def arrange(is_lost: Callable[[Run], bool]) -> None:
        train = Run._train

        def lose(self: Run) -> float:
            rate = train(self)
            if is_lost(self):
                next(self.student.parameters()).data.fill_(math.nan)
            return rate

        monkeypatch.setattr(Run, "_train", lose)

    return arrange


@pytest.mark.parametrize(
    "lost_at",
    [
        pytest.param(4, id="event", marks=pytest.mark.slow),
        pytest.param(6, id="after an event"),
        pytest.param(STEPS - 1, id="last step"),
    ],
)
def test_a_run_that_diverges_goes_back_once_with_a_lower_rate(
    homoexport, command, at_step, no_number, tmp_path, lost_at
):
    command.append("--set=distill.checkpoint_every=4")
    assert homoexport(*command, "-o", tmp_path / "sound").code == 0
    no_number(lambda run: run.step == lost_at and not run.slowed)
    outcome = homoexport(*command, "-o", tmp_path / "whole")
    assert outcome.code == 0, outcome.err
    assert f"back to step {4 * (lost_at // 4)}, with 0.25 of the learning rate" in outcome.err
    assert len(log_of(tmp_path / "whole")) == STEPS
    rates = [[line["learning_rate"] for line in log_of(tmp_path / name)] for name in ("sound", "whole")]
    again = 4 * (lost_at // 4)
    assert rates[1] == pytest.approx(rates[0][:again] + [0.25 * rate for rate in rates[0][again:]])
    for stop, time in ((lost_at - 1, 1), (again, 2)):  # before it diverges, and after it went back
        at_step(stop, lambda: signal.raise_signal(signal.SIGTERM), time=time)
        out = tmp_path / f"{stop}-{time}"
        assert homoexport(*command, "-o", out).code == 143
        assert homoexport(*command, "-o", out, "--resume").code == 0
        assert_same(tmp_path / "whole", out)


def test_a_stream_goes_back_to_its_start_with_the_run(homoexport, command, no_number, tmp_path):
    stream(command, tmp_path)
    no_number(lambda run: run.step == 1 and not run.slowed)
    outcome = homoexport(*command, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "back to step 0" in outcome.err
    assert len(log_of(tmp_path / "out")) == STEPS


def test_checkpoints_come_by_time_and_where_a_run_goes_back_to_does_not(
    homoexport, command, at_step, no_number, tmp_path, monkeypatch
):
    """A fifth of the steps is three; with no time between two, there is a checkpoint after every step."""
    command.append("--set=distill.checkpoint_every=null")
    no_number(lambda run: run.step == 7 and not run.slowed)
    assert homoexport(*command, "-o", tmp_path / "whole").code == 0
    monkeypatch.setattr("homoexport.workflow.student._LEAST_SECONDS", 0.0)
    monkeypatch.setattr("homoexport.workflow.student._SHARE_OF_TIME", 1e9)
    at_step(7, kill)
    out = tmp_path / "out"
    assert homoexport(*command, "-o", out).code == 1
    resumed = homoexport(*command, "-o", out, "--resume")
    assert resumed.code == 0, resumed.err
    assert "going on after step 7 of 12" in resumed.err
    assert "back to step 6, with 0.25 of the learning rate" in resumed.err
    assert_same(tmp_path / "whole", out)


@pytest.mark.parametrize("lost_at", [1, 6, STEPS - 1], ids=["at first", "after an event", "last step"])
def test_a_run_that_diverges_again_ends_with_the_logs_name(homoexport, command, no_number, tmp_path, lost_at):
    no_number(lambda run: run.step == lost_at)
    outcome = homoexport(*command, "--set=distill.checkpoint_every=2", "-o", tmp_path / "out")
    assert outcome.code == 2
    *_, line = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "again after going back once" in line
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert f"{tmp_path / 'out' / LOG}: " in line
    assert (tmp_path / "out" / LOG).is_file()
    assert (tmp_path / "out" / GOOD_CHECKPOINT).is_file()
    assert (tmp_path / "out" / CHECKPOINT).is_file()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_rate_that_cannot_work_saves_no_student(homoexport, command, tmp_path, steps):
    flags = [f"--set=distill.{assignment}" for assignment in (f"steps={steps}", "learning_rate=1e38", "warmup=0")]
    outcome = homoexport(*command, *flags, "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert f"{LOG}: " not in outcome.err or (tmp_path / "out" / LOG).is_file()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_student_whose_answers_are_no_numbers_is_not_saved(homoexport, command, tmp_path, monkeypatch):
    monkeypatch.setattr("homoexport.workflow.student.held_out_loss", lambda *_: math.nan)
    outcome = homoexport(*command, "-o", tmp_path / "out")
    assert (outcome.code, "held-out loss is nan" in outcome.err) == (2, True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_killed_distillation_may_be_replaced(killed):
    refuse_existing(killed, force=True)
    (killed / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        refuse_existing(killed, force=True)
