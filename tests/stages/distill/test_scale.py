"""What big runs switch on: trackers, torch.compile, half precision."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch

from homoexport.documents.artifact import Manifest, verify
from homoexport.documents.layout import LOG
from homoexport.errors import RecipeError
from homoexport.workflow.distill import distill
from tests.stages.distill.test_loop import SHAPE, run_of, settings_of, text_of


def events_of(folder: Path) -> list[bytes]:
    """The records of TensorBoard's event files: length, its checksum, data, its checksum."""
    records = []
    for path in folder.rglob("events.out.tfevents*"):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            records.append(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
    return records


def test_trackers_are_told_every_step(tiny_folder, corpus_file, tmp_path):
    out = tmp_path / "student"
    settings = settings_of("sentence-embedding", trackers=["tensorboard"])
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
    records = events_of(out)
    for name in (b"loss", b"gap", b"term/hidden", b"width/hidden_size", b"learning_rate"):
        assert sum(name in record for record in records) >= 12, name
    assert any(name.startswith("trackers/") for name in verify(out, Manifest).files)


def test_tracker_that_is_not_there_is_named(tiny_folder, corpus_file, tmp_path):
    settings = settings_of("sentence-embedding", trackers=["aim"])
    with pytest.raises(RecipeError, match=r"the tracker 'aim' is not installed.*installed: .*tensorboard"):
        distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=tmp_path / "out")


def test_more_threads_than_cores_are_refused(tiny_folder, corpus_file, tmp_path):
    settings = settings_of("sentence-embedding", threads=4_000)
    with pytest.raises(RecipeError, match=r"4000 threads where .* may be used"):
        distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has it")
def test_fp16_without_a_gpu_is_refused(tiny_folder, corpus_file):
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding", precision="fp16"))


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_gradients_are_clipped_to_the_norm_alone(tiny_folder, corpus_file, monkeypatch, limit):
    """What the optimizer sees has the limit's norm where it was above, and is as it was where it was below."""
    run, batches = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding", max_grad_norm=limit))
    run.advance(batches.of_step(0))
    seen = []

    def see(*_: object) -> None:
        seen.append([weight.grad.clone() for weight in run.student.parameters() if weight.grad is not None])

    train = run._train
    monkeypatch.setattr(run, "_train", lambda: (see(), run.optimizer.register_step_pre_hook(see), train())[-1])
    run.schedule = replace(run.schedule, stop=0)  # nothing is pruned between
    run.advance(batches.of_step(1))
    before, after = seen
    norm = torch.nn.utils.get_total_norm(before)
    assert 0 < norm < 1e3
    factor = min(1, limit / float(norm))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one * factor, rtol=1e-2 if factor < 1 else 0, atol=0)


def test_scaled_gradients_make_the_same_run(tiny_folder, corpus_file):
    """fp16's loss scaling, in fp32: scores, clipping, updates as without it; a step that overflows is skipped."""
    folder, losses, scores = tiny_folder(masked_lm=True), [], []
    for scaled in (False, True):
        run, batches = run_of(folder, corpus_file, settings_of("masked-lm", max_grad_norm=0.5))
        if scaled:
            run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        losses.append([run.advance(batches.of_step(step)).loss for step in range(6)])
        scores.append(run.ranking.scores()["hidden", None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-7)
    weights = [parameter.clone() for parameter in run.student.parameters()]
    before = run.ranking.scores()["hidden", None].clone()
    run.accelerator.scaler.update(new_scale=float("inf"))
    run.schedule = replace(run.schedule, stop=100)  # no event now: the shapes stay
    run.advance(batches.of_step(6))
    for one, other in zip(run.student.parameters(), weights, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(run.ranking.scores()["hidden", None], before)


@pytest.mark.slow
def test_the_probe_is_free_of_the_loss_scale(tiny_folder, corpus_file):
    scores = []
    for scale in (1.0, 65536.0):
        run, batches = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding"))
        run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.advance(batches.of_step(0))
        run._score(batches.of_step(1))
        scores.append(run.ranking.scores()["hidden", None])
    assert scores[0].sum() > 0
    torch.testing.assert_close(scores[1], scores[0])


def test_what_the_probe_said_counts_for_one_event(tiny_folder, corpus_file):
    """Its figures are a curvature's, thousands of times a gap's sensitivities."""
    run, batches = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding"))
    for step in range(2):
        run.advance(batches.of_step(step))
    assert run.widths.hidden_size < 32
    assert all(not vector.any() for vector in run.ranking.scores().values())
    run.advance(batches.of_step(2))
    assert run.ranking.scores()["hidden", None].sum() > 0


@pytest.mark.slow
def test_compiled_run_has_the_same_losses(tiny_folder, corpus_file, tmp_path, monkeypatch):
    """Tracing and its guards are what can go wrong here; generated code would take minutes."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    losses, compilations = [], []
    for compiled in (False, True):
        torch._dynamo.utils.counters.clear()
        out = tmp_path / f"student-{compiled}"
        settings = settings_of("sentence-embedding", compile=compiled)
        distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
        losses.append([json.loads(line)["loss"] for line in (out / LOG).read_text().splitlines()])
        compilations.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compilations[0] == 0 < compilations[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-6)
