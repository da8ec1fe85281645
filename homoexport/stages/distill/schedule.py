"""When to prune, and how far: HomoDistil's cubic schedule (arXiv 2302.09632, section 3), or a straight line.

    r(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³   for t_i ≤ t < t_f

`remaining(t)` is the cubed part (or its base, for the line): the share of what is to go that is
still there, the same for every kind of group. t counts finished optimizer steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from homoexport.choices import ScheduleShape
from homoexport.documents.recipe import DistillSettings
from homoexport.shape import Shape, Widths, spread_heads


@dataclass(frozen=True)
class PruneSchedule:
    """Prune events at every `every` steps from `start` (t_i) to `stop` (t_f), in steps.

    A `stop` of 0 prunes once, before the first update.
    """

    start: int
    stop: int
    every: int
    kind: ScheduleShape

    @classmethod
    def of(cls, settings: DistillSettings) -> PruneSchedule:
        """When the method prunes; the last event comes before the last step."""
        if settings.method in ("one-shot", "layers", "repair"):
            return cls(0, 0, settings.prune_every, settings.prune_schedule)
        stop = min(round(settings.prune_until * settings.steps), settings.steps - 1)
        start = min(round(settings.prune_from * settings.steps), stop)
        return cls(start, stop, settings.prune_every, settings.prune_schedule)

    def is_event(self, step: int) -> bool:
        return step == self.stop or (self.start < step < self.stop and (step - self.start) % self.every == 0)

    def remaining(self, step: int) -> float:
        """Share (1 to 0) of the prunable neurons still there after `step` finished steps."""
        if step >= self.stop:
            return 0.0
        if step <= self.start:
            return 1.0
        left = 1 - (step - self.start) / (self.stop - self.start)
        return left**3 if self.kind == "cubic" else left


def widths_due(start: Widths, target: Shape, remaining: float, *, layers: int) -> Widths:
    """Widths when `remaining` (1 to 0) of the way is still to go, with the heads spread over the present layers."""

    def between(full: float, final: int) -> int:
        return final + math.ceil((full - final) * remaining)

    mean_heads = start.total_heads / start.num_hidden_layers
    return Widths(
        between(start.hidden_size, target.hidden_size),
        between(start.intermediate_size, target.intermediate_size),
        spread_heads(between(mean_heads * layers, target.num_attention_heads * layers), layers),
        between(start.head_dim, target.head_dim),
        start.queries_per_key,
    )
