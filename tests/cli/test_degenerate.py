"""Teachers that say nothing and text that teaches nothing: refused in a line, before any step."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from transformers import BertForSequenceClassification, BertForTokenClassification

from tests.conftest import tiny_bert, tiny_tokenizer, write_sentences


def zero_all(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.zero_()


def zero_embeddings(model: torch.nn.Module) -> None:
    model.get_input_embeddings().weight.data.zero_()
    (model.bert if hasattr(model, "bert") else model).embeddings.position_embeddings.weight.data.zero_()


def overflow(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1e30)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (zero_all, "answers the same to every text"),
        (zero_embeddings, "answers the same to every text"),
        (overflow, "not finite"),
    ],
)
@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm", "classification", "token-classification"])
def test_a_teacher_that_says_nothing_is_refused(homoexport, tmp_path, objective, spoil, words):
    torch.manual_seed(0)
    classes = {"classification": BertForSequenceClassification, "token-classification": BertForTokenClassification}
    model = tiny_bert(masked_lm=objective == "masked-lm")
    if objective in classes:
        model = classes[objective](model.config)
    spoil(model)
    model.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    flags = ["--teacher", tmp_path / "teacher", "--data", write_sentences(tmp_path / "text.txt")]
    flags += ["--objective", objective, "--hidden-size", 16, "--heads", 2, "--steps", 3, "--batch-size", 8]
    outcome = homoexport("distill", *flags, "--max-length", 16, "--set", "text.held_out=20", "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "check the teacher's weights" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [["1"], ["1", ""], ["LABEL_1", "1"]], ids=["all", "some", "two spellings"])
def test_one_label_everywhere_is_refused(homoexport, tmp_path, labels):
    BertForSequenceClassification(tiny_bert().config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([f"w{i % 90} w{i % 7} w{i % 13}", labels[i % len(labels)]] for i in range(120))
    flags = ["--teacher", tmp_path / "teacher", "--data", tmp_path / "rows.csv", "--label-column", "label"]
    flags += ["--objective", "classification", "--hidden-size", 16, "--heads", 2, "--steps", 3, "--batch-size", 8]
    outcome = homoexport("distill", *flags, "--max-length", 16, "--set", "text.held_out=20", "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    assert "every label is the same (1)" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_text_that_is_all_the_same_is_refused(homoexport, tiny_folder, tmp_path, suffix):
    line = "w1 w2 w3 w4 w5 w6"
    path = tmp_path / f"text.{suffix}"
    path.write_text("\n".join([line if suffix == "txt" else json.dumps({"text": line})] * 500))
    flags = ["--teacher", tiny_folder(), "--data", path, "--objective", "sentence-embedding", "--hidden-size", 16]
    outcome = homoexport("distill", *flags, "--heads", 2, "--max-length", 16, "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    assert "1 different sequences" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        ("classification", [("w1 w2", 0), ("w1 w2", 1)], "every text is the same"),
        ("classification", [("w1 w2", 1), ("w3 w4", 1)], "has the label '1' alone"),
        ("scores", [("w1 w2", 3), ("w3 w4", 3)], "has the score 3 alone"),
    ],
)
def test_examples_that_teach_nothing_are_refused(homoexport, tiny_folder, tmp_path, task, rows, words):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": label, "score": label}) for text, label in rows * 10)
    )
    data = ["--train", tmp_path / "rows.jsonl", "--dev", tmp_path / "rows.jsonl"]
    outcome = homoexport("finetune", tiny_folder(), "--task", task, *data, "-o", tmp_path / "out")
    assert (outcome.code, words in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("examples", [32, 40], ids=["one step", "two steps"])
def test_fine_tuning_that_diverges_saves_nothing(homoexport, tiny_folder, tmp_path, examples):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": f"w{i} w{i % 5}", "label": i % 2}) for i in range(examples))
    )
    data = ["--train", tmp_path / "rows.jsonl", "--dev", tmp_path / "rows.jsonl"]
    flags = ["--epochs", 1, "--learning-rate", 1e39, "--set", "finetune.warmup=0", "--set", "finetune.threads=1"]
    outcome = homoexport("finetune", tiny_folder(), "--task", "classification", *data, *flags, "-o", tmp_path / "out")
    assert outcome.code == 2, outcome.err
    assert "lower the learning rate" in outcome.err
    assert not (tmp_path / "out").exists()
