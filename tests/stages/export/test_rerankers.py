"""Rerankers: one output for a pair, in Python, in the card, for sentence-transformers' CrossEncoder; the docs' page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from homoexport.cli.app import load_command
from homoexport.documents.recipe import Recipe, parse_as, read_recipe_tree
from homoexport.encoder import Encoder, load_classifier, load_encoder
from homoexport.errors import PackageError
from homoexport.runtime.inference import open_package
from tests.conftest import tiny_model, tiny_tokenizer
from tests.snippets import snippets
from tests.stages.export.conftest import export_package
from tests.stages.measure.tiny_onnx import weights, write_package

ROOT = Path(__file__).parents[3]
PAIRS = [("w1 w2", "w3 w4 w5 w6"), ("w1 w2", "w7"), ("w8 w9 w10", "w11 w12"), ("w1", "")]
IDENTITY = "torch.nn.modules.linear.Identity"


def in_order(files: Sequence[Path]) -> list[float]:
    return [1.0 + index for index, _ in enumerate(files)]


def write_model(folder: Path, *, outputs: int = 1, activation: str | None = None) -> str:
    """A random classifier of pairs; its activation as CrossEncoder's own folders have it."""
    model = tiny_model("bert", "sequence")
    model.config.num_labels = outputs
    model = type(model)(model.config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("LayerNorm.weight" in name), std=0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if activation is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"activation_fn": activation}))
    return str(folder)


def package_of(source: str, out: Path, quantize: str = "none") -> tuple[Encoder, Path]:
    encoder = load_encoder(source)
    return encoder, export_package(encoder, out_dir=out, rank=in_order, quantize=quantize, graph="standard")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> tuple[Encoder, Path]:
    return package_of(write_model(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("out") / "reranker")


def torch_scores(encoder: Encoder) -> np.ndarray:
    tokens = encoder.tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="pt")
    with torch.no_grad():
        found: np.ndarray = encoder.model(**tokens).logits[:, 0].numpy()
    return found


@pytest.mark.parametrize("batch_size", [1, 32])
def test_scores_are_torchs_logits(reranker, batch_size):
    encoder, package = reranker
    found = open_package(package).score(PAIRS, batch_size=batch_size)
    assert (found.shape, found.dtype) == ((4,), np.float32)
    np.testing.assert_allclose(found, torch_scores(encoder), atol=1e-4)
    assert open_package(package).score([]).shape == (0,)


def test_what_has_no_one_output_gives_no_score(tmp_path):
    labels = write_package(
        tmp_path / "labels",
        "text-classification",
        arrays={**weights(), "head": weights(vocab_size=3)["head"]},
        labels=["a", "b", "c"],
    )
    with pytest.raises(PackageError, match="text-classification model of 3 labels, which gives no score"):
        open_package(labels).score(["w1"])
    with pytest.raises(PackageError, match="sentence-similarity model, which gives no score"):
        open_package(write_package(tmp_path / "sentences")).score(["w1"])


def test_the_card_has_an_example_with_pairs(reranker):
    _, package = reranker
    card = (package / "README.md").read_text()
    first, second = (part.split("\n```")[0] for part in card.split("```python\n")[1:])
    names: dict[str, object] = {}
    exec(first.replace('"."', repr(str(package))).replace('"./', f'"{package}/').replace('"a passage"', '"w1"'), names)
    pairs = list(zip(names["queries"], names["passages"], strict=True))
    np.testing.assert_allclose(names["scores"], open_package(package).score(pairs), atol=1e-4)
    assert 'CrossEncoder(".", backend="onnx")' in second


@pytest.mark.parametrize(
    ("quantize", "activation"),
    [
        pytest.param("none", None, marks=pytest.mark.slow),
        ("int8", IDENTITY),
        pytest.param("int8", "os.system", marks=pytest.mark.slow),
        ("none", "torch.nn.Tanh"),
    ],
)
def test_cross_encoder_is_told_the_file_and_the_activation(tmp_path, quantize, activation):
    source = write_model(tmp_path / "model", activation=activation)
    encoder, package = package_of(source, tmp_path / "package", quantize)
    settings = json.loads((package / "sentence_bert_config.json").read_text())
    (file,) = (package / "onnx").iterdir()
    assert settings["model_args"]["file_name"] == file.name
    assert (settings["transformer_task"], settings["max_seq_length"]) == ("sequence-classification", 64)
    said = json.loads((package / "config_sentence_transformers.json").read_text())
    known = {} if activation in (None, "os.system") else {"activation_fn": activation}
    assert said == {"model_type": "CrossEncoder", **known}
    encoder.model.save_pretrained(tmp_path / "student")  # as a student of it would be
    kept = json.loads((tmp_path / "student/config.json").read_text()).get("sentence_transformers", {})
    assert kept == known


def test_prompts_that_pairs_may_stand_behind_stay_with_the_package(tmp_path):
    source = Path(write_model(tmp_path / "model"))
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (source / "modules.json").write_text(json.dumps([module]))
    (source / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "w3 "}}))
    encoder, package = package_of(str(source), tmp_path / "package")
    said = json.loads((package / "config_sentence_transformers.json").read_text())
    assert said == {"model_type": "CrossEncoder", "prompts": {"query": "w3 "}, "default_prompt_name": None}
    np.testing.assert_allclose(open_package(package).score(PAIRS), torch_scores(encoder), atol=1e-4)


def test_what_learns_scores_has_no_activation(tmp_path):
    source = write_model(tmp_path / "model", outputs=3)
    assert load_classifier(source, []).model.config.sentence_transformers == {"activation_fn": IDENTITY}
    assert not hasattr(load_classifier(source, ["a", "b"]).model.config, "sentence_transformers")


def test_the_pages_python(reranker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("reranker").symlink_to(reranker[1])
    names: dict[str, object] = {}
    exec(snippets("rerankers.md", "The package in Python", "python")[0], names)
    assert sorted(names["best_first"]) == sorted(names["passages"])
    assert names["best_first"][0] == names["passages"][names["scores"].argmax()]


def test_the_pages_recipe_is_the_recipe(tmp_path):
    (fragment,) = snippets("rerankers.md", "A recipe", "yaml")
    tree, shown = read_recipe_tree(ROOT / "recipes/reranker.yaml"), yaml.safe_load(fragment)
    for section in ("finetune", "text", "distill", "quality"):
        tree[section] = tree[section] | shown[section]
    again = parse_as(Recipe, tree, where="docs/rerankers.md")
    assert again == parse_as(Recipe, read_recipe_tree(ROOT / "recipes/reranker.yaml"), where="recipe")


@pytest.mark.parametrize("page", ["rerankers.md", "embedding.md"])
def test_the_pages_commands_are_understood(page):
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("homoexport ")]
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line.split("<")[0])[1:]
        load_command(name).make_context(name, arguments)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_many_pairs(homoexport, reranker, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    Path("reranker").symlink_to(reranker[1])
    rows = "".join(f"{query},{passage},p{number}\n" for number, (query, passage) in enumerate(PAIRS))
    Path("pairs.csv").write_text("query,passage,name\n" + rows)
    (command,) = snippets("rerankers.md", "Many pairs", "bash")
    arguments = shlex.split(command.replace("scores.npy", f"scores.{suffix}"))[1:]
    outcome = homoexport(*arguments, *(["--id-column", "name"] if suffix == "parquet" else []))
    assert outcome.code == 0, outcome.err
    if suffix == "npy":
        found = np.load("scores.npy")
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table("scores.parquet")
        assert table["id"].to_pylist() == ["p0", "p1", "p2", "p3"]
        found = np.stack(table["scores"].to_numpy())
    np.testing.assert_allclose(found[:, 0], open_package(reranker[1]).score(PAIRS), atol=1e-5)


def test_sentence_packages_give_no_scores_for_files(homoexport, tmp_path):
    package = write_package(tmp_path / "package")
    (tmp_path / "some.txt").write_text("w1\n")
    outcome = homoexport("score", package, "--data", tmp_path / "some.txt", "-o", tmp_path / "scores.npy")
    assert (outcome.code, "which gives no scores" in outcome.err) == (2, True)
    assert not (tmp_path / "scores.npy").exists()


def test_a_classifiers_scores_say_whose_they_are(homoexport, tmp_path):
    head = {"head": weights(vocab_size=3)["head"]}
    package = write_package(
        tmp_path / "labels", "text-classification", arrays={**weights(), **head}, labels=["no", "maybe", "yes"]
    )
    (tmp_path / "some.txt").write_text("w1\nw2\n")
    data = ("--data", tmp_path / "some.txt")
    outcome = homoexport("score", package, *data, "-o", tmp_path / "scores.npy", "--json")
    assert outcome.code == 0, outcome.err
    assert "2 scores of 3 (no, maybe, yes) in " in outcome.err
    assert json.loads(outcome.out)["labels"] == ["no", "maybe", "yes"]
    assert np.load(tmp_path / "scores.npy").shape == (2, 3)
