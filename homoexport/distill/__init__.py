"""Distilling: HomoDistil by slicing, from settings to a student folder."""

from homoexport.distill.loop import Run, StepReport, run_steps
from homoexport.distill.stage import HELD_OUT, LOG, Progress, distill

__all__ = ["HELD_OUT", "LOG", "Progress", "Run", "StepReport", "distill", "run_steps"]
