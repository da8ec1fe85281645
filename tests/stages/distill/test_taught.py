"""The teacher's outputs read from disk against the teacher asked at every step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from homoexport.documents.layout import LOG
from homoexport.documents.recipe import DistillSettings, TextSettings
from homoexport.stages.distill import Run, asking
from homoexport.stages.distill.asking import ask_all, is_worth_keeping, taught_texts
from homoexport.stages.distill.job import Job
from homoexport.workflow.distill import distill
from homoexport.workflow.job import open_job
from homoexport.workflow.progress import DistillProgress, Progress
from tests.stages.distill.test_loop import SHAPE, settings_of, text_of
from tests.stages.distill.test_tasks import classifier as classifier
from tests.stages.distill.test_tasks import text_of as labelled_text_of
from tests.stages.distill.test_tasks import write_rows

ALL = {"attention": 1.0, "vectors": 0.0}
AGAIN = {"steps": 100, "method": "one-shot", "precision": "fp32", "threads": 1}


def job_of(
    teacher: Path, text: TextSettings, objective: str = "sentence-embedding", **changes: Any
) -> tuple[Job, DistillSettings]:
    settings = settings_of(objective, **{**AGAIN, **changes})
    return open_job(str(teacher), text=text, settings=settings, seed=0, shapes=[SHAPE]), settings


@pytest.mark.parametrize("objective", ["sentence-embedding", "classification", "token-classification"])
def test_terms_and_gradients_are_those_of_a_teacher_that_is_asked(
    objective, tiny_folder, classifier, corpus_file, tmp_path
):
    if objective == "sentence-embedding":
        teacher, text = tiny_folder(), text_of(corpus_file)
    else:
        text = labelled_text_of(write_rows(tmp_path / "rows.jsonl", objective), label_column="label")
        teacher = classifier(objective)
    job, _ = job_of(teacher, text, objective, weights=ALL)
    run = Run(job, job.targets[0])
    run.advance(job.batches.of_step(0))  # so that student and teacher differ
    texts = taught_texts(job, run.loss)
    assert texts is not None
    with (tmp_path / "kept").open("w+b") as file:
        texts.keep_in(file)
        ask_all(texts, run.loss, job.batches, on_share=lambda _share: None)
        assert os.fstat(file.fileno()).st_size == texts.bytes
        asked, read = job.batches.of_step(7), replace(job.batches, taught=texts).of_step(7)
    assert len(asked) > 0
    assert all(torch.equal(a.input_ids, b.input_ids) and b.shown is not None for a, b in zip(asked, read, strict=True))
    terms, gradients = [], []
    calls = []
    run.teacher.register_forward_hook(lambda *_: calls.append(1))
    run.family.body(run.teacher).register_forward_hook(lambda *_: calls.append(1))
    for micro_batches in (asked, read):
        before = len(calls)
        terms.append(run.loss.backward(micro_batches, also=[*run.projections.parameters()]))
        assert (len(calls) > before) == (micro_batches is asked)
        gradients.append([p.grad.clone() for p in run.student.parameters() if p.grad is not None])
        run.student.zero_grad()
        run.projections.zero_grad()
    assert {"hidden", "attention", "embedding"} <= terms[0].keys()
    assert terms[1] == pytest.approx(terms[0], rel=1e-4, abs=1e-7)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "changes", "kept"),
    [
        ("sentence-embedding", {}, True),
        ("sentence-embedding", {"steps": 2}, False),  # less than one epoch
        ("sentence-embedding", {"crop": 0.3}, False),
        ("sentence-embedding", {"teacher_cache_gb": 0}, False),
        ("sentence-embedding", {"weights": {"attention": 1}, "attention_kind": "probabilities"}, False),
        (
            "sentence-embedding",
            {"weights": {"attention": 0}, "attention_kind": "probabilities"},
            True,
        ),  # of a term without weight
        ("sentence-embedding", {"method": "tinybert"}, False),
        ("masked-lm", {}, False),  # masked anew each time
    ],
)
def test_kept_only_where_texts_come_again_as_they_were(objective, changes, kept, tiny_folder, corpus_file):
    teacher = tiny_folder(masked_lm=objective == "masked-lm")
    job, _ = job_of(teacher, text_of(corpus_file), objective, **changes)
    assert is_worth_keeping(job) == kept


def test_no_more_than_the_space_that_is_given(tiny_folder, corpus_file):
    job, settings = job_of(tiny_folder(), text_of(corpus_file))
    run = Run(job, job.targets[0])
    texts = taught_texts(job, run.loss)
    assert texts is not None
    for space, fits in ((texts.bytes / 1e9, True), (0.99 * texts.bytes / 1e9, False)):
        other = job.with_settings(settings.model_copy(update={"teacher_cache_gb": space}))
        assert (taught_texts(other, run.loss) is not None) == fits


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / LOG).read_text().splitlines()]


def test_a_run_is_the_same_but_for_rounding_and_leaves_nothing(
    tiny_folder, corpus_file, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    ask: Callable[..., None] = asking.ask_all

    def counted(texts: Any, *arguments: Any, **more: Any) -> None:
        asked.append(len(texts.rows))
        ask(texts, *arguments, **more)

    monkeypatch.setattr("homoexport.workflow.student.ask_all", counted)
    teacher, names, made = tiny_folder(), [], []
    for space in (0, None):
        out = tmp_path / f"student-{space}"
        settings = settings_of("sentence-embedding", **AGAIN, teacher_cache_gb=space)
        distill(str(teacher), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
        names.append({path.name for path in out.iterdir()})
        made.append(losses(out))
        assert len(asked) == (space is None)
    assert names[0] == names[1]
    assert made[1] == pytest.approx(made[0], rel=1e-3)


class Stop(Exception):
    pass


def test_a_resumed_run_asks_again_and_ends_with_the_same_bits(tiny_folder, corpus_file, tmp_path):
    settings = settings_of("sentence-embedding", **AGAIN, checkpoint_every=20)
    arguments = {"text": text_of(corpus_file), "shape": SHAPE, "settings": settings}
    teacher = str(tiny_folder())
    distill(teacher, output=tmp_path / "whole", **arguments)

    def stop(progress: DistillProgress) -> None:
        if progress.step.step == 70:
            raise Stop

    with pytest.raises(Stop):
        distill(teacher, output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    assert not list((tmp_path / "stopped").glob(".teacher*"))
    distill(teacher, output=tmp_path / "stopped", resume=True, **arguments)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")
    whole, stopped = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_a_student_that_equals_its_teacher_is_not_taught_by_rounding(tiny_folder, corpus_file):
    job, _ = job_of(tiny_folder(), text_of(corpus_file), method="homodistil", prune_from=0.5)
    run = Run(job, job.targets[0])
    micro_batches = job.batches.of_step(0)
    shown = [replace(micro, shown=run.loss.ask(micro)) for micro in micro_batches]
    noisy = [
        replace(micro, shown=micro.shown.with_parts([part + 1e-3 for part in micro.shown.parts])) for micro in shown
    ]
    assert run.is_teacher
    assert abs(run.advance(noisy).gap) <= 1e-9


def test_without_room_on_the_disk_the_teacher_is_asked_at_every_step(tiny_folder, corpus_file, tmp_path, monkeypatch):
    notes: list[str] = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("homoexport.workflow.student.shutil.disk_usage", lambda _path: usage._replace(free=1000))
    settings = settings_of("sentence-embedding", **AGAIN)
    distill(
        str(tiny_folder()),
        text=text_of(corpus_file),
        shape=SHAPE,
        settings=settings,
        output=tmp_path / "student",
        progress=Progress(on_note=notes.append),
    )
    assert any("no room for" in note for note in notes)
    assert len(losses(tmp_path / "student")) == AGAIN["steps"]
