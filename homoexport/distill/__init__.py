"""Distilling: HomoDistil by slicing, from settings to a student folder."""

from homoexport.distill.loop import Run, StepReport, run_steps
from homoexport.distill.stage import LOG, Progress, distill

__all__ = ["LOG", "Progress", "Run", "StepReport", "distill", "run_steps"]
