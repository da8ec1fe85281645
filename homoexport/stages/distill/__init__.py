"""Distilling: HomoDistil by slicing, from a loaded teacher and its text to a student."""

from homoexport.stages.distill.core import Divergence, Wish, distill_encoder, first_steps, run_steps
from homoexport.stages.distill.evaluation import held_out_loss, refuse_silent_teacher
from homoexport.stages.distill.job import (
    TASKS,
    Job,
    all_processes_alive,
    failing_together,
    join_processes,
    target_of,
    targets_of,
)
from homoexport.stages.distill.loop import Run
from homoexport.stages.distill.vectors import ask_for_vectors

__all__ = [
    "TASKS",
    "Divergence",
    "Job",
    "Run",
    "Wish",
    "all_processes_alive",
    "ask_for_vectors",
    "distill_encoder",
    "failing_together",
    "first_steps",
    "held_out_loss",
    "join_processes",
    "refuse_silent_teacher",
    "run_steps",
    "target_of",
    "targets_of",
]
