"""The peers, depth, chosen layers and groups, on a tiny model: what each begins as, and what it ends as."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import get_args

import pytest
import torch
from transformers import AutoModel

from homoexport.choices import PruneGroup
from homoexport.documents.artifact import StudentManifest, verify
from homoexport.documents.layout import LOG
from homoexport.documents.recipe import LossWeights, StudentShape
from homoexport.errors import RecipeError, ShapeError
from homoexport.shape import Shape, complete_shape
from homoexport.stages.distill.layerwise import LayerMap
from homoexport.workflow.distill import distill
from homoexport.workflow.progress import Progress
from tests.stages.distill.test_loop import SHAPE, Stop, run_of, settings_of, text_of


def test_one_shot_is_at_its_width_before_the_first_update(tiny_folder, corpus_file):
    run, batches = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding", method="one-shot"))
    report = run.advance(batches.of_step(0))
    assert report.pruned
    assert report.widths.hidden_size == 16
    assert report.gap > 0.01
    assert not any(run.advance(batches.of_step(step)).pruned for step in range(1, 12))


def test_pruning_that_ends_at_step_0_is_one_shot(tiny_folder, corpus_file):
    folder = tiny_folder()
    gaps = []
    for change in ({"method": "one-shot", "repair": False}, {"prune_until": 0.0}):
        run, batches = run_of(folder, corpus_file, settings_of("sentence-embedding", **change))
        gaps.append([run.advance(batches.of_step(step)).gap for step in range(3)])
    assert gaps[0] == gaps[1]


def test_one_shot_by_magnitude_keeps_the_heaviest_neurons(tiny_folder, corpus_file):
    settings = settings_of("sentence-embedding", method="one-shot", importance="magnitude", prune=["ffn"])
    run, batches = run_of(tiny_folder(), corpus_file, settings, intermediate_size=24)
    weight = run.teacher.encoder.layer[0].intermediate.dense.weight.clone()
    heaviness = (
        weight.abs().sum(1)
        + run.teacher.encoder.layer[0].intermediate.dense.bias.abs()
        + run.teacher.encoder.layer[0].output.dense.weight.abs().sum(0)
    )
    run._probe(batches.of_step(0))
    run._event(batches.of_step(0))
    expected = weight[heaviness.topk(24).indices.sort().values]
    torch.testing.assert_close(run.student.encoder.layer[0].intermediate.dense.weight.data, expected)


def test_from_scratch_shares_nothing_with_its_teacher(tiny_folder, corpus_file):
    folder = tiny_folder()
    settings = settings_of("sentence-embedding", method="from-scratch")
    run, batches = run_of(folder, corpus_file, settings)
    assert run.widths.shape == run.target
    again, _ = run_of(folder, corpus_file, settings)
    for one, other in zip(run.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)  # the seed decides
    assert run.advance(batches.of_step(0)).gap > 0.01
    assert set(run.advance(batches.of_step(1)).terms) == {"task", "hidden", "attention", "embedding"}


def test_layers_keeps_every_other_layer(tiny_folder, corpus_file):
    folder = tiny_folder(layers=4)
    settings = settings_of("sentence-embedding", method="layers")
    run, batches = run_of(folder, corpus_file, settings, hidden_size=32)
    assert run.widths.num_hidden_layers == 2
    for mine, theirs in ((0, 0), (1, 2)):
        ours = run.student.encoder.layer[mine].intermediate.dense.weight
        assert torch.equal(ours, run.teacher.encoder.layer[theirs].intermediate.dense.weight)
    assert run.inner_terms.map == LayerMap(hidden=(1, 3), attention=(0, 2))
    assert not any(run.advance(batches.of_step(step)).pruned for step in range(3))


def test_layers_can_be_narrower_too(tiny_folder, corpus_file):
    settings = settings_of("sentence-embedding", method="layers")
    run, batches = run_of(tiny_folder(layers=4), corpus_file, settings, hidden_size=16, num_attention_heads=2)
    report = run.advance(batches.of_step(0))
    assert (report.pruned, report.widths.hidden_size, report.widths.num_hidden_layers) == (True, 16, 2)


def test_minilm_learns_relations_and_the_task_alone(tiny_folder, corpus_file):
    run, batches = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding", method="minilm"))
    reports = [run.advance(batches.of_step(step)) for step in range(12)]
    assert set(reports[0].terms) == {"task", "relation"}
    assert reports[-1].terms["relation"] < reports[0].terms["relation"]


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_tinybert_learns_the_layers_at_even_distances_then_the_output(tiny_folder, corpus_file, objective):
    folder = tiny_folder(layers=4, masked_lm=objective == "masked-lm")
    settings = settings_of(objective, method="tinybert", micro_batch_size=4)
    # Twelve heads of 26 out of twelve of 64 are here four of 5 out of four of 8.
    run, batches = run_of(folder, corpus_file, settings, hidden_size=20, intermediate_size=30, num_attention_heads=4)
    assert (run.widths.shape, run.widths.head_dim) == (Shape(2, 20, 30, 4), 5)
    assert run.inner_terms.map == LayerMap((1, 3), (1, 3))
    weight = next(p for name, p in run.student.named_parameters() if name.endswith("layer.1.output.dense.weight"))
    before = weight.clone()
    reports = [run.advance(batches.of_step(step)) for step in range(9)]
    assert not torch.equal(weight, before)
    last = [run.advance(batches.of_step(step)) for step in range(9, 12)]
    assert {frozenset(each.terms) for each in reports} == {frozenset(("hidden", "attention", "embedding"))}
    assert {frozenset(each.terms) for each in last} == {
        frozenset(("task", "kl") if objective == "masked-lm" else ("task",))
    }
    assert reports[-1].gap < reports[0].gap
    assert not run.inner_terms.wanted


def test_tinyberts_shapes_fit_bert_base():
    base = Shape(12, 768, 3072, 12)
    asked = StudentShape(num_hidden_layers=4, hidden_size=312, intermediate_size=1200, num_attention_heads=12)
    groups = get_args(PruneGroup)
    assert complete_shape(asked, base, prune=groups) == Shape(4, 312, 1200, 12)
    assert complete_shape(StudentShape(num_hidden_layers=6), base, prune=groups) == Shape(6, 768, 3072, 12)


def test_tinybert_stopped_in_its_second_stage_goes_on_there(tiny_folder, corpus_file):
    settings = settings_of("sentence-embedding", method="tinybert")
    run, batches = run_of(tiny_folder(), corpus_file, settings)
    for step in range(10):
        run.advance(batches.of_step(step))
    again, _ = run_of(tiny_folder(), corpus_file, settings)
    again.restore(copy.deepcopy(run.state()))
    for step in (10, 11):
        assert again.advance(batches.of_step(step)).terms == run.advance(batches.of_step(step)).terms


@pytest.mark.parametrize(
    ("objective", "weights"),
    [("sentence-embedding", {"task": 0}), ("masked-lm", {"hidden": 0, "attention": 0, "embedding": 0})],
)
def test_tinybert_needs_something_to_learn_in_both_stages(objective, weights):
    with pytest.raises(ValueError, match=r"layers first, then the output: give one of 'hidden'.* a weight, and 'task'"):
        settings_of(objective, method="tinybert", weights=LossWeights(**weights))


@pytest.mark.parametrize("method", ["one-shot", "from-scratch", "layers", "minilm", "tinybert"])
def test_peers_end_as_stock_students(tiny_folder, corpus_file, tmp_path, method):
    out = tmp_path / "student"
    settings = settings_of("sentence-embedding", method=method)
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
    assert verify(out, StudentManifest).details.method == method
    config = AutoModel.from_pretrained(out).config
    assert (config.hidden_size, config.num_hidden_layers) == (16, 1 if method in ("layers", "tinybert") else 2)


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_depth_fades_without_a_jump(tiny_folder, corpus_file, tmp_path, objective):
    """Against the same layer taken out at once, the gap's largest rise in a step is small."""
    jumps = {}
    for until in (0.0, 0.8):
        settings = settings_of(
            objective, steps=60, prune_until=until, prune_every=2, weights=LossWeights(task=0, attention=0)
        )
        out = tmp_path / f"student-{until}"
        distill(
            str(tiny_folder(masked_lm=objective == "masked-lm", layers=3)),
            text=text_of(corpus_file),
            shape=StudentShape(num_hidden_layers=2),
            settings=settings,
            output=out,
        )
        gaps = [0.0, *(json.loads(line)["gap"] for line in (out / LOG).read_text().splitlines())]
        jumps[until] = max(after - before for before, after in pairwise(gaps))
        assert AutoModel.from_pretrained(out).config.num_hidden_layers == 2
    assert jumps[0.8] < 0.5 * jumps[0.0]


def test_the_layer_that_does_nothing_fades_first(tiny_folder, corpus_file):
    run, batches = run_of(
        tiny_folder(layers=3), corpus_file, settings_of("sentence-embedding", steps=20), num_hidden_layers=2
    )
    for model in (run.teacher, run.student):
        layer = model.encoder.layer[1]
        for part in (layer.attention.output, layer.output):  # a post-norm layer whose branches add nothing
            part.dense.weight.data.zero_()
            part.dense.bias.data.zero_()
            part.LayerNorm.bias.data.zero_()
            part.LayerNorm.weight.data.fill_(1)
    before = [layer.attention.self.query.weight for layer in run.student.encoder.layer]
    fading = set()
    while run.widths.num_hidden_layers > 2:
        run.advance(batches.of_step(run.step))
        fading.add(run.depth.fading)
    assert fading - {None} == {1}
    assert [layer.attention.self.query.weight for layer in run.student.encoder.layer] == [before[0], before[2]]
    assert run.inner_terms.map == LayerMap(hidden=(1, 2), attention=(0, 2))
    assert len(run.optimizer.param_groups[0]["params"]) == sum(p.dim() > 1 for p in run.student.parameters())


def test_width_and_depth_go_together_and_resume(tiny_folder, corpus_file, tmp_path):
    """Stopped while a layer fades, and after it is gone."""
    shape = StudentShape(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_hidden_layers=1)
    settings = settings_of("masked-lm", steps=20, checkpoint_every=3)
    arguments = {"text": text_of(corpus_file), "shape": shape, "settings": settings}
    teacher = str(tiny_folder(masked_lm=True, layers=3))
    torch.set_num_threads(1)
    distill(teacher, output=tmp_path / "whole", **arguments)
    for stop_at in (4, 10, 16):

        def stop(progress: object, stop_at: int = stop_at) -> None:
            if progress.step.step == stop_at:
                raise Stop

        out = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(Stop):
            distill(teacher, output=out, progress=Progress(on_distill=stop), **arguments)
        distill(teacher, output=out, resume=True, **arguments)
        for name in (LOG, "model.safetensors"):
            if name == LOG:
                losses = [
                    [json.loads(line)["loss"] for line in (folder / LOG).read_text().splitlines()]
                    for folder in (tmp_path / "whole", out)
                ]
                assert losses[0] == losses[1]
            else:
                assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()


def test_chosen_layers_alone_are_matched(tiny_folder, corpus_file):
    folder = tiny_folder(layers=4)
    terms = {}
    for layers in (None, (2,), (4,), (2, 4)):
        settings = settings_of("sentence-embedding", layers=layers, method="one-shot")
        run, batches = run_of(folder, corpus_file, settings)
        terms[layers] = run.advance(batches.of_step(0)).terms
    for name in ("hidden", "attention"):
        assert terms[2, 4][name] == pytest.approx(terms[2,][name] + terms[4,][name], rel=1e-5)
        assert terms[2, 4][name] < terms[None][name]
    with pytest.raises(RecipeError, match=r"answers to these of the teacher's in the hidden term.*answered are 2, 4"):
        run_of(folder, corpus_file, settings_of("sentence-embedding", layers=(1,), method="layers"))
    with pytest.raises(RecipeError, match=r"no layer 5.*1 to 4"):
        run_of(folder, corpus_file, settings_of("sentence-embedding", layers=(5,)))


def test_attention_probabilities_are_a_term_too(tiny_folder, corpus_file):
    settings = settings_of("sentence-embedding", attention_kind="probabilities")
    run, batches = run_of(tiny_folder(), corpus_file, settings)
    reports = [run.advance(batches.of_step(step)) for step in range(4)]
    assert reports[0].terms["attention"] == pytest.approx(0, abs=1e-8)
    assert 0 < reports[3].terms["attention"] < 1


def test_ffn_alone_is_a_recipe_line(tiny_folder, corpus_file):
    settings = settings_of("sentence-embedding", prune=["ffn"])
    run, batches = run_of(tiny_folder(), corpus_file, settings, intermediate_size=24)
    while not run.finished:
        run.advance(batches.of_step(run.step))
    widths = run.widths
    assert (widths.hidden_size, widths.intermediate_size, widths.heads_per_layer, widths.head_dim) == (
        32,
        24,
        (4, 4),
        8,
    )
    with pytest.raises(ShapeError, match="hidden"):
        run_of(tiny_folder(), corpus_file, settings, hidden_size=16)


@pytest.mark.parametrize("importance", ["sensitivity", "platon", "magnitude"])
@pytest.mark.parametrize("schedule", ["cubic", "linear"])
def test_every_importance_and_schedule_reaches_the_target(tiny_folder, corpus_file, importance, schedule):
    settings = settings_of("masked-lm", importance=importance, prune_schedule=schedule)
    run, batches = run_of(tiny_folder(masked_lm=True), corpus_file, settings)
    while not run.finished:
        run.advance(batches.of_step(run.step))
    assert run.widths.shape == run.target


def test_activations_computed_again_give_the_same_gradients(tiny_folder, corpus_file):
    folder = tiny_folder(masked_lm=True)
    results = []
    calls = []
    for again in (False, True):
        settings = settings_of("masked-lm", activation_checkpointing=again, method="one-shot")
        run, batches = run_of(folder, corpus_file, settings)
        seen = []
        run.student.bert.encoder.layer[0].intermediate.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        run.loss.backward(batches.of_step(0))
        results.append([p.grad.clone() for p in run.student.parameters() if p.grad is not None])
        calls.append(len(seen))
    assert calls[1] == 2 * calls[0]  # forward, and again in the backward pass
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
