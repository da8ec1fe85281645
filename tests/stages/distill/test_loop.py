"""The loop on a tiny model and text: step 0, equal gradients, the path of widths, resume."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModel

from homoexport.documents.artifact import Manifest, StudentManifest, verify
from homoexport.documents.layout import CHECKPOINT, LOG
from homoexport.documents.recipe import DistillSettings, LossWeights, StudentShape, TextSettings, TextSource
from homoexport.encoder import load_encoder
from homoexport.encoder.fake_quant import round_columns
from homoexport.errors import OutputError, PackageError, RecipeError, ShapeError, TextError
from homoexport.stages.distill import Run, target_of
from homoexport.stages.distill.batches import BatchMaker
from homoexport.workflow.distill import distill
from homoexport.workflow.job import open_job
from homoexport.workflow.progress import Progress
from tests.conftest import MINILM

ALL_TERMS = LossWeights(task=1, kl=1, hidden=1, attention=1, embedding=1)
TASK_ALONE = LossWeights(task=1, kl=0, hidden=0, attention=0, embedding=0)


def text_of(path: Path) -> TextSettings:
    return TextSettings(sources=(TextSource(files=str(path)),), max_length=24, held_out=20)


def settings_of(objective: str, **changes: object) -> DistillSettings:
    values = {
        "objective": objective,
        "steps": 12,
        "batch_size": 8,
        "prune_every": 2,
        "checkpoint_every": 4,
        "threads": 1,
    }
    return DistillSettings(**{**values, "weights": ALL_TERMS, "precision": "fp32", **changes})


SHAPE = StudentShape(hidden_size=16, intermediate_size=24, num_attention_heads=2)


def run_of(teacher: Path, corpus_file: Path, settings: DistillSettings, **shape: int) -> tuple[Run, BatchMaker]:
    job = open_job(str(teacher), text=text_of(corpus_file), settings=settings, seed=0)
    target = target_of(job.encoder, StudentShape(**shape) if shape else SHAPE, settings)
    return Run(job, target), job.batches


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_at_step_0_the_student_equals_the_teacher(tiny_folder, corpus_file, objective):
    run, batches = run_of(tiny_folder(masked_lm=objective == "masked-lm"), corpus_file, settings_of(objective))
    report = run.advance(batches.of_step(0))
    terms = report.terms
    expected = {"task", "hidden", "attention", "embedding"} | ({"kl"} if objective == "masked-lm" else set())
    assert set(terms) == expected
    distillation = {name: value for name, value in terms.items() if name != "task" or objective != "masked-lm"}
    assert max(map(abs, distillation.values())) <= 1e-6
    assert not report.pruned
    if objective == "masked-lm":
        assert terms["task"] > 1.0  # there is something to learn


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_at_step_0_the_terms_are_zero_under_bf16_too(tiny_folder, corpus_file, objective):
    folder = tiny_folder(masked_lm=objective == "masked-lm")
    try:
        run, batches = run_of(folder, corpus_file, settings_of(objective, precision="bf16"))
        terms = run.loss.backward(batches.of_step(0))
    finally:
        AcceleratorState._reset_state(True)
    gaps = {name: value for name, value in terms.items() if name != "task" or objective != "masked-lm"}
    assert max(map(abs, gaps.values())) <= 1e-6, gaps


def test_int8_is_in_the_loop_for_the_last_share_of_the_steps(tiny_folder, corpus_file):
    folder, terms = tiny_folder(), {}
    for share in (0.0, 0.25):
        run, batches = run_of(folder, corpus_file, settings_of("sentence-embedding", int8_share=share))
        terms[share] = [run.advance(batches.of_step(step)).terms for step in range(12)]
    assert terms[0.25][:9] == terms[0.0][:9]
    assert all(ours != theirs for ours, theirs in zip(terms[0.25][9:], terms[0.0][9:], strict=True))
    weight = run.student.encoder.layer[0].intermediate.dense.weight
    assert not torch.equal(round_columns(weight), weight)  # what is kept is as exact as it was


@pytest.mark.weights
def test_at_step_0_minilm_equals_itself(corpus_file):
    run, batches = run_of(Path(load_encoder(MINILM).folder), corpus_file, settings_of("sentence-embedding"))
    terms = run.loss.backward(batches.of_step(0))
    assert max(map(abs, terms.values())) <= 1e-6


@pytest.mark.parametrize(
    ("objective", "weights"),
    [("masked-lm", ALL_TERMS), ("sentence-embedding", ALL_TERMS), ("sentence-embedding", TASK_ALONE)],
    ids=["masked-lm", "sentence-embedding", "sentence-embedding, task alone"],
)
def test_micro_batches_add_up_to_the_whole_batchs_gradients(tiny_folder, corpus_file, objective, weights):
    """Taken after pruning, so that every term and gradient is there."""
    folder = tiny_folder(masked_lm=objective == "masked-lm")
    results = []
    for micro in (8, 3):
        settings = settings_of(objective, micro_batch_size=micro, prune_until=0.1, weights=weights)
        run, batches = run_of(folder, corpus_file, settings)
        whole = replace(batches, settings=settings_of(objective, micro_batch_size=8))
        run.advance(whole.of_step(0))
        assert run.widths.hidden_size == 16
        terms = run.loss.backward(batches.of_step(1))
        gradients = [
            p.grad.clone() for p in [*run.student.parameters(), *run.projections.parameters()] if p.grad is not None
        ]
        results.append((terms, gradients))
    (terms_whole, whole_gradients), (terms_parts, part_gradients) = results
    assert terms_parts == pytest.approx(terms_whole, rel=1e-4)
    for one, other in zip(whole_gradients, part_gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_micro_batches_bound_the_memory_of_graphs(tiny_folder, corpus_file, objective):
    folder = tiny_folder(masked_lm=objective == "masked-lm")
    peaks = []
    for size, micro in ((4, 4), (24, 4), (24, 24)):
        settings = settings_of(objective, batch_size=size, micro_batch_size=micro)
        run, batches = run_of(folder, corpus_file, settings)
        with graph_memory() as memory:
            run.loss.backward(batches.of_step(0))
        peaks.append(memory.peak)
    small, in_parts, at_once = peaks
    assert in_parts < 2 * small < at_once


class GraphMemory:
    """Bytes that graphs hold for their backward passes, and their peak."""

    held = peak = 0

    def add(self, count: int) -> None:
        self.held += count
        self.peak = max(self.peak, self.held)


@contextmanager
def graph_memory() -> Iterator[GraphMemory]:
    memory = GraphMemory()

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            memory.add(self.size)

        def __del__(self) -> None:
            memory.add(-self.size)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        yield memory


@pytest.mark.parametrize("objective", ["masked-lm", "sentence-embedding"])
def test_run_ends_as_a_stock_student_with_its_log(tiny_folder, corpus_file, tmp_path, objective):
    out = tmp_path / "student"
    distill(
        str(tiny_folder(masked_lm=objective == "masked-lm")),
        text=text_of(corpus_file),
        shape=SHAPE,
        settings=settings_of(objective),
        output=out,
    )
    details = verify(out, StudentManifest).details
    assert details.widths.as_json() == {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 2,
    }
    log = [json.loads(line) for line in (out / LOG).read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(12))
    widths = [line["widths"]["hidden_size"] for line in log]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (32, 16)
    assert log[0]["gap"] == pytest.approx(0, abs=1e-6)
    assert max(line["gap"] for line in log) > 0
    assert [line["step"] + 1 for line in log if line["pruned"]] == [2, 4, 6, 7]  # t_f = 0.6 x 12
    model = AutoModel.from_pretrained(out)
    assert (model.config.hidden_size, model.config.num_attention_heads) == (16, 2)
    assert not list(out.glob("*checkpoint*"))
    assert (out / "modules.json").is_file() == (objective == "sentence-embedding")


def test_more_steps_lower_the_gap_again(tiny_folder, corpus_file, tmp_path):
    out = tmp_path / "student"
    settings = settings_of("sentence-embedding", steps=120, prune_until=0.2, learning_rate=3e-3, checkpoint_every=1000)
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
    gaps = [json.loads(line)["gap"] for line in (out / LOG).read_text().splitlines()]
    assert sum(gaps[-10:]) < 0.7 * sum(gaps[25:35])


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("objective", "stop_after", "streaming"),
    [
        pytest.param("masked-lm", 5, False, id="masked-lm, while pruning, map", marks=pytest.mark.slow),
        pytest.param("sentence-embedding", 5, True, id="sentence-embedding, while pruning, stream"),
        pytest.param("masked-lm", 9, True, id="masked-lm, after pruning, stream"),
        pytest.param("sentence-embedding", 9, False, id="sentence-embedding, after pruning, map"),
    ],
)
def test_resumed_run_ends_with_the_same_bits(tiny_folder, corpus_file, tmp_path, objective, stop_after, streaming):
    torch.set_num_threads(1)
    folder = tiny_folder(masked_lm=objective == "masked-lm")
    source = TextSource(files=str(corpus_file))
    if streaming:
        (tmp_path / "data").mkdir()
        shutil.copy(corpus_file, tmp_path / "data" / "train.txt")
        source = TextSource(dataset=str(tmp_path / "data"), streaming=True)
    text = TextSettings(sources=(source,), max_length=24, held_out=20)
    arguments = {"text": text, "shape": SHAPE, "settings": settings_of(objective)}
    distill(str(folder), output=tmp_path / "whole", **arguments)

    def stop(progress: object) -> None:
        if progress.step.step == stop_after:
            raise Stop

    with pytest.raises(Stop):
        distill(str(folder), output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    distill(str(folder), output=tmp_path / "stopped", resume=True, **arguments)
    logs = [(tmp_path / name / LOG).read_text().splitlines() for name in ("whole", "stopped")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_run_that_fails_before_its_first_checkpoint_leaves_nothing(tiny_folder, corpus_file, tmp_path):
    def stop(_progress: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        distill(
            str(tiny_folder()),
            text=text_of(corpus_file),
            shape=SHAPE,
            settings=settings_of("sentence-embedding"),
            output=tmp_path / "out",
            progress=Progress(on_distill=stop),
        )
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_is_written(tiny_folder, corpus_file, tmp_path):
    teacher = str(tiny_folder())
    good = {
        "text": text_of(corpus_file),
        "shape": SHAPE,
        "settings": settings_of("sentence-embedding"),
        "output": tmp_path / "out",
    }
    short = tmp_path / "short.txt"
    short.write_text("\n".join(f"w1 w2 w{index}" for index in range(25)))
    for change, error, words in (
        ({"shape": StudentShape(hidden_size=64)}, ShapeError, "wider than the teacher"),
        ({"shape": StudentShape(hidden_size=15, num_attention_heads=2)}, ShapeError, "not divisible into 2 heads"),
        ({"text": text_of(short)}, TextError, "fewer than one batch of 8"),
        ({"text": text_of(tmp_path / "none.txt")}, TextError, "none.txt"),
    ):
        with pytest.raises(error, match=words):
            distill(teacher, **{**good, **change})
        assert not (tmp_path / "out").exists()


def test_existing_output_is_kept_and_other_settings_do_not_resume(tiny_folder, corpus_file, tmp_path):
    arguments = {"text": text_of(corpus_file), "shape": SHAPE, "output": tmp_path / "out"}
    teacher, settings = str(tiny_folder()), settings_of("sentence-embedding", steps=3)
    distill(teacher, settings=settings, **arguments)
    before = verify(tmp_path / "out", Manifest).digest
    with pytest.raises(OutputError, match="already exists"):
        distill(teacher, settings=settings, **arguments)
    with pytest.raises(RecipeError, match="other settings"):
        distill(teacher, settings=settings_of("sentence-embedding", steps=4), resume=True, **arguments)
    distill(teacher, settings=settings, resume=True, **arguments)  # finished already: nothing to do
    assert verify(tmp_path / "out", Manifest).digest == before
    distill(teacher, settings=settings_of("sentence-embedding", steps=4), force=True, **arguments)
    assert verify(tmp_path / "out", StudentManifest).details.steps == 4
    its_own_text = arguments | {"text": text_of(tmp_path / "out" / "*.txt")}
    for source, changed in ((tmp_path / "out", arguments), (teacher, its_own_text)):
        with pytest.raises(OutputError, match=r"would be replaced, but .* is read"):
            distill(str(source), settings=settings, force=True, **changed)
    assert verify(tmp_path / "out", StudentManifest).details.steps == 4


def test_force_does_not_replace_a_folder_of_someone_elses(tiny_folder, corpus_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    arguments = {"text": text_of(corpus_file), "shape": SHAPE, "output": tmp_path / "mine"}
    with pytest.raises(OutputError, match="not written by homoexport"):
        distill(str(tiny_folder()), settings=settings_of("sentence-embedding"), force=True, **arguments)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
def test_first_event_takes_neurons_that_do_nothing(tiny_folder, corpus_file, objective):
    """Before it the student equals its teacher, whose gap has no gradient; the dead ones still are found."""
    settings = settings_of(objective, weights=LossWeights(task=1 if objective == "sentence-embedding" else 0))
    run, batches = run_of(tiny_folder(masked_lm=objective == "masked-lm"), corpus_file, settings)
    dead = torch.arange(40)  # the lowest indices, which a tie would keep
    for model in (run.teacher, run.student):
        for layer in run.family.body(model).encoder.layer:
            layer.output.dense.weight.data[:, dead] = 0
    before = copy.deepcopy(run.student.state_dict())
    run.advance(batches.of_step(0))
    assert all(torch.equal(value, before[name]) for name, value in run.student.state_dict().items())
    assert run.advance(batches.of_step(1)).pruned
    width = run.family.widths(run.student).intermediate_size
    assert 24 < width < 64
    for layer in run.family.body(run.student).encoder.layer:
        alive = (layer.output.dense.weight.abs().sum(0) > 0).sum().item()
        assert alive == min(24, width)


def test_resume_refuses_another_text_under_the_same_name(tiny_folder, corpus_file, tmp_path):
    def stop(progress: object) -> None:
        if progress.step.step == 5:
            raise Stop

    arguments = {
        "text": text_of(corpus_file),
        "shape": SHAPE,
        "settings": settings_of("sentence-embedding"),
        "output": tmp_path / "out",
    }
    teacher = str(tiny_folder())
    with pytest.raises(Stop):
        distill(teacher, progress=Progress(on_distill=stop), **arguments)
    whole = corpus_file.read_text()
    corpus_file.write_text(whole + "\nw1 w2 w3 w4 w5 w6 w7")
    with pytest.raises(RecipeError, match="the teacher, the text or its vectors are not what the run was started with"):
        distill(teacher, resume=True, **arguments)
    corpus_file.write_text(whole)
    distill(teacher, resume=True, **arguments)
    assert verify(tmp_path / "out", StudentManifest).details.steps == 12


def test_interrupt_at_the_very_end_loses_nothing(tiny_folder, corpus_file, tmp_path, monkeypatch):
    """The checkpoint stays until the manifest is written."""
    arguments = {
        "text": text_of(corpus_file),
        "shape": SHAPE,
        "settings": settings_of("sentence-embedding"),
        "output": tmp_path / "out",
    }

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    teacher = str(tiny_folder())
    with monkeypatch.context() as patch:
        patch.setattr("homoexport.workflow.student.write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, **arguments)
    distill(teacher, resume=True, **arguments)
    assert verify(tmp_path / "out", StudentManifest).details.steps == 12
    assert not list((tmp_path / "out").glob(".checkpoint*"))


def test_more_tokens_than_the_teacher_has_positions_are_refused(tiny_folder, corpus_file, tmp_path):
    text = TextSettings(sources=(TextSource(files=str(corpus_file)),), max_length=100, held_out=20)
    with pytest.raises(RecipeError, match="max_length 100 is more than the teacher's 64 positions"):
        distill(
            str(tiny_folder()),
            text=text,
            shape=SHAPE,
            settings=settings_of("sentence-embedding"),
            output=tmp_path / "out",
        )


def test_what_force_replaces_stays_until_the_new_run_has_a_checkpoint(tiny_folder, corpus_file, tmp_path):
    arguments = {"text": text_of(corpus_file), "shape": SHAPE, "output": tmp_path / "out"}
    teacher, settings = str(tiny_folder()), settings_of("sentence-embedding")
    distill(teacher, settings=settings, **arguments)
    before = verify(tmp_path / "out", Manifest).digest

    def stop(_progress: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        distill(teacher, settings=settings, force=True, progress=Progress(on_distill=stop), **arguments)
    assert verify(tmp_path / "out", Manifest).digest == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(RecipeError, match="--force starts anew"):
        distill(teacher, settings=settings, force=True, resume=True, **arguments)


@pytest.mark.parametrize("content", [b"garbage", None], ids=["garbage", "another version's"])
def test_checkpoint_that_is_none_is_refused(tiny_folder, corpus_file, tmp_path, content):
    def stop(progress: object) -> None:
        if progress.step.step == 5:
            raise Stop

    arguments = {"text": text_of(corpus_file), "shape": SHAPE, "output": tmp_path / "out"}
    arguments["settings"] = settings_of("sentence-embedding")
    teacher = str(tiny_folder())
    with pytest.raises(Stop):
        distill(teacher, progress=Progress(on_distill=stop), **arguments)
    path = tmp_path / "out" / CHECKPOINT
    if content is None:
        torch.save({"run": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(PackageError, match=r"checkpoint.*start again with --force"):
        distill(teacher, resume=True, **arguments)


def test_one_process_may_distil_in_two_precisions(tiny_folder, corpus_file):
    for precision in ("fp32", "bf16", "fp32"):
        run, _ = run_of(tiny_folder(), corpus_file, settings_of("sentence-embedding", precision=precision))
        assert run.accelerator.mixed_precision == ("no" if precision == "fp32" else precision)
