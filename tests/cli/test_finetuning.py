"""`homoexport finetune` as a user calls it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from homoexport.documents.artifact import StudentManifest, verify
from homoexport.documents.recipe import FinetuneRecipe, parse_as, read_recipe_tree
from homoexport.stages.evaluate import GLUE
from homoexport.workflow import finetune
from tests.conftest import tiny_bert, tiny_tokenizer
from tests.snippets import snippets

RECIPE = Path(__file__).parents[2] / "recipes/glue.yaml"
QUICK = ("--epochs", "0.5", "--set", "finetune.threads=1")


@pytest.fixture
def glue(tmp_path: Path) -> Path:
    for folder, rows in (
        ("CoLA", [f"x\t{i % 2}\t\tw{i % 2} w{i % 30}" for i in range(64)]),
        ("SST-2", ["sentence\tlabel", *(f"w{i % 2} w{i % 30}\t{i % 2}" for i in range(64))]),
    ):
        (tmp_path / "glue" / folder).mkdir(parents=True)
        for split in ("train", "dev"):
            (tmp_path / f"glue/{folder}/{split}.tsv").write_text("\n".join(rows))
    return tmp_path / "glue"


@pytest.mark.slow
def test_what_the_docs_say_can_be_said(homoexport, glue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("student", "teacher"):
        tiny_bert().save_pretrained(name)
        tiny_tokenizer().save_pretrained(name)
    for name in ("train", "dev"):
        rows = "".join(f"w{i % 2} w{i % 30},{'ab'[i % 2]}\n" for i in range(64))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/glue.yaml").write_text(RECIPE.read_text())
    commands = [line for block in snippets("evaluating.md", "Fine-tuning", "bash") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        more = QUICK if " finetune " in command else ()
        told = homoexport(*shlex.split(command)[1:], *more)
        assert told.code == 0, told.err
    assert "mrpc is left out" in told.err


def test_a_student_can_be_exported_and_judged_afterwards(homoexport, glue, tiny_folder, tmp_path):
    out = tmp_path / "out"
    told = homoexport("finetune", tiny_folder(), "--task", "sst2", "--data-dir", glue, "-o", out, *QUICK, "--json")
    summary = json.loads(told.out)
    assert summary["summary"][0] | {"median": 0, "low": 0, "high": 0} == {
        "task": "sst2",
        "metric": "accuracy",
        "median": 0,
        "low": 0,
        "high": 0,
        "seeds": 1,
    }
    assert verify(out, StudentManifest).details.labels == ("negative", "positive")
    judged = homoexport("eval", out, "--task", "sst2", "--data-dir", glue, "--json")
    (one,) = json.loads(judged.out)["results"]
    assert one["metrics"] == summary["runs"][0]["judged"]["sst2"]
    quick = ("--quantize", "none", "--graph", "standard", "--seconds", 0.02)
    assert homoexport("export", out, *quick, "-o", tmp_path / "package").code == 0


def test_scores_of_single_texts_are_learned_and_judged(homoexport, tiny_folder, tmp_path):
    for name, count in (("train", 32), ("dev", 8), ("few", 2)):
        rows = "".join(f"w{i % 2} w{i % 30},{i % 2}\n" for i in range(count))
        (tmp_path / f"{name}.csv").write_text(f"text,score\n{rows}")
    files = ("--task", "scores", "--train", tmp_path / "train.csv", "--dev", tmp_path / "dev.csv")
    told = homoexport("finetune", tiny_folder(), *files, "-o", tmp_path / "out", *QUICK, "--json")
    assert told.code == 0, told.err
    assert [each["metric"] for each in json.loads(told.out)["summary"]] == ["pearson", "spearman"]
    few = homoexport("finetune", tmp_path / "teacher", *files[:-1], tmp_path / "few.csv", "-o", tmp_path / "x")
    assert (few.code, "--dev " in few.err, "few.csv: holds 2 texts; give 3 or more" in few.err) == (2, True, True)
    assert "fine-tuning" not in few.err


def test_what_is_interrupted_says_how_it_goes_on_where_it_does(homoexport, glue, tiny_folder, tmp_path, monkeypatch):
    """One training leaves nothing to go on from; of several, the first that is whole does."""
    whole = finetune.finetune_model

    def interrupt(*arguments: object, **how: object) -> object:
        if len(seeds) and how["seed"] == 0:
            return whole(*arguments, **how)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "finetune_model", interrupt)
    call = ("finetune", tiny_folder(), "--task", "sst2", "--data-dir", glue, "-o", tmp_path / "out", *QUICK)
    for seeds, resumable in (((), False), (("--seed", 0, "--seed", 1), True)):
        told = homoexport(*call, *seeds)
        assert (told.code, told.err.splitlines()[-1]) == (130, "interrupted")
        assert (f"-o {tmp_path / 'out'} {' '.join(QUICK)} --seed 0 --seed 1 --resume" in told.err) is resumable


def test_help_says_what_is_so(homoexport):
    told = " ".join(homoexport("finetune", "--help").out.replace("│", " ").split())
    assert "by default MODEL-TASK, its name alone" in told
    assert "so that the int8 file may lose less" in told


def test_flags_go_before_the_defaults_and_seeds_are_different_ones(homoexport, glue, tiny_folder, tmp_path):
    call = ("finetune", tiny_folder(), "--task", "sst2", "--data-dir", glue, "-o", tmp_path / "out")
    assert homoexport(*call, "--epochs", 0.5, "--threads", 1, "--max-length", 16).code == 0
    settings = verify(tmp_path / "out", StudentManifest).details.finetune
    assert (settings.threads, settings.max_length) == (1, 16)
    twice = homoexport(*call, "--seed", 1, "--seed", 1, "--force")
    assert (twice.code, "a seed is named twice" in twice.err) == (2, True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task", "classification", "--train", "train.csv"], ["on which files?", "--dev"]),
        (["--task", "classification", "--data-dir", "glue"], ["on which files?"]),
        (["--task", "sst2", "--dev", "dev.csv"], ["makes no difference", "--dev with --task sst2"]),
        (["--task", "rte", "--data-dir", "glue"], ["no such file", "RTE/dev.tsv", "--data-dir"]),
        (["--task", "glue", "--data-dir", "nowhere"], ["no task has files", "nowhere"]),
        (["--task", "sst2", "--data-dir", "glue", "--resume"], ["several tasks or seeds"]),
        (["--task", "sst2", "--data-dir", "glue", "--epochs", "0"], ["--epochs", "greater than 0"]),
        (["--task", "sst2", "--data-dir", "glue", "--set", "finetune.epoch=1"], ["did you mean 'epochs'?"]),
        (["--task", "sst2", "--data-dir", "glue", "--set", "tasks.sst2.epoch=1"], ["did you mean 'epochs'?"]),
        (["--task", "sst2", "--data-dir", "glue", "--teacher", "nobody"], ["nobody: no such folder"]),
    ],
)
def test_wrong_calls_say_what_is_wrong(homoexport, glue, tiny_folder, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(glue.parent)
    told = homoexport("finetune", tiny_folder(), *flags, "-o", tmp_path / "out")
    assert told.code == 2
    assert all(word in told.err for word in words), told.err
    assert not (tmp_path / "out").exists()


def test_glues_recipe_is_of_its_tasks() -> None:
    recipe = parse_as(FinetuneRecipe, read_recipe_tree(RECIPE), where="glue")
    assert set(recipe.tasks) < set(GLUE)
    assert len(recipe.seeds) == 3
