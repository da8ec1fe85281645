"""Distilling with objects: a loaded teacher and its text in, a student out. Nothing is read, written or printed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from transformers import PreTrainedModel

from homoexport.documents.recipe import DistillSettings
from homoexport.documents.student import StepRecord
from homoexport.encoder import Encoder
from homoexport.errors import RecipeError, TrainingError
from homoexport.shape import PartialShape
from homoexport.stages.distill.batches import BatchesAhead
from homoexport.stages.distill.evaluation import refuse_silent_teacher
from homoexport.stages.distill.job import Job, join_processes, targets_of
from homoexport.stages.distill.loop import Run
from homoexport.text.corpus import Corpus, require_batch

Wish: TypeAlias = Literal["go on", "save", "stop"]


class Divergence(TrainingError):
    """A step after which the loss or the weights are no numbers."""


def distill_encoder(
    teacher: Encoder,
    corpus: Corpus,
    shape: PartialShape,
    *,
    settings: DistillSettings,
    max_length: int = 128,
    seed: int = 0,
    on_step: Callable[[StepRecord], None] | None = None,
) -> PreTrainedModel:
    """Distil a student out of a loaded teacher (HomoDistil, arXiv 2302.09632, by slicing), in memory.

    Args:
        teacher: a model of a supported family, as `load_encoder` or `encoder_of` gives it.
        corpus: the text, as `prepare_text` or `corpus_of` gives it for the objective of `settings`.
        shape: the student's; what is left out follows from the teacher's.
        settings: how to distil; nothing is saved on the way, whatever `checkpoint_every` says.
        max_length: tokens of the longest training sequence.
        seed: of masks and random weights.

    Returns:
        The student in eval mode on the CPU, a stock model of the teacher's class, whose config describes it.

    Raises:
        TeacherError, TextError, ShapeError, RecipeError, TrainingError: see `homoexport.errors`.
    """
    if shape.output == "teacher":
        what, hint = "this gives a model alone, without the layer behind it", "homoexport.distill writes both"
        raise RecipeError(what, where="output", hint=hint)
    if settings.vectors_from is not None:
        hint = "homoexport.distill asks for them, or reads them"
        raise RecipeError("the corpus has its text alone", where="vectors_from", hint=hint)
    job, run = _begun(teacher, corpus, shape, settings, max_length=max_length, seed=seed)
    run_steps(run, BatchesAhead(job.batches), on_step=on_step or (lambda _step: None))
    run.close()
    run.family.write_config(run.student.config, run.target)
    return run.student.to("cpu").eval()


def first_steps(
    teacher: Encoder, corpus: Corpus, shape: PartialShape, *, settings: DistillSettings, steps: int, max_length: int
) -> list[StepRecord]:
    """The first steps of a distillation whose student nobody keeps, with the teacher as it was; see
    `distill_encoder`."""
    trained = [parameter for parameter in teacher.model.parameters() if parameter.requires_grad]
    job, run = _begun(teacher, corpus, shape, settings, max_length=max_length, seed=0)
    made: list[StepRecord] = []
    try:
        while len(made) < steps:
            began = time.perf_counter()
            report = run.advance(job.batches.of_step(run.step))
            made.append(report.model_copy(update={"seconds": time.perf_counter() - began}))
    finally:
        run.close()
        teacher.model.to("cpu")
        for parameter in trained:
            parameter.requires_grad_()
    return made


def _begun(
    teacher: Encoder, corpus: Corpus, shape: PartialShape, settings: DistillSettings, *, max_length: int, seed: int
) -> tuple[Job, Run]:
    """A run before its first step."""
    accelerator = join_processes(settings, seed=seed)
    targets = targets_of(teacher, [shape], settings, max_length=max_length)
    require_batch(corpus, settings.batch_size)
    job = Job(teacher, corpus, settings, accelerator, max_length, seed, targets)
    refuse_silent_teacher(job)
    run = Run(job, targets[0])
    run.read_text(job.batches)
    return job, run


def run_steps(
    run: Run,
    batches: BatchesAhead,
    *,
    offset: int = 0,
    on_step: Callable[[StepRecord], None],
    wish: Callable[[], Wish] = lambda: "go on",
    on_checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Advance a run, fresh or restored, to its end, or until a stop is wished for.

    Its step 0 stands at `offset` in the text's order. What is wished for after a step is done before the next one. A
    checkpoint is due at a stop and at the end, too; its weights are numbers.

    Raises:
        TrainingError: the loss of the very first step is not finite; of a later one it is Divergence.
    """
    while not run.finished:
        began = time.perf_counter()
        report = run.advance(batches.of_step(offset + run.step, go_on=run.step + 1 < run.settings.steps))
        if not math.isfinite(report.loss):
            what = f"the loss is {report.loss} at step {report.step}"
            if offset + report.step == 0:
                raise TrainingError(what, where="distill", hint="check the teacher's weights")
            raise Divergence(what, where="distill", hint="lower distill.learning_rate")
        on_step(report.model_copy(update={"seconds": time.perf_counter() - began}))
        wished = wish()
        if wished != "go on" or run.finished:
            if not run.is_sound:
                what = f"the weights are no numbers after step {report.step}"
                raise Divergence(what, where="distill", hint="lower distill.learning_rate")
            on_checkpoint()
        if wished == "stop":
            break
