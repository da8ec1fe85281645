"""Planning: what a budget can afford on a target, before any training."""

from homoexport.stages.plan.choice import Limits, lighter, narrower, wider
from homoexport.stages.plan.instruments import Instruments
from homoexport.stages.plan.planner import plan_encoder

__all__ = ["Instruments", "Limits", "lighter", "narrower", "plan_encoder", "wider"]
