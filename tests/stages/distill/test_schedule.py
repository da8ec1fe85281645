"""The cubic schedule against the paper's formula, written out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from homoexport.documents.recipe import DistillSettings
from homoexport.shape import Shape, Widths
from homoexport.stages.distill.schedule import PruneSchedule, widths_due

TEACHER = Widths(768, 3072, (12,) * 12, 64)
SMALL = Shape(12, 256, 1024, 8)


def schedule_of(**settings: object) -> PruneSchedule:
    return PruneSchedule.of(
        DistillSettings(**{"objective": "masked-lm", "batch_size": 2, "prune_every": 5, **settings})
    )


def test_ratio_is_the_papers():
    schedule = PruneSchedule(start=100, stop=700, every=10, kind="cubic")
    final = 256 / 768
    for step in range(100, 701, 50):
        ratio = final + (1 - final) * (1 - (step - 100) / 600) ** 3
        assert widths_due(TEACHER, SMALL, schedule.remaining(step), layers=12).hidden_size == pytest.approx(
            768 * ratio, abs=1
        )
    assert schedule.remaining(0) == schedule.remaining(100) == 1.0
    assert schedule.remaining(700) == schedule.remaining(1000) == 0.0


def test_widths_go_from_the_teachers_to_the_targets_and_never_back():
    schedule = schedule_of(steps=50, prune_until=0.6)
    path = [widths_due(TEACHER, SMALL, schedule.remaining(step), layers=12) for step in range(51)]
    assert path[0] == TEACHER
    assert path[30] == path[-1] == Widths.of(SMALL)
    assert all(later.at_most(earlier) == later for earlier, later in pairwise(path))


@pytest.mark.parametrize(
    ("until", "every", "events"),
    [(0.6, 5, [5, 10, 15, 20, 25, 30]), (0.6, 7, [7, 14, 21, 28, 30]), (0.0, 5, [0]), (1.0, 20, [20, 40, 49])],
)
def test_events_end_at_the_stop_and_before_the_last_step(until, every, events):
    schedule = schedule_of(steps=50, prune_until=until, prune_every=every)
    assert [step for step in range(51) if schedule.is_event(step)] == events
    assert schedule.remaining(events[-1]) == 0.0


def test_a_run_of_one_step_still_reaches_the_target():
    schedule = schedule_of(steps=1, prune_until=0.6)
    assert schedule.is_event(0)
    assert schedule.remaining(0) == 0.0


def test_a_straight_line_is_half_way_at_half_time():
    schedule = schedule_of(steps=100, prune_from=0.2, prune_until=0.8, prune_schedule="linear")
    assert [schedule.remaining(step) for step in (10, 20, 35, 50, 80)] == pytest.approx([1, 1, 0.75, 0.5, 0])


def test_heads_are_counted_over_the_layers_that_are_there():
    assert widths_due(TEACHER, SMALL, 1.0, layers=10).total_heads == 120
    assert widths_due(TEACHER, SMALL, 0.0, layers=10).total_heads == 80
