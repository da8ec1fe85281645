"""Planning: what a budget can afford on a target, before any training."""

from homoexport.plan.choice import Check, Limits, Plan, Row, plan_of
from homoexport.plan.planner import plan_student
from homoexport.plan.table import Figures, Table

__all__ = ["Check", "Figures", "Limits", "Plan", "Row", "Table", "plan_of", "plan_student"]
