"""Every command of the README and its five lines of Python, in their order, with few steps and little text."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from homoexport.cli.app import load_command
from homoexport.stages.plan import lab
from tests.conftest import BERT_TINY, tiny_bert, tiny_tokenizer, write_sentences

ROOT = Path(__file__).parents[1]
SHORT = {
    "distill.steps": "2",
    "distill.batch_size": "8",
    "text.held_out": "20",
    "text.max_length": "128",
    "text.sources": "[{files: text/*.txt}]",
    "measure.min_seconds": "0.1",
    "export.graph": "standard",
    "export.seconds": "0.02",
}
Call = Callable[[list[str]], int]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    """The shell's lines, those that go on joined."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.strip()]


def flags(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def spoken(arguments: list[str], stdin: str | None, stdout: str | None) -> int:
    """The exit code of a process of its own."""
    with Path(stdin or os.devnull).open("rb") as source, Path(stdout or "out.txt").open("wb") as target:
        command = [sys.executable, "-m", "homoexport", *arguments]
        return subprocess.run(command, stdin=source, stdout=target, check=False).returncode


def run_all(call: Call, first: dict[str, str], mine: dict[str, str]) -> None:
    """The quickstart, which `make demo` runs, then every command.

    Args:
        call: runs a command that neither reads nor writes, given its arguments.
        first: settings of the quickstart.
        mine: settings of the README's other run.
    """
    assert call(["run", "recipes/quickstart.yaml", "-o", "runs/quickstart", *flags({**SHORT, **first})]) in (0, 3)
    for line in commands():
        if not line.startswith("homoexport "):  # make's targets are what CI calls; the launcher has tests of its own
            assert line in ("make demo", "make test") or line.startswith("accelerate launch")
            continue
        words = shlex.split(line)[1:]
        if words[0] == "run":
            assert call([*words, *flags({**SHORT, **mine})]) in (0, 3), line
        elif "<" in words:
            arguments, (stdin, stdout) = words[: words.index("<")], (words[words.index("<") + 1], words[-1])
            assert spoken(arguments, stdin, stdout) == 0, line
        else:
            assert call([*words, *(flags(SHORT) if words[0] == "distill" else [])]) == 0, line
    namespace: dict[str, object] = {}
    (snippet,) = blocks("python")
    exec(snippet, namespace)
    vectors = np.load("vectors.npy")
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(vectors, namespace["vectors"], atol=1e-5)
    assert isinstance(namespace["session"], onnxruntime.InferenceSession)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder as a reader's would be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "text").mkdir()
    (tmp_path / "lines.txt").write_text("A text.\nAnother one.\n")
    return tmp_path


def test_commands_are_understood():
    """Their flags and arguments are there; what they do is held by the slow tests below."""
    understood = []
    for line in commands():
        if line.startswith("homoexport "):
            name, *arguments = shlex.split(line.split("<")[0])[1:]
            load_command(name).make_context(name, arguments)
            understood.append(name)
    assert {"init", "run", "plan", "distill", "export", "bench", "embed", "verify", "report"} == set(understood)


@pytest.mark.processes
@pytest.mark.slow
def test_commands_on_a_small_teacher(homoexport, place, monkeypatch):
    """Random, but as wide as the recipe's student, and with its number of heads."""
    for name in ("_SECONDS", "_WHOLE_SECONDS", "_ALONE_SECONDS"):
        monkeypatch.setattr(lab, name, 0.02)
    torch.manual_seed(0)
    tiny_bert(hidden_size=384, heads=12, intermediate_size=96, positions=130).save_pretrained(place / "teacher")
    tiny_tokenizer(130).save_pretrained(place / "teacher")
    write_sentences(place / "text/some.txt")
    small = {"teacher": str(place / "teacher"), "student.intermediate_size": "48"}

    def call(arguments: list[str]) -> int:
        hurried = ["--graph", "standard", "--seconds", "0.02"] if arguments[0] == "export" else []
        outcome = homoexport(*arguments, *hurried)
        print(outcome.err)  # shown where the test fails
        return outcome.code

    run_all(call, small, small)


@pytest.mark.weights
@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.alone
def test_commands_as_they_stand(place):
    sentences = "The committee met on {} and voted for plan {}.\nNobody expected the {} to cost {} million.\n"
    (place / "text/some.txt").write_text("".join(sentences.format(i, i + 1, i * 2, i) for i in range(100)))
    student = {"hidden_size": "64", "num_attention_heads": "2", "intermediate_size": "256"}
    small = {"teacher": BERT_TINY, "measure.length": "32", **{f"student.{key}": student[key] for key in student}}
    run_all(lambda arguments: spoken(arguments, None, None), {}, small)
