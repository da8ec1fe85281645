"""A run from where it stands to its end: batches in, reports out, checkpoints on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from homoexport.documents.student import StepRecord
from homoexport.errors import TrainingError
from homoexport.stages.distill.batches import BatchesAhead, BatchMaker
from homoexport.stages.distill.loop import Run


def run_steps(
    run: Run,
    batches: BatchMaker,
    *,
    offset: int = 0,
    on_step: Callable[[StepRecord], None],
    on_checkpoint: Callable[[], None],
) -> None:
    """Advance a run to its end.

    Args:
        run: fresh or restored.
        batches: the training text.
        offset: place in the text's order at which the run's step 0 stands.
        on_step: is given every step's report.
        on_checkpoint: is called every `checkpoint_every` steps.
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
