"""Distilling with objects: a loaded teacher and its text in, a student out. Nothing is read, written or printed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from transformers import PreTrainedModel

from homoexport.documents.recipe import DistillSettings
from homoexport.documents.student import StepRecord
from homoexport.encoder import Encoder
from homoexport.errors import TrainingError
from homoexport.shape import PartialShape
from homoexport.stages.distill.batches import BatchesAhead, BatchMaker
from homoexport.stages.distill.job import Job, join_processes, targets_of
from homoexport.stages.distill.loop import Run
from homoexport.text.corpus import Corpus, require_batch


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
    accelerator = join_processes(settings, seed=seed)
    targets = targets_of(teacher, [shape], settings, max_length=max_length)
    require_batch(corpus, settings.batch_size)
    job = Job(teacher, corpus, settings, accelerator, max_length, seed, targets)
    run = Run(job, targets[0])
    run_steps(run, job.batches, on_step=on_step or (lambda _step: None), on_checkpoint=lambda: None)
    run.close()
    run.family.write_config(run.student.config, run.target)
    return run.student.to("cpu").eval()


def run_steps(
    run: Run,
    batches: BatchMaker,
    *,
    offset: int = 0,
    on_step: Callable[[StepRecord], None],
    on_checkpoint: Callable[[], None],
) -> None:
    """Advance a run, fresh or restored, to its end.

    Its step 0 stands at `offset` in the text's order. `on_checkpoint` is called every `checkpoint_every` steps.
    """
    every, steps = run.settings.checkpoint_every, run.settings.steps
    ahead = BatchesAhead(batches)
    while not run.finished:
        began = time.perf_counter()
        saves = (run.step + 1) % every == 0 or run.may_pass_waypoint
        go_on = not saves and run.step + 1 < steps
        report = run.advance(ahead.of_step(offset + run.step, go_on=go_on))
        if not math.isfinite(report.loss):
            raise TrainingError(
                f"the loss is {report.loss} at step {report.step}",
                where="distill",
                hint="check the teacher's weights" if report.step == 0 else "lower distill.learning_rate",
            )
        on_step(report.model_copy(update={"seconds": time.perf_counter() - began}))
        if run.step % every == 0 and not run.finished:
            on_checkpoint()
