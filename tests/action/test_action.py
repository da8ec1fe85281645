"""The GitHub Action: what action.yml says, its steps, and the whole of it in a container on two commits."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.action.steps import inputs_of, read_action, run_steps
from tests.stages.measure.tiny_onnx import weights, write_package

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
INSTALLED = ("homoexport/", "recipes", "action.yml", ".github/", "requirements-measure", "pyproject", "README", "LIC")
TOLD = {0: "kept", 1: "worse", 3: "undecided"}


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Exit code and outputs of the steps, where `homoexport` is a script that ends with a code and tells a verdict."""

    def run(code: int, verdict: str = "", **given: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        there = tmp_path / "runner/temp/homoexport/bin"
        there.mkdir(parents=True, exist_ok=True)
        told = json.dumps({"schema_version": "1.0", "verdict": verdict, "baseline": "main"}, indent=2)
        script = f"#!/bin/sh\nprintf '%s\\n' \"$@\" >asked\ncat <<'END'\n{told}\nEND\nexit {code}\n"
        for name, text in (("homoexport", script), ("python", "#!/bin/sh\n")):
            (there / name).write_text(text)
            (there / name).chmod(0o755)
        inputs = {"package": "new one", "baseline": "main", "python": "true", **given}
        found = run_steps(ROOT, inputs, tmp_path / "runner")
        output = tmp_path / "runner/output"
        return found, output.read_text() if output.exists() else ""

    return run


def test_exit_codes_are_those_of_the_verdict(step):
    for code, verdict in TOLD.items():
        found, output = step(min(code * 3, 3), verdict)
        assert found == code
        assert f"verdict={verdict}\n" in output
    assert step(3, "undecided", undecided="pass")[0] == 0
    assert step(3, "worse", undecided="pass")[0] == 1


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_failure_is_no_verdict(step, code):
    assert step(code) == (code, "")


def test_every_input_reaches_the_command_as_it_is(step, tmp_path):
    given = {
        "device": "x86:haswell",
        "threads": "2",
        "batch-size": "4",
        "length": "64",
        "text": "some texts.txt",
        "min-seconds": "5",
        "fail-if-slower": "7%",
        "fail-if-bigger": "3%",
        "fail-if-worse": "2%",
        "task": "sts",
        "data": "dev $(date) *.tsv",
        "text-column": "a",
        "pair-column": "b",
        "label-column": "c",
        "metric": "pearson",
    }
    step(0, "kept", **given)
    words = (tmp_path / "asked").read_text().splitlines()
    for name, value in given.items():
        assert words[words.index(f"--{name}") + 1] == value
    assert words[0] == "gate"
    assert words[-3:] == ["--", "main", "new one"]
    assert set(given) | {"package", "baseline", "undecided", "python"} == read_action(ROOT)["inputs"].keys()


def test_an_input_that_is_left_out_is_not_given(step, tmp_path):
    step(0, "kept")
    assert not {"--task", "--data", "--threads"} & set((tmp_path / "asked").read_text().splitlines())


def test_the_defaults_are_the_commands(homoexport):
    action = inputs_of(read_action(ROOT), {"package": "p", "baseline": "b"})
    told = homoexport("gate", "--help").out
    for name in ("fail-if-slower", "fail-if-bigger", "fail-if-worse"):
        row = next(line for line in told.splitlines() if f"--{name}" in line)
        assert action[name] in " ".join(told[told.index(row) :].split())[:300]


def commit(repository: Path, message: str) -> None:
    """All that lies there, as a commit of its own."""
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for words in (["add", "--all"], [*identity, "commit", "--quiet", "--message", message]):
        subprocess.run(["git", *words], cwd=repository, check=True)


@pytest.mark.loaders
@pytest.mark.alone
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no containers here")
def test_in_a_container_a_slower_commit_fails_and_one_that_is_no_slower_passes(tmp_path):
    """Three commits of a repository with a package in it, of which the last is slower on purpose."""
    work = tmp_path / "work"
    mine = work / "mine"
    mine.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", mine], check=True)
    arrays = weights(hidden=256, layers=2)
    for name, repeat in (("main", 4), ("same", 4), ("slower", 6)):
        shutil.rmtree(mine / "package", ignore_errors=True)
        write_package(mine / "package", arrays=arrays, repeat=repeat)
        (mine / "note.txt").write_text(name)
        commit(mine, name)
        subprocess.run(["git", "clone", "--quiet", mine, work / name], check=True)
    shutil.copytree(HERE, work / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name.startswith(INSTALLED):
            (work / "action" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, work / "action" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work / "yaml", "pyyaml"]
    subprocess.run(pip, check=True)
    container = [HERE / "container.sh", work, sys.base_prefix]
    codes, summaries = {}, {}
    for name in ("same", "slower"):
        given = {"package": f"/work/{name}/package", "baseline": "/work/main/package", "length": "32", "threads": "1"}
        (work / f"{name}.json").write_text(json.dumps(given))
        script = (
            "test -e /work/venv || { python3 -m venv /work/venv && /work/venv/bin/pip install --quiet /work/yaml/*; }; "
            f"/work/venv/bin/python /work/steps/steps.py /work/action /work/{name}.json /work/runner-{name}"
        )
        done = subprocess.run([*container, "bash", "-c", script], capture_output=True, text=True, check=False)
        codes[name] = done.returncode
        assert (work / f"runner-{name}/output").exists(), done.stdout + done.stderr
        assert re.search("verdict=(.*)", (work / f"runner-{name}/output").read_text())[1] == TOLD[done.returncode]
        summaries[name] = (work / f"runner-{name}/summary").read_text()
        assert "::error" in done.stdout if done.returncode == 1 else "::error" not in done.stdout
    assert codes["slower"] == 1, summaries["slower"]
    assert codes["same"] in (0, 3), summaries["same"]  # 3 on a machine that does too much else
    assert "| Latency p50 |" in summaries["slower"]
    assert not os.path.exists("/work/runner-slower")  # noqa: PTH110 - it was the container's
