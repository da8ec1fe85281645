"""Distilling with objects, as a notebook does it, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.documents.student import StepRecord
from homoexport.encoder import encoder_of
from homoexport.errors import RecipeError, TeacherError, TextError
from homoexport.stages.distill import distill_encoder, first_steps
from homoexport.text.prepare import corpus_of
from homoexport.workflow.distill import distill
from tests.conftest import tiny_bert, tiny_tokenizer
from tests.stages.distill.test_loop import SHAPE, settings_of, text_of


def test_a_model_in_memory_becomes_the_student_that_its_folder_does(tiny_folder, corpus_file, tmp_path):
    settings, steps = settings_of("sentence-embedding"), list[StepRecord]()
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=tmp_path / "student")
    torch.manual_seed(0)
    teacher = encoder_of(tiny_bert(), tiny_tokenizer())
    texts = corpus_file.read_text().splitlines()
    corpus = corpus_of(texts, teacher.tokenizer, max_length=24, held_out=20)
    student = distill_encoder(teacher, corpus, SHAPE, settings=settings, max_length=24, on_step=steps.append)
    kept = AutoModel.from_pretrained(tmp_path / "student")
    assert student.config.hidden_size == kept.config.hidden_size == 16
    for name, weight in kept.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(student.state_dict()[name], weight, rtol=0, atol=0)
    assert [step.step for step in steps] == list(range(12))
    again = first_steps(teacher, corpus, SHAPE, settings=settings, steps=3, max_length=24)
    assert [(step.step, step.loss) for step in again] == [(step.step, step.loss) for step in steps[:3]]
    assert not any(module._forward_hooks for module in teacher.model.modules())


def test_a_tokenizer_of_another_model_is_refused():
    model = tiny_bert()
    model.config.vocab_size = 50
    with pytest.raises(TeacherError, match="its tokenizer's ids go up to"):
        encoder_of(model, tiny_tokenizer())


@pytest.mark.parametrize(
    ("source", "settings", "error", "words"),
    [
        ({"files": "none/*.txt"}, {}, TextError, "no file matches"),
        ({"column": "txet"}, {}, TextError, "has no column 'txet'; set 'column' to one of: text"),
        ({"label_column": "text"}, {}, RecipeError, "'column' and 'label_column' are the same, 'text'"),
        ({}, {"threads": 4096}, RecipeError, "distill.threads: 4096 threads where"),
    ],
)
def test_text_and_threads_are_checked_before_the_teacher_is_looked_for(tmp_path: Path, source, settings, error, words):
    (tmp_path / "text.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    text = TextSettings(sources=(TextSource(**{"files": str(tmp_path / "text.jsonl"), **source}),))
    asked = settings_of("sentence-embedding", **settings)
    with pytest.raises(error, match=words):
        distill(str(tmp_path / "no-teacher"), text=text, shape=SHAPE, settings=asked, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
