"""Whether a student forgets: its gap to the teacher grows past what prune events explain.

An event opens a gap, which the steps after it close again. The first fifth of the pruning takes about half of what is
to go, and the largest gap right after one of its events is what pruning itself costs. A gap of several times that is
the work of the steps: the rate is too high, or events come faster than the student recovers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from homoexport.documents.student import StepRecord
from homoexport.stages.distill.schedule import PruneSchedule

_BOUND = 4.0  # times the gap right after an early event
_STEPS = 3  # whose median is held against it
_EARLY = 0.2


@dataclass
class GapWatch:
    """Sees a run's steps in order, and says once that its student forgets."""

    schedule: PruneSchedule
    _cost: float = 0.0
    _recent: list[float] = field(default_factory=list)
    _after_event: bool = False
    _has_told: bool = False

    def see(self, step: StepRecord) -> str | None:
        """What is to be told after a step."""
        start, stop = self.schedule.start, self.schedule.stop
        if self._after_event and (not self._cost or step.step <= start + _EARLY * (stop - start)):
            self._cost = max(self._cost, step.gap)
        self._after_event = step.pruned
        self._recent = [*self._recent, step.gap][-_STEPS:]
        gap = median(self._recent)
        if self._has_told or not self._cost or len(self._recent) < _STEPS or gap <= _BOUND * self._cost:
            return None
        self._has_told = True
        return (
            f"the student forgets: its gap to the teacher is {gap:.3g} at step {step.step + 1}, after {self._cost:.3g} "
            "right after prune events; lower distill.learning_rate, or prune more slowly with more distill.steps and a "
            "later distill.prune_until"
        )
