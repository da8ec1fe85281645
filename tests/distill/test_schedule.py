"""The cubic schedule against the paper's formula, written out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from homoexport.distill.schedule import PruneSchedule, widths_at
from homoexport.encoder import Widths

TEACHER = Widths(768, 3072, (12,) * 12, 64)
SMALL = Widths(256, 1024, (8,) * 12, 32)


def test_ratio_is_the_papers():
    schedule = PruneSchedule(start=100, stop=700, every=10)
    final = 256 / 768
    for step in range(100, 701, 50):
        ratio = final + (1 - final) * (1 - (step - 100) / 600) ** 3
        assert widths_at(TEACHER, SMALL, schedule.remaining(step))[0] == pytest.approx(768 * ratio, abs=1)
    assert schedule.remaining(0) == schedule.remaining(100) == 1.0
    assert schedule.remaining(700) == schedule.remaining(1000) == 0.0


def test_widths_go_from_the_teachers_to_the_targets_and_never_back():
    schedule = PruneSchedule.of_run(50, prune_from=0.0, prune_until=0.6, prune_every=5)
    path = [widths_at(TEACHER, SMALL, schedule.remaining(step)) for step in range(51)]
    assert path[0] == (768, 3072, 144, 64)
    assert path[30] == path[-1] == (256, 1024, 96, 32)
    assert all(later <= earlier for a, b in pairwise(path) for earlier, later in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("until", "every", "events"),
    [(0.6, 5, [5, 10, 15, 20, 25, 30]), (0.6, 7, [7, 14, 21, 28, 30]), (0.0, 5, [1]), (1.0, 20, [20, 40, 49])],
)
def test_events_end_at_the_stop_and_before_the_last_step(until, every, events):
    schedule = PruneSchedule.of_run(50, prune_from=0.0, prune_until=until, prune_every=every)
    assert [step for step in range(51) if schedule.is_event(step)] == events
    assert schedule.remaining(events[-1]) == 0.0


def test_a_run_of_one_step_still_reaches_the_target():
    schedule = PruneSchedule.of_run(1, prune_from=0.0, prune_until=0.6, prune_every=5)
    assert schedule.is_event(1)
    assert schedule.remaining(1) == 0.0
