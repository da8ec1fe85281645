"""Distilling: HomoDistil by slicing, from settings to a student's folder."""

from homoexport.distill.job import TASKS, Job, open_job, target_of
from homoexport.distill.loop import Run, StepReport
from homoexport.distill.stage import distill, distill_students, new_run
from homoexport.distill.steps import run_steps
from homoexport.distill.writer import HELD_OUT, LOG, Progress

__all__ = [
    "HELD_OUT",
    "LOG",
    "TASKS",
    "Job",
    "Progress",
    "Run",
    "StepReport",
    "distill",
    "distill_students",
    "new_run",
    "open_job",
    "run_steps",
    "target_of",
]
