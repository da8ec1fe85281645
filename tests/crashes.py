"""Runs of a tiny teacher that are killed or stopped at random moments, and resumed until they end.

`python -m tests.crashes --kills 50 --stops 20` prints a line a trial and fails where one ends other than the
uninterrupted run: in weights, graphs, losses or quality, in files left behind, or with work lost. The moments
are drawn by `--seed`. A run is forked off this process, which has imported everything, so that no moment falls on that;
what torch exports is remembered, and candidates are ranked by their order, so that the choice among them is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the bits of a run are those of one thread
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import yaml

from homoexport.cli import main
from homoexport.documents.artifact import verify
from tests.conftest import QUICK, export_graphs_once, tiny_bert, tiny_tokenizer, write_sentences

PATIENCE_SECONDS = 120.0
_SHARE = 0.75  # of the uninterrupted run's time; a later moment may come after the end
STAGES = ("plan", "1-student", "0-teacher", "2-onnx", "3-measured")


def write_recipe(folder: Path, *, planned: bool, steps: int) -> Path:
    """A recipe whose run ends at the same bits each time: one thread, one form of graph, one scheme."""
    torch.manual_seed(0)
    tiny_bert(layers=2).save_pretrained(folder / "teacher")
    tiny_tokenizer().save_pretrained(folder / "teacher")
    tree = {
        "name": "crash",
        "teacher": str(folder / "teacher"),
        "text": {
            "sources": [{"files": str(write_sentences(folder / "text.txt"))}],
            "max_length": 24,
            "held_out": 40,
        },
        "distill": {
            "objective": "sentence-embedding",
            "steps": steps,
            "batch_size": 16,
            "prune_every": 3,
            "threads": 1,
            "precision": "fp32",
        },
        "export": {"quantize": "none" if planned else "int8", **QUICK},
        "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
        "budget": {"file_mb": 0.09 if planned else 5},
    }
    if not planned:
        tree["student"] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@dataclass
class Command:
    """A `homoexport` command in a process of its own, forked off this one; its words go to a file."""

    words: list[str]
    log: Path
    pid: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.argv = ["homoexport", *self.words]
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code (less than 0: a signal's), or None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float) -> int | None:
        """The exit code within some seconds, else None."""
        until = time.monotonic() + seconds
        while (code := self.poll()) is None and time.monotonic() < until:
            time.sleep(0.002)
        return code

    def ended_by(self, number: int, moment: float) -> int:
        """The exit code, after a signal that comes so many seconds after the start where it still runs then."""
        code = self.wait(self.began + moment - time.monotonic())
        if code is None:
            os.kill(self.pid, number)
            code = self.wait(PATIENCE_SECONDS)
        assert code is not None, f"{self.words} does not end"
        return code

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def result_of(run: Path) -> dict[str, object]:
    """What must be the same however a run was interrupted; every artifact is verified."""
    found: dict[str, object] = {}
    for artifact in [path.parent for path in sorted(run.rglob("manifest.json"))]:
        manifest = verify(artifact)
        place = artifact.relative_to(run).as_posix()
        for name in manifest.files:
            if name.endswith((".safetensors", ".onnx", "tokenizer.json", "held_out.txt", "quality.json")):
                content = (artifact / name).read_bytes().replace(str(run).encode(), b"RUN")
                found[f"{place}/{name}"] = hashlib.sha256(content).hexdigest()
        if (artifact / "log.jsonl").exists():
            log = [json.loads(line) for line in (artifact / "log.jsonl").read_text().splitlines()]
            found[f"{place}/log"] = [(line["step"], line["loss"], line["gap"]) for line in log]
    found["report"] = sorted(path.name for path in [run / "report.md", *run.glob("plots/*")])
    found["left"] = sorted(
        path.name
        for folder in (run, run.parent)
        for path in (folder.rglob("*") if folder == run else folder.iterdir())
        if path.name.startswith(".") and "lock" not in path.name
    )
    return found


def stage_of(run: Path) -> str:
    """The stage that a run was stopped in, with the step of a distillation."""
    if (run / "log.jsonl").exists():
        return f"step {len((run / 'log.jsonl').read_text().splitlines())}"
    for name in STAGES:
        if name == "plan" and not (run / name).exists():
            continue
        if not (run / name / "manifest.json").exists():
            log = run / name / "log.jsonl"
            return f"{name} step {len(log.read_text().splitlines())}" if log.exists() else name
    return "report"


@dataclass
class Trials:
    """Trials of one recipe, beside the run that nobody interrupts."""

    recipe: Path
    folder: Path
    verb: str = "run"
    seconds: float = 0.0
    expected: dict[str, object] = field(default_factory=dict)
    steps: int = 60
    kept: int = 0  # steps that the next command must not make again
    is_done: bool = False  # all of them

    def command(self, run: Path, *more: str) -> Command:
        return Command([self.verb, str(self.recipe), "-o", str(run), *more], self.folder / "said.txt")

    def reference(self) -> None:
        """The uninterrupted run, twice: what it ends at, which is the same, and how long it takes."""
        for name in ("warm", "whole") if self.verb == "run" else ("whole",):
            (self.folder / name).mkdir()
            whole = self.command(self.folder / name / "run")
            assert whole.wait(10 * PATIENCE_SECONDS) in (0, 3), whole.said
            self.seconds = min(self.seconds or math.inf, time.monotonic() - whole.began)
            found = result_of(self.folder / name / "run")
            assert self.expected in ({}, found), difference(self.expected, found)
            self.expected = found

    def trial(self, number: int, draw: random.Random) -> str:
        """One run that is interrupted once, sometimes again while it goes on; a line on where. AssertionError where it
        ends otherwise."""
        home = self.folder / f"trial-{draw.random()}"
        home.mkdir()
        run, where, more = home / "run", [], ()
        self.kept, self.is_done = 0, False
        for chance in (1.0, 0.35, 0.35):
            if draw.random() >= chance:
                break
            command = self.command(run, *more)
            code = command.ended_by(number, draw.uniform(0, _SHARE * self.seconds))
            self._assert_went_on(command, run, to_the_end=code in (0, 3))
            if code in (0, 3):
                where.append("end")
                break
            where.append(stage_of(run))
            more = self._how_to_go_on(command, run, number, code)
        if where[-1] != "end":
            end = self.command(run, *more)
            assert end.wait(10 * PATIENCE_SECONDS) in (0, 3), end.said
            self._assert_went_on(end, run, to_the_end=True)
        found = result_of(run)
        assert found == self.expected, difference(self.expected, found)
        return ", ".join(where)

    def _assert_went_on(self, command: Command, run: Path, *, to_the_end: bool) -> None:
        """That a command did not make steps again that were kept; then count those that it leaves.

        Of a kill at most a fifth of the steps is lost, of a signal that is heard between steps none.
        """
        began = re.search(r"going on after step (\d+) of|starting at step 1", command.said)
        if began or (to_the_end and not self.is_done):
            again = int(began[1] or 0) if began else 0
            assert again >= self.kept, f"goes on after step {again}, where {self.kept} were kept"
        student = run if self.verb == "distill" else run / "1-student"
        log = student / "log.jsonl"
        made = log.read_bytes().count(b"\n") if log.exists() else 0
        stopped = re.search(r"stopped after step (\d+) of", command.said)
        if stopped:
            assert made == int(stopped[1]), command.said
        self.is_done = (student / "manifest.json").exists()
        lost = 0 if stopped or self.is_done else math.ceil(self.steps / 5)
        self.kept = max(self.kept, made - lost)

    def _how_to_go_on(self, command: Command, run: Path, number: int, code: int) -> tuple[str, ...]:
        """The flag that the next command needs; of a signal that can be heard nothing but the step in hand is lost."""
        if number == signal.SIGKILL:
            assert code == -number
            return ("--resume",) if (run / "run.json").exists() else ()
        assert code in (128 + number, -number), (code, command.said)
        assert "Traceback" not in command.said, command.said
        told = re.search(r"this goes on: homoexport (.*)", command.said)
        assert (told is None) is not (run / "run.json").exists(), command.said
        if told is None:
            return ()
        words = shlex.split(told[1])
        assert words == [*command.words, *(() if "--resume" in command.words else ["--resume"])], words
        return ("--resume",)


def difference(expected: dict[str, object], found: dict[str, object]) -> str:
    names = sorted(expected.keys() | found.keys())
    return "; ".join(
        f"{name}: {str(found.get(name))[:200]} where {str(expected.get(name))[:200]} was expected"
        for name in names
        if expected.get(name) != found.get(name)
    )


def failures(trials: Trials, plan: Iterator[int], draw: random.Random) -> int:
    """How many trials failed, each told in a line."""
    failed = 0
    for count, number in enumerate(plan, 1):
        name, began = signal.Signals(number).name, time.monotonic()
        try:
            told = f"ok    {trials.trial(number, draw)}"
        except AssertionError as error:
            failed, told = failed + 1, f"FELL  {error}"
        print(f"{count:3} {name:8} {time.monotonic() - began:5.1f} s  {told}", flush=True)
    return failed


def run_trials(*, kills: int, stops: int, seed: int, verb: str = "run", planned: bool = False) -> int:
    """Failures among so many SIGKILLs, SIGTERMs and SIGINTs."""
    with TemporaryDirectory(prefix="homoexport-crashes-") as folder, pytest.MonkeyPatch.context() as patch:
        export_graphs_once(patch, Path(folder))
        patch.setattr(
            "homoexport.workflow.export.rank_files", lambda files, **_: [1.0 + at for at in range(len(files))]
        )
        os.environ.update(HOMOEXPORT_CACHE=f"{folder}/cache", HF_DATASETS_CACHE=f"{folder}/datasets")
        steps = 60 if verb == "run" else 20
        trials = Trials(write_recipe(Path(folder), planned=planned, steps=steps), Path(folder), verb, steps=steps)
        trials.reference()
        print(f"the uninterrupted run takes {trials.seconds:.1f} s; {len(trials.expected)} digests", flush=True)
        plan = [signal.SIGKILL] * kills + [signal.SIGTERM] * stops + [signal.SIGINT] * stops
        return failures(trials, iter(plan), random.Random(seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="trials with SIGKILL")
    parser.add_argument("--stops", type=int, default=20, help="trials with SIGTERM, and as many with SIGINT")
    parser.add_argument("--verb", choices=("run", "distill"), default="run")
    parser.add_argument("--planned", action="store_true", help="of a run that plans its student, too")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    fell = run_trials(**vars(asked))
    total = asked.kills + 2 * asked.stops
    print(f"{total - fell} of {total} ended as the uninterrupted run")
    sys.exit(fell > 0)
