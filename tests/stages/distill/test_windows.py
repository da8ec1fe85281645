"""The attention term compares what the teacher attends to: causal models and local layers, against their own maps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from homoexport.documents.recipe import StudentShape
from homoexport.encoder import Window
from homoexport.stages.distill import Run, target_of
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.step import _pairs_attended
from homoexport.workflow.job import open_job
from tests.conftest import tiny_model, tiny_tokenizer
from tests.encoder.oracle import in_window
from tests.grouped import KINDS, grouped
from tests.stages.distill.test_loop import settings_of, text_of


@torch.no_grad()
def own_maps(model: nn.Module, micro: MicroBatch) -> Tensor:
    """Attention of each layer, averaged over the heads, as the model itself gives it, [L, B, S, S]."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    return torch.stack(eager(**micro.inputs, output_attentions=True).attentions).mean(2)


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind != "eurobert"), "modernbert"])
def test_the_terms_pairs_are_those_that_the_teacher_attends_to(kind, corpus_file, tmp_path):
    model = grouped(kind) if kind in KINDS else tiny_model(kind)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = settings_of("sentence-embedding", method="one-shot", attention_kind="probabilities", micro_batch_size=4)
    job = open_job(str(tmp_path), text=text_of(corpus_file), settings=settings, seed=0)
    shape = StudentShape(hidden_size=16, intermediate_size=24, num_attention_heads=2)
    run = Run(job, target_of(job.encoder, shape, settings))
    run.advance(job.batches.of_step(0))
    batches = job.batches.of_step(1)
    assert len(batches) == 2
    error = pairs = 0.0
    for micro in batches:
        student, teacher = (own_maps(each, micro) for each in (run.student, run.teacher))
        attended = (teacher > 0) & micro.attention_mask.bool()[:, :, None]
        error += ((student - teacher) * attended).square().sum((1, 2, 3))
        pairs += attended.sum((1, 2, 3))
    expected = (error / pairs).sum().item()
    assert expected > 1e-5
    assert run.advance(batches).terms["attention"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("left", [None, 0, 2, 9])
@pytest.mark.parametrize("right", [None, 0, 2, 9])
def test_pairs_are_counted_as_a_mask_has_them(left, right):
    window, lengths = Window(left, right), [0, 1, 2, 5, 12]
    expected = sum(int(in_window(window, length).sum()) for length in lengths)
    assert int(_pairs_attended(torch.tensor(lengths), window)) == expected
