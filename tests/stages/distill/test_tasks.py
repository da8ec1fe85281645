"""Classification, token classification, pairs: losses against plain formulas, and short runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from homoexport.documents.artifact import StudentManifest, verify
from homoexport.documents.layout import LOG
from homoexport.documents.recipe import LossWeights, StudentShape, TextSettings, TextSource
from homoexport.errors import TeacherError, TextError
from homoexport.stages.distill import Run, target_of
from homoexport.workflow.distill import distill
from homoexport.workflow.job import open_job
from tests.conftest import tiny_bert, tiny_tokenizer
from tests.stages.distill.test_loop import SHAPE, TASK_ALONE, settings_of

CLASSES = {0: "bad", 1: "so-so", 2: "good"}
HEADS = {"classification": AutoModelForSequenceClassification, "token-classification": AutoModelForTokenClassification}


@pytest.fixture
def classifier(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny random classifier with its tokenizer."""

    def write(objective: str, **changes: object) -> Path:
        torch.manual_seed(0)
        config = tiny_bert().config
        config.id2label, config.label2id = CLASSES, {name: index for index, name in CLASSES.items()}
        for name, value in changes.items():
            setattr(config, name, value)
        model = HEADS[objective].from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2)
        folder = tmp_path / "classifier"
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return write


def write_rows(path: Path, objective: str) -> Path:
    generator = torch.Generator().manual_seed(3)
    with path.open("w") as file:
        for _ in range(200):
            words = [
                f"w{word}"
                for word in torch.randint(
                    95, (int(torch.randint(3, 18, (1,), generator=generator)),), generator=generator
                )
            ]
            classes = torch.randint(3, (len(words),), generator=generator).tolist()
            row = {"text": " ".join(words), "label": CLASSES[classes[0]]}
            if objective == "token-classification":
                row = {"text": words, "label": [CLASSES[index] for index in classes]}
            file.write(json.dumps(row) + "\n")
    return path


def text_of(path: Path, **source: str) -> TextSettings:
    return TextSettings(sources=(TextSource(files=str(path), **source),), max_length=24, held_out=20)


@pytest.mark.parametrize("objective", ["classification", "token-classification"])
def test_at_step_0_logits_equal_the_teachers_and_labels_count(classifier, tmp_path, objective):
    text = text_of(write_rows(tmp_path / "rows.jsonl", objective), label_column="label")
    settings = settings_of(objective, micro_batch_size=3)
    job = open_job(str(classifier(objective)), text=text, settings=settings, seed=0)
    run = Run(job, target_of(job.encoder, SHAPE, settings))
    micro_batches = job.batches.of_step(0)
    terms = run.loss.backward(micro_batches)
    assert max(abs(value) for name, value in terms.items() if name != "task") <= 1e-6
    losses = []
    for micro in micro_batches:
        with torch.no_grad():
            logits = run.teacher(**micro.inputs).logits
        kept = micro.labels != -100
        losses.append(functional.cross_entropy(logits[kept], micro.labels[kept], reduction="none"))
    assert terms["task"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("objective", ["classification", "token-classification"])
def test_a_run_ends_as_a_stock_classifier_that_agrees_with_its_teacher(classifier, tmp_path, objective, labels):
    text = text_of(write_rows(tmp_path / "rows.jsonl", objective), **({"label_column": "label"} if labels else {}))
    settings = settings_of(objective, steps=60, prune_until=0.3, learning_rate=3e-3, weights=LossWeights(task=0.1))
    out = tmp_path / "student"
    distill(str(classifier(objective)), text=text, shape=SHAPE, settings=settings, output=out)
    details = verify(out, StudentManifest).details
    log = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    assert ("task" in log[0]["terms"]) == labels
    assert log[0]["gap"] == pytest.approx(0, abs=1e-6)
    worst = max(line["terms"]["kl"] for line in log)
    assert worst > 0
    assert details.held_out_loss < 0.5 * worst
    student = HEADS[objective].from_pretrained(out)
    assert student.config.id2label == CLASSES
    assert (student.config.hidden_size, student.classifier.in_features) == (16, 16)


def test_a_single_output_is_distilled_by_its_square(classifier, tmp_path):
    """A relevance model: one output, no classes, no labels."""
    text = text_of(write_rows(tmp_path / "rows.jsonl", "classification"))
    settings = settings_of("classification", steps=30, learning_rate=3e-3)
    teacher = classifier("classification", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    job = open_job(str(teacher), text=text, settings=settings, seed=0)
    run = Run(job, target_of(job.encoder, SHAPE, settings))
    reports = [run.advance(job.batches.of_step(step)) for step in range(30)]
    assert "task" not in reports[0].terms
    assert reports[0].terms["kl"] == pytest.approx(0, abs=1e-6)
    peak = max(report.terms["kl"] for report in reports)
    assert 0 < reports[-1].terms["kl"] < peak


def test_scores_teach_a_single_output_by_their_square(classifier, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"w{i % 90} w{i % 7} w5", "score": None if i % 3 == 0 else i % 7 / 2} for i in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = settings_of("classification", steps=30, learning_rate=3e-3, weights=TASK_ALONE)
    teacher = classifier("classification", id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})
    job = open_job(str(teacher), text=text_of(path, label_column="score"), settings=settings, seed=0)
    run = Run(job, target_of(job.encoder, SHAPE, settings))
    errors = []
    for micro in job.batches.of_step(0):
        assert micro.labels is not None
        with torch.no_grad():
            logits = run.teacher(**micro.inputs).logits[:, 0]
        errors += [(ours - label) ** 2 for ours, label in zip(logits, micro.labels, strict=True) if label == label]
    reports = [run.advance(job.batches.of_step(step)) for step in range(30)]
    assert reports[0].terms["task"] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert reports[-1].terms["task"] < 0.5 * reports[0].terms["task"]
    path.write_text(path.read_text().replace("2.5", '"good"'))
    with pytest.raises(TextError, match="'good' is no number; the teacher has one output"):
        open_job(str(teacher), text=text_of(path, label_column="score"), settings=settings, seed=0)


def test_pairs_are_encoded_together_with_their_types(classifier, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"a": f"w{i % 90} w{i % 7}", "b": f"w{i % 11} w{i % 13} w4", "y": i % 3} for i in range(100)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    text = text_of(path, column="a", pair_column="b", label_column="y")
    settings = settings_of("classification")
    teacher = classifier("classification")
    tokenizer_config = json.loads((teacher / "tokenizer_config.json").read_text())
    tokenizer_config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (teacher / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    job = open_job(str(teacher), text=text, settings=settings, seed=0)
    micro = job.batches.of_step(0)[0]
    run = Run(job, target_of(job.encoder, SHAPE, settings))
    with torch.no_grad():
        _, ours, _ = run.loss.logits(micro)
        theirs = run.teacher(micro.input_ids, attention_mask=micro.attention_mask, token_type_ids=micro.token_type_ids)
        blind = run.teacher(micro.input_ids, attention_mask=micro.attention_mask)
    torch.testing.assert_close(ours, theirs.logits)
    assert (ours - blind.logits).abs().max() > 1e-3  # the second texts' types are not the first ones'
    assert micro.labels is not None
    assert set(micro.labels.tolist()) <= {0, 1, 2}


def test_queries_are_matched_with_their_documents(tiny_folder, tmp_path):
    """The task term is the query-document matrix's, whatever micro-batches it is cut into."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"q": f"w{i % 90} w{i % 7}", "d": " ".join(f"w{(i * j) % 95}" for j in range(3, 14))} for i in range(100)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    text = text_of(path, column="q", pair_column="d")
    folder, losses = str(tiny_folder()), []
    for micro in (8, 3):
        settings = settings_of("sentence-embedding", method="one-shot", micro_batch_size=micro)
        job = open_job(folder, text=text, settings=settings, seed=0)
        run = Run(job, target_of(job.encoder, SHAPE, settings))
        first = job.with_settings(settings_of("sentence-embedding")).batches.of_step(0)
        run._probe(first)
        run._event(first)
        micro_batches = job.batches.of_step(1)
        assert sum(len(m.input_ids) for m in micro_batches if m.documents) == 8
        losses.append(run.loss.backward(micro_batches))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0]["task"] > 1e-6


@pytest.mark.parametrize("objective", ["classification", "token-classification"])
def test_first_event_takes_neurons_that_do_nothing(classifier, tmp_path, objective):
    """Without labels a student that equals its teacher has no gradient; the dead ones are found still."""
    text = text_of(write_rows(tmp_path / "rows.jsonl", objective))
    settings = settings_of(objective, method="one-shot", prune=["ffn"])
    job = open_job(str(classifier(objective)), text=text, settings=settings, seed=0)
    run = Run(job, target_of(job.encoder, StudentShape(intermediate_size=24), settings))
    for model in (run.teacher, run.student):
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.data[:, :40] = 0
    report = run.advance(job.batches.of_step(0))
    assert report.pruned
    assert report.gap == pytest.approx(0, abs=1e-6)  # none of the 24 live ones went


def test_what_cannot_be_taught_is_refused(classifier, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", "classification")
    arguments = {"settings": settings_of("classification"), "seed": 0}
    teacher = str(
        classifier("classification", label2id={"no": 0, "yes": 1, "maybe": 2}, id2label={0: "no", 1: "yes", 2: "maybe"})
    )
    with pytest.raises(TextError, match=r"'bad' is not known; known labels: maybe"):
        open_job(teacher, text=text_of(rows, label_column="label"), **arguments)
    teacher = str(classifier("classification", problem_type="multi_label_classification"))
    with pytest.raises(TeacherError, match="many labels"):
        open_job(teacher, text=text_of(rows), **arguments)
