"""Planning: what a budget can afford on a target, before any training."""

from homoexport.plan.choice import Limits, lighter, narrower, wider
from homoexport.plan.instruments import Instruments
from homoexport.plan.planner import plan_encoder

__all__ = ["Instruments", "Limits", "lighter", "narrower", "plan_encoder", "wider"]
