"""Taggers against people's labels: words found again, entities counted, cut words told."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

from homoexport.encoder import load_encoder, resolve_folder
from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import TASKS, Examples, evaluate_models, read_examples
from homoexport.stages.evaluate.models import torch_package
from homoexport.stages.evaluate.tagging import _labels_of_words, spans
from tests.conftest import MINILM
from tests.stages.measure.tiny_onnx import weights, write_package

NAMES = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def tagged(words: list[list[str]], labels: list[list[str]]) -> Examples:
    texts = tuple(" ".join(row) for row in words)
    return Examples("here", texts, None, words=tuple(map(tuple, words)), word_labels=tuple(map(tuple, labels)))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-X I-X O B-Y", {("X", 1, 3), ("Y", 4, 5)}),
        ("B-X B-X I-X", {("X", 0, 1), ("X", 1, 3)}),
        ("I-X I-X I-Y", {("X", 0, 2), ("Y", 2, 3)}),  # IOB1, where B is for neighbours alone
        ("B-X I-Y", {("X", 0, 1), ("Y", 1, 2)}),
        ("S-X B-Y I-Y E-Y S-Y E-X", {("X", 0, 1), ("Y", 1, 4), ("Y", 4, 5), ("X", 5, 6)}),
        ("B-X O I-X", {("X", 0, 1), ("X", 2, 3)}),
        ("O O", set()),
    ],
)
def test_entities_are_conllevals(labels: str, expected: set[tuple[str, int, int]]) -> None:
    assert spans(labels.split()) == expected


@pytest.mark.weights
def test_a_words_label_is_its_first_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=16,
        num_hidden_layers=1,
        num_labels=5,
        id2label=dict(enumerate(NAMES)),
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    BertForTokenClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(resolve_folder(MINILM)).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    words = [
        ["Zoë", "Unbelievably-Long", "doesn't", "like", "U.S.", "antidisestablishmentarianism", "!"],
        ["a"],
        ["long", "uncharacteristically"] * 40,
    ]
    guessed = _labels_of_words(torch_package(encoder), tagged(words, words))
    for row, labels in zip(words, guessed, strict=True):
        tokens = encoder.tokenizer(row, is_split_into_words=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            best = encoder.model(**tokens).logits[0].argmax(1)
        places = tokens.word_ids()
        read = [places.index(word) for word in range(len(row)) if word in places]
        assert labels == [NAMES[best[place]] for place in read]
    assert len(guessed[2]) < 80


def write_tagger(folder: Path, labels: list[str]) -> Path:
    arrays = weights()
    arrays["head"] = arrays["head"][:, : len(labels)]
    return write_package(folder, "token-classification", arrays=arrays, labels=labels, max_length=12)


@pytest.fixture
def tagger(tmp_path: Path) -> str:
    return str(write_tagger(tmp_path / "tagger", NAMES[:3]))


def test_figures_are_those_of_the_counted_entities_and_words(tagger: str) -> None:
    rng = np.random.default_rng(0)
    words = [[f"w{word}" for word in row] for row in rng.integers(0, 50, (40, 7))]
    (found,) = evaluate_models([tagger], tagged(words, [["O"] * 7] * 40), task="tagging")
    assert {each.metric: each.value for each in found.metrics}["recall"] == 0  # there is nothing to find
    truth = [[NAMES[label] for label in row] for row in rng.integers(0, 3, (40, 7))]
    (found,) = evaluate_models([tagger], tagged(words, truth), task="tagging", teacher=tagger)
    figures = {each.metric: each.value for each in found.metrics}
    guessed = _labels_of_words(open_package(Path(tagger), threads=1), tagged(words, truth))
    pairs = [(spans(ours), spans(right)) for ours, right in zip(guessed, truth, strict=True)]
    hit, named, wanted = (sum(counts) for counts in zip(*((len(a & b), len(a), len(b)) for a, b in pairs), strict=True))
    assert figures["precision"] == pytest.approx(hit / named)
    assert figures["recall"] == pytest.approx(hit / wanted)
    assert figures["f1"] == pytest.approx(2 * hit / (named + wanted))
    assert figures["accuracy"] == pytest.approx(accuracy_score([*chain(*truth)], [*chain(*guessed)]))
    assert figures["label_agreement"] == 1
    assert found.metrics[0].words_cut_off == 0


def test_labels_that_are_no_entities_have_the_mean_f1(tmp_path: Path) -> None:
    folder = write_tagger(tmp_path / "tagger", ["noun", "verb", "other"])
    rng = np.random.default_rng(0)
    words = [[f"w{word}" for word in row] for row in rng.integers(0, 50, (40, 7))]
    numbers = rng.integers(0, 3, (40, 7))
    examples = tagged(words, [list(map(str, row)) for row in numbers])
    (found,) = evaluate_models([str(folder)], examples, task="tagging")
    figures = {each.metric: each.value for each in found.metrics}
    guessed = [*chain(*_labels_of_words(open_package(folder, threads=1), examples))]
    right = [["noun", "verb", "other"][label] for label in numbers.flat]
    assert set(figures) == {"accuracy", "f1"}
    assert figures["f1"] == pytest.approx(f1_score(right, guessed, average="macro"))


def test_cut_words_are_told_and_not_judged(tagger: str) -> None:
    words = [["w1"] * 30, ["w2"] * 5]
    (found,) = evaluate_models([tagger], tagged(words, [["O"] * 30, ["O"] * 5]), task="tagging")
    figure = found.metrics[0]
    assert (figure.words, figure.words_cut_off, figure.texts) == (15, 20, 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"tokens": ["a", "b"], "ner_tags": [0]}], "row 1: has 2 words and 1 labels"),
        ([{"tokens": ["a"], "ner_tags": None}], "row 1: has 1 words and 0 labels"),
        ([{"tokens": "a b", "ner_tags": [0, 0]}], "holds str, not a list of words"),
        ([{"words": ["a"], "ner_tags": [0]}], "no column 'tokens'"),
        ([{"tokens": [], "ner_tags": []}], "holds no text"),
    ],
)
def test_bad_rows_are_told(tmp_path: Path, rows: list[dict[str, object]], words: str) -> None:
    (tmp_path / "ner.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TextError, match=words):
        read_examples(str(tmp_path / "ner.jsonl"), TASKS["tagging"].columns, has_words=True)


def test_labels_that_the_tagger_lacks_and_models_that_tag_nothing_are_told(tagger: str, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="the label 'B-Z' is none of the model's"):
        evaluate_models([tagger], tagged([["w1"]], [["B-Z"]]), task="tagging")
    other = str(write_package(tmp_path / "other", "text-classification", labels=["a", "b", "c"]))
    with pytest.raises(PackageError, match="name a token-classification model"):
        evaluate_models([other], tagged([["w1"]], [["O"]]), task="tagging")
