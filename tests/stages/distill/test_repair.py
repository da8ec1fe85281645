"""Repair by least squares: exact where what was dropped can be told from what stays, a gain where it cannot."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from homoexport.documents.layout import LOG
from homoexport.documents.recipe import DistillSettings
from homoexport.documents.student import read_log
from homoexport.encoder import Group, Keep, family_of, slice_model
from homoexport.shape import Widths
from homoexport.stages.distill import Run
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.importance import choose, magnitude
from homoexport.stages.distill.layerwise import LayerMap
from homoexport.stages.distill.least_squares import Regression
from homoexport.stages.distill.repair import MOST_TOKENS, Repair
from homoexport.workflow.distill import distill
from homoexport.workflow.progress import Progress
from tests.conftest import FAMILY_CONFIGS, WORDS, tiny_model
from tests.grouped import KINDS as GROUPED
from tests.grouped import grouped
from tests.stages.distill.test_loop import SHAPE, run_of, settings_of, text_of

QUICK = ("bert", "electra-projected", "distilbert", "mpnet", "modernbert-biased")
EACH = [
    pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow)
    for kind in FAMILY_CONFIGS
    if kind != "albert"  # whose layers are one, and are not mended
]
# DeBERTa's relative positions are not mended; one of its heads has no decoder of its own, EuroBERT's no norm or bias.
EXACT = [each for each in EACH if "deberta" not in str(each.values[0])]
TIED = [each for each in EACH if each.values[0] not in ("deberta-v2-unshared", "eurobert")]


def batches_of(count: int, *, seed: int = 0) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        input_ids = torch.randint(5, len(WORDS), (8, 20), generator=generator)
        mask = (torch.arange(20) < torch.randint(4, 21, (8, 1), generator=generator)).long()
        batches.append(MicroBatch(input_ids * mask, mask))
    return batches


def strong(kind: str, task: str) -> nn.Module:
    """A tiny model whose every part moves the output."""
    if kind in GROUPED:
        return grouped(kind, task)
    torch.manual_seed(0)
    model = tiny_model(kind, task).eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name.lower():
            parameter.data.normal_(std=0.2)
    return model


def repaired(teacher: nn.Module, keep: Keep, layer_map: LayerMap, *, ridge: float) -> tuple[nn.Module, nn.Module]:
    """What is left of the model after a slice, as it is and mended."""
    family, student = family_of(teacher.config), copy.deepcopy(teacher)
    if len(layer_map.hidden) < len(family.layers_of(student)):
        family.keep_layers(student, layer_map.attention)
    sliced = copy.deepcopy(student)
    slice_model(sliced, family, keep)
    repair = Repair(teacher, student, family, batches_of(20), keep, reduce=lambda sums: sums, ridge=ridge)
    slice_model(student, family, keep)
    repair.mend(layer_map, heads=True)
    return sliced, student


@pytest.mark.parametrize("kind", [*EXACT, "qwen3 causal", "gemma3_text causal"])
@torch.no_grad()
def test_what_the_kept_dimensions_tell_is_mended_exactly_up_to_the_logits(kind):
    teacher = strong(kind, "sequence")
    family = family_of(teacher.config)
    widths = family.widths(teacher)
    half = widths.hidden_size // 2
    for slot in family.layout(teacher).hidden:  # each dimension of the second half is one of the first
        first, second = teacher.get_parameter(slot.parameter).data.split(half, dim=slot.axis)
        second.copy_(first)
    keep = Keep({Group("hidden"): torch.arange(half)}, widths.head_dim)
    sliced, mended = repaired(teacher, keep, LayerMap.one_to_one(widths.num_hidden_layers), ridge=1e-7)
    (micro,) = batches_of(1, seed=1)
    expected, before, after = (model(**micro.inputs).logits for model in (teacher, sliced, mended))
    assert (before - expected).abs().max() > 0.05
    torch.testing.assert_close(after, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("bert", 2),
        ("bert", 1),
        ("mpnet", 2),
        ("distilbert", 2),
        ("modernbert", 2),
        ("modernbert", 1),
        ("deberta-v2", 2),
        ("deberta-v2-unshared", 2),
        *((kind, 2) for kind in GROUPED),
        ("gemma3_text causal", 4),
    ],
)
@torch.no_grad()
def test_mended_states_are_nearer_to_the_teachers_on_other_text(kind, layers):
    teacher = strong(kind, "model")
    family = family_of(teacher.config)
    widths = family.widths(teacher)
    student = copy.deepcopy(teacher)
    kept = list(range(layers))
    family.keep_layers(student, kept)
    head_dim = widths.head_dim // 2 if family.prunes_head_width else widths.head_dim
    due = Widths(widths.hidden_size // 2, widths.intermediate_size // 2, (2,) * layers, head_dim)
    keep = choose(magnitude(student, family), family.widths(student), due)
    layer_map = LayerMap.of_kept(kept, widths.num_hidden_layers)
    sliced, mended = repaired(teacher, keep, layer_map, ridge=0.01)
    (micro,) = batches_of(1, seed=1)
    mask = micro.attention_mask.bool()
    whole, before, after = (model(**micro.inputs).last_hidden_state[mask] for model in (teacher, sliced, mended))
    expected = whole[:, keep.indices[Group("hidden")]]
    assert (after - expected).square().mean() < 0.8 * (before - expected).square().mean()


@pytest.mark.parametrize("kind", TIED)
@torch.no_grad()
def test_the_bias_of_a_tied_decoder_gives_each_word_the_logit_that_it_had_in_the_mean(kind):
    teacher = strong(kind, "masked-lm")
    family = family_of(teacher.config)
    widths = family.widths(teacher)
    assert family.tied_decoder(teacher) is not None
    keep = Keep({Group("hidden"): torch.arange(widths.hidden_size // 2)}, widths.head_dim)
    sliced, mended = repaired(teacher, keep, LayerMap.one_to_one(widths.num_hidden_layers), ridge=0.01)
    logits = [
        torch.cat([model(**micro.inputs).logits[micro.attention_mask.bool()] for micro in batches_of(20)])
        for model in (teacher, sliced, mended)
    ]
    expected, before, after = (each.mean(0) for each in logits)
    assert (before - expected).abs().max() > 0.1
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-3)
    whole, sliced_kl, mended_kl = (each.log_softmax(-1) for each in logits)
    kl = [functional.kl_div(each, whole, log_target=True, reduction="batchmean") for each in (sliced_kl, mended_kl)]
    assert kl[1] < 0.8 * kl[0]


def test_processes_add_up_to_the_whole_text():
    generator = torch.Generator().manual_seed(0)
    x, y, weights = (torch.randn(60, size, generator=generator) for size in (5, 3, 1))
    weights = weights[:, 0].abs()
    whole, part, other = Regression(), Regression(), Regression()
    whole.add(x, y, weights)
    part.add(x[:20], y[:20], weights[:20])
    other.add(x[20:], y[20:], weights[20:])
    others = iter(other._sums)
    expected = whole.solve(1e-3, intercept=True, reduce=lambda sums: sums)
    got = part.solve(1e-3, intercept=True, reduce=lambda sums: sums + next(others))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_regression_without_ridge_is_that_of_lstsq():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=generator) + 3, torch.randn(60, 2, generator=generator)
    regression = Regression()
    for start in range(0, 60, 20):
        regression.add(x[start : start + 20], y[start : start + 20])
    matrix, offset = regression.solve(0.0, intercept=True, reduce=lambda sums: sums)
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(60, 1)], 1), y).solution
    torch.testing.assert_close(torch.cat([matrix, offset[None]]), solution, rtol=1e-3, atol=1e-4)


def test_the_method_needs_no_steps_and_beats_slicing(tiny_folder, corpus_file, tmp_path):
    students, told = {}, []
    sliced = {"method": "one-shot", "repair": False, "learning_rate": 1e-12}
    progress = Progress(on_share=lambda what, share: told.append((what, share)))
    for name, change in (("repair", {"method": "repair"}), ("sliced", sliced)):
        values = settings_of("sentence-embedding", **change).model_dump(exclude={"steps"} if name == "repair" else ())
        settings = DistillSettings(**values)
        students[name] = distill(
            str(tiny_folder()),
            text=text_of(corpus_file),
            shape=SHAPE,
            settings=settings,
            output=tmp_path / name,
            progress=progress,
        ).details
    assert told == [("mending the pruned student", share) for share in (0, 0.5, 1)]
    assert students["repair"].steps == 0
    assert students["repair"].widths == students["sliced"].widths
    assert students["repair"].held_out_loss < 0.9 * students["sliced"].held_out_loss
    (only,) = read_log(tmp_path / "repair" / LOG)
    assert only.pruned
    assert only.learning_rate == 0


def test_other_methods_need_steps():
    with pytest.raises(ValidationError, match="steps"):
        DistillSettings(objective="masked-lm", batch_size=8)


@pytest.mark.parametrize("compare_in", ["teacher", "student"])
def test_a_repaired_start_is_nearer_and_resumes_at_the_same_bits(tiny_folder, corpus_file, compare_in):
    folder = tiny_folder()
    errors, ends = {}, []
    for repair in (False, True):
        settings = settings_of("sentence-embedding", method="one-shot", repair=repair, compare_in=compare_in, steps=4)
        run, batches = run_of(folder, corpus_file, settings)
        run.read_text(batches)
        errors[repair] = run.advance(batches.of_step(0)).terms["hidden"]
    assert errors[True] < 0.8 * errors[False]
    state = copy.deepcopy(run.state())
    again, _ = run_of(folder, corpus_file, settings)
    again.restore(state)
    for each in (run, again):
        each.advance(batches.of_step(1))
        ends.append(torch.cat([parameter.detach().flatten() for parameter in each.student.parameters()]))
    assert torch.equal(*ends)


def test_every_event_of_a_homotopy_is_mended_and_resumes_at_the_same_bits(tiny_folder, corpus_file):
    errors, ends = {}, []
    for repair in (False, True):
        settings = settings_of("sentence-embedding", repair=repair, learning_rate=1e-12)
        run, batches = run_of(tiny_folder(), corpus_file, settings)
        while not run.finished:
            errors[repair] = run.advance(batches.of_step(run.step)).terms["hidden"]
            if run.step == 4:
                state = copy.deepcopy(run.state())
    assert errors[True] < 0.8 * errors[False]
    again, _ = run_of(tiny_folder(), corpus_file, settings)
    again.restore(state)
    while not again.finished:
        again.advance(batches.of_step(again.step))
    for each in (run, again):
        ends.append(torch.cat([parameter.detach().flatten() for parameter in each.student.parameters()]))
    assert torch.equal(*ends)


def test_nothing_is_fitted_while_a_layer_fades(tiny_folder, corpus_file, monkeypatch):
    fading: dict[str, list[bool]] = {"_slice": [], "_slice_and_mend": []}
    for name, seen in fading.items():
        plain = getattr(Run, name)

        def noting(run: Run, *arguments: object, plain=plain, seen=seen) -> None:
            seen.append(run.depth.fading is not None)
            plain(run, *arguments)

        monkeypatch.setattr(Run, name, noting)
    settings = settings_of("sentence-embedding", method="homodistil", repair=True)
    narrow = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    run, batches = run_of(tiny_folder(layers=4), corpus_file, settings, **narrow)
    while not run.finished:
        run.advance(batches.of_step(run.step))
    assert any(fading["_slice"])
    assert fading["_slice_and_mend"]
    assert not any(fading["_slice_and_mend"])


@pytest.mark.parametrize("method", ["repair", "one-shot", "layers"])
def test_a_student_that_lost_layers_alone_is_mended(method, tiny_folder, corpus_file):
    """It answers as one does that is made of the same layers and mended by hand, and not as one that is not mended."""
    folder = tiny_folder(layers=4)
    repair = {} if method == "repair" else {"repair": True}
    # What is mended is the student before its first update: the rate is 0 there.
    settings = settings_of("sentence-embedding", method=method, warmup=1.0, **repair)
    run, batches = run_of(folder, corpus_file, settings, num_hidden_layers=2, hidden_size=32)
    run.read_text(batches)
    text = batches.first(MOST_TOKENS)
    run.advance(batches.of_step(0))
    kept = run.inner_terms.map.attention
    assert len(kept) == 2
    plain, by_hand = copy.deepcopy(run.teacher), copy.deepcopy(run.teacher)
    for model in (plain, by_hand):
        run.family.keep_layers(model, kept)
    mending = Repair(run.teacher, by_hand, run.family, text, Keep({}, 8), reduce=lambda sums: sums)
    mending.mend(LayerMap.of_kept(kept, 4), heads=False)
    (micro,) = batches_of(1, seed=1)
    mended, expected, unmended, teacher = (
        run.family.body(model)(**micro.inputs).last_hidden_state for model in (run.student, by_hand, plain, run.teacher)
    )
    torch.testing.assert_close(mended, expected, rtol=0, atol=1e-5)
    assert (mended - teacher).square().mean() < 0.9 * (unmended - teacher).square().mean()
