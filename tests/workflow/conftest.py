"""Whole runs on a tiny teacher, made once: a run takes half a minute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import QUICK, Outcome, exit_code_of, made_once, tiny_bert, tiny_tokenizer, write_sentences


def write_recipe(folder: Path, objective: str = "sentence-embedding", *, floor: str = "", **budget: object) -> Path:
    """A small recipe for either objective, with its teacher and its text beside it."""
    torch.manual_seed(0)
    tiny_bert(masked_lm=objective == "masked-lm", layers=1).save_pretrained(folder / "teacher")
    tiny_tokenizer().save_pretrained(folder / "teacher")
    text = write_sentences(folder / "text.txt")
    tree = {
        "name": "small",
        "teacher": str(folder / "teacher"),
        "text": {
            "sources": [{"files": str(text)}],
            "max_length": 24,
            "held_out": 40 if floor else 20,  # of fewer than 30 there is no verdict
        },
        "student": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2},
        "distill": {"objective": objective, "steps": 6, "batch_size": 8, "prune_every": 2, "checkpoint_every": 2},
        "export": QUICK,
        "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
        "budget": budget,
        **({"quality": {"floor": floor}} if floor else {}),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@dataclass(frozen=True)
class Finished:
    """A run at its end: its recipe, its folder, and what the command left."""

    recipe: Path
    run: Path
    outcome: Outcome

    def copied_to(self, folder: Path) -> Path:
        """A run's folder that may be changed."""
        return Path(shutil.copytree(self.run, folder / "run", symlinks=True))


def finished(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], Path]) -> Finished:
    """A run of the recipe that `write` puts into a folder."""

    def make(folder: Path) -> None:
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(StringIO()) as out,
            redirect_stderr(StringIO()) as err,
        ):
            code = exit_code_of(patch, "run", write(folder), "-o", folder / "run", "--json")
        (folder / "outcome.json").write_text(json.dumps(asdict(Outcome(code, out.getvalue(), err.getvalue()))))

    folder = made_once(factory, name, make)
    return Finished(
        folder / "recipe.yaml", folder / "run", Outcome(**json.loads((folder / "outcome.json").read_text()))
    )


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that keeps its budget and its floor of quality."""
    return finished(tmp_path_factory, "kept-run", lambda folder: write_recipe(folder, floor="1%", file_mb=5))


@pytest.fixture(scope="session")
def missed_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that misses both."""
    return finished(tmp_path_factory, "missed-run", lambda folder: write_recipe(folder, floor="100%", file_mb=0.001))
