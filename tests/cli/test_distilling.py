"""`homoexport distill` from the command line: several students, and a classifier from a CSV file."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from homoexport.documents.artifact import DistilledManifest, StudentManifest, verify
from homoexport.documents.layout import LOG
from tests.conftest import tiny_bert, tiny_tokenizer, write_sentences

SETTINGS = {"objective": "sentence-embedding", "steps": 10, "batch_size": 8, "prune_every": 1, "precision": "fp32"}


@pytest.fixture
def family_recipe(tiny_folder, tmp_path):
    tree = {
        "name": "family",
        "teacher": str(tiny_folder()),
        "text": {
            "sources": [{"files": str(write_sentences(tmp_path / "text.txt"))}],
            "max_length": 24,
            "held_out": 20,
        },
        "students": [
            {"name": "wide", "hidden_size": 24, "num_attention_heads": 4},
            {"name": "narrow", "hidden_size": 16, "num_attention_heads": 2},
        ],
        "distill": SETTINGS,
    }
    path = tmp_path / "family.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_several_students_each_print_a_line(homoexport, family_recipe, tmp_path):
    outcome = homoexport("distill", family_recipe, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if line.startswith("Student: ")]
    assert [name in line for name, line in zip(("wide", "narrow"), lines, strict=True)] == [True, True]
    assert "word embedding" in lines[0]
    again = homoexport("distill", family_recipe, "-o", tmp_path / "out", "--resume", "--json")
    widths = [manifest["details"]["widths"]["hidden_size"] for manifest in json.loads(again.out)]
    assert widths == [24, 16]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "students=[]"], "give either 'student' or 'students'"),
        (["--hidden-size", "16"], "give either 'student' or 'students'"),
        (["--set", "students.1.name=wide"], "needs a name of its own"),
        (["--set", "students=[base, smal]"], "no student is named 'smal'; named are: base, small, xsmall, tiny"),
        (["--method", "one-shot"], "one-shot has no path of widths"),
    ],
)
def test_students_that_cannot_be_are_refused(homoexport, family_recipe, tmp_path, flags, words):
    outcome = homoexport("distill", family_recipe, "-o", tmp_path / "out", *flags)
    assert (outcome.code, words in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "out").exists()


def test_a_classifier_from_a_table(homoexport, tmp_path):
    torch.manual_seed(0)
    config = tiny_bert().config
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "verdict"])
        rows.writerows([f"w{i % 90} w{i % 7} w{i % 13}", "yes" if i % 3 else "no"] for i in range(120))
    flags = ["--teacher", tmp_path / "teacher", "--data", tmp_path / "rows.csv", "--column", "review"]
    flags += ["--objective", "classification", "--hidden-size", 16, "--heads", 2, "--steps", 5, "--batch-size", 8]
    flags += ["--max-length", 16, "--set", "text.held_out=20", "-o", tmp_path / "out"]
    refused = homoexport("distill", *flags, "--label-column", "opinion")
    assert (refused.code, "opinion" in refused.err, "verdict" in refused.err) == (2, True, True)
    outcome = homoexport("distill", *flags, "--label-column", "verdict")
    assert outcome.code == 0, outcome.err
    assert verify(tmp_path / "out", StudentManifest).details.task == "text-classification"
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.id2label == {0: "no", 1: "yes"}


def test_a_cross_encoder_from_sts_bs_own_file(homoexport, tmp_path):
    """GLUE's columns, and its quotes, which are characters as all others."""
    torch.manual_seed(0)
    config = tiny_bert().config
    config.update({"num_labels": 1, "problem_type": "regression"})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "teacher/modules.json").write_text(json.dumps([module]))
    lines = ["index genre filename year old_index source1 source2 sentence1 sentence2 score".replace(" ", "\t")]
    for row in range(120):
        texts = f'"w{row % 90} w{row % 7}\tw{row % 13} "w4" w{row % 5}'
        lines.append(f"{row}\tmain-news\tMSRvid\t2012test\t{row:04}\tnone\tnone\t{texts}\t{row % 11 / 2:.3f}")
    (tmp_path / "STS-B").mkdir()
    (tmp_path / "STS-B/train.tsv").write_text("\n".join(lines) + "\n")
    flags = ["--teacher", tmp_path / "teacher", "--data", tmp_path / "STS-B/train.tsv"]
    flags += ["--column", "sentence1", "--pair-column", "sentence2", "--label-column", "score"]
    flags += ["--objective", "classification", "--hidden-size", 16, "--heads", 2, "--steps", 5, "--batch-size", 8]
    flags += ["--max-length", 16, "--set", "text.held_out=20", "-o", tmp_path / "out"]
    outcome = homoexport("distill", *flags)
    assert outcome.code == 0, outcome.err
    details = verify(tmp_path / "out", DistilledManifest).details
    assert details.task == "text-classification"
    log = [json.loads(line) for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    assert log[0]["terms"]["task"] > 1  # squares of scores' errors
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 1
