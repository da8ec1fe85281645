"""When to prune, and how far: HomoDistil's cubic schedule (arXiv 2302.09632, section 3).

    r(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³   for t_i ≤ t < t_f

`remaining(t)` is the cubed part: the share of what is to go that is still there, the same for every
kind of group. t counts finished optimizer steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from homoexport.encoder import Widths


@dataclass(frozen=True)
class PruneSchedule:
    """Prune events at every `every` steps from `start` (t_i) to `stop` (t_f), in steps."""

    start: int
    stop: int
    every: int

    @classmethod
    def of_run(cls, steps: int, *, prune_from: float, prune_until: float, prune_every: int) -> PruneSchedule:
        """From shares of a run's steps; the last event comes before the last step."""
        stop = min(max(1, round(prune_until * steps)), max(1, steps - 1))
        return cls(min(round(prune_from * steps), stop), stop, prune_every)

    def is_event(self, step: int) -> bool:
        """Whether neurons go after `step` finished steps."""
        return step == self.stop or (self.start < step < self.stop and (step - self.start) % self.every == 0)

    def remaining(self, step: int) -> float:
        """Share (1 to 0) of the prunable neurons still there after `step` finished steps."""
        if step <= self.start and step < self.stop:
            return 1.0
        if step >= self.stop:
            return 0.0
        return (1 - (step - self.start) / (self.stop - self.start)) ** 3


def widths_at(teacher: Widths, target: Widths, remaining: float) -> tuple[int, int, int, int]:
    """Hidden size, ffn width, heads over all layers, and head width when `remaining` is still there."""

    def between(full: int, final: int) -> int:
        return final + math.ceil((full - final) * remaining)

    return (
        between(teacher.hidden_size, target.hidden_size),
        between(teacher.intermediate_size, target.intermediate_size),
        between(sum(teacher.heads), sum(target.heads)),
        between(teacher.head_dim, target.head_dim),
    )
