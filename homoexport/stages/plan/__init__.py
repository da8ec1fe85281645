"""Planning: what a budget can afford on a target, before any training.

`planner.plan_encoder` makes a plan; `choice`, which a run asks for the next shape, needs no torch, so nothing is
imported here.
"""
