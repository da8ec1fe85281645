"""Distilling: HomoDistil by slicing, from settings to a student's folder."""

from homoexport.distill.job import TASKS, Job, open_job, target_of
from homoexport.distill.loop import Run, StepReport
from homoexport.distill.stage import distill, distill_students, forget_state, new_run, prune_on
from homoexport.distill.steps import run_steps
from homoexport.distill.writer import LOG, Progress

__all__ = [
    "LOG",
    "TASKS",
    "Job",
    "Progress",
    "Run",
    "StepReport",
    "distill",
    "distill_students",
    "forget_state",
    "new_run",
    "open_job",
    "prune_on",
    "run_steps",
    "target_of",
]
