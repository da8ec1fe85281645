"""Where `make loaders` puts things, and packages for the loaders."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from homoexport.encoder import Encoder, load_encoder
from tests.conftest import BERT_TINY
from tests.stages.export.conftest import export_package

SET_UP = Path(__file__).parents[2] / ".loaders"
TEXTS = ["A cat sat on the mat.", "Why?"]
LABELS = ("bad", "middling", "good")


def in_order(files: list[Path]) -> list[float]:
    return [1.0 + index for index, _ in enumerate(files)]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The packaged tiny BERT, whose token vectors are pooled."""
    return load_encoder(BERT_TINY, task="sentence-similarity")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The packaged tiny BERT with a random head for three labels."""
    return with_head(tmp_path_factory.mktemp("classifier"), id2label=dict(enumerate(LABELS)))


def with_head(folder: Path, **settings: Any) -> Encoder:
    """The packaged tiny BERT as a classifier with a random head, saved in a folder."""
    body = load_encoder(BERT_TINY, task="feature-extraction")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(body.folder, **settings)
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(body.model.state_dict(), strict=False)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    body.tokenizer.save_pretrained(folder)
    return load_encoder(str(folder))


@pytest.fixture(scope="session")
def packages(encoder: Encoder, classifier: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a sentence package, `package`, and a classifier's, `classifier`, both in one scheme."""
    made: dict[str, Path] = {}

    def make(quantize: Any) -> Path:
        if quantize not in made:
            made[quantize] = folder = tmp_path_factory.mktemp(str(quantize))
            strings = {"with_tokenizer": quantize == "int8"}
            export_package(encoder, out_dir=folder / "package", rank=in_order, quantize=quantize, **strings)
            export_package(classifier, out_dir=folder / "classifier", rank=in_order, quantize=quantize)
        return made[quantize]

    return make


def run_node(script: str, *, folder: Path, modules: Path, result: str) -> Any:
    """What a module's expression is after it ran in a folder, with a folder of npm's packages."""
    link = folder / "node_modules"
    link.unlink(missing_ok=True)
    link.symlink_to(modules)
    told = f"(await import('node:fs')).writeFileSync('result.json', JSON.stringify({result}));\nprocess.exit(0);\n"
    (folder / "script.mjs").write_text(f"{script}\n{told}")
    done = subprocess.run(["node", "script.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())
