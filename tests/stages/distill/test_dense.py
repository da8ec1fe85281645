"""Sentence encoders with layers behind their pooling: as teachers, and as students that answer in a teacher's space."""

from __future__ import annotations

from pathlib import Path

import torch

from homoexport.encoder import load_encoder, torch_answers
from homoexport.stages.distill.batches import MicroBatch
from homoexport.workflow.distill import distill
from tests.dense import write_layers
from tests.stages.distill.test_loop import SHAPE, run_of, settings_of, text_of


def final_vectors(folder: Path, micro: MicroBatch) -> torch.Tensor:
    """What the saved model answers to a micro-batch."""
    return torch_answers(load_encoder(str(folder), task="sentence-similarity"), micro.inputs)["sentence_embedding"]


def test_the_teacher_s_vectors_are_those_behind_its_layers(tiny_folder, corpus_file, tmp_path):
    teacher, out = write_layers(tiny_folder()), tmp_path / "student"
    settings = settings_of("sentence-embedding", steps=4, checkpoint_every=4)
    run, batches = run_of(teacher, corpus_file, settings)
    (micro,) = batches.of_step(0)
    _, theirs = run.loss.sentence_vectors(micro)
    torch.testing.assert_close(theirs, final_vectors(teacher, micro), atol=1e-5, rtol=0)
    distill(str(teacher), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
    assert load_encoder(str(out)).dense == ()  # it answers in its own width
    assert load_encoder(str(out)).width == 16
