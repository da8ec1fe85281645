"""A student that forgets is told of, once, and one that recovers is not."""

from __future__ import annotations

import pytest

from homoexport.documents.student import StepRecord, WidthFigures
from homoexport.stages.distill.forgetting import GapWatch
from homoexport.stages.distill.schedule import PruneSchedule
from homoexport.workflow.distill import distill
from homoexport.workflow.progress import Progress
from tests.stages.distill.test_loop import SHAPE, settings_of, text_of

# Of MiniLM, 100 steps in which events come every five: as it should be, and at thirty times the learning rate.
SOUND = [0, 0, 0, 0, 0, 0.335, 0.369, 0.372, 0.325, 0.296, 0.539, 0.475, 0.487, 0.454, 0.413, 0.59, 0.591, 0.535, 0.517]
TOO_FAST = [0, 0, 0, 0, 0, 0.335, 9.07, 17.8, 51.9, 36.1, 137, 176, 437, 96.1, 51.9, 130, 33.6, 113, 72.5]


def told_of(gaps: list[float], *, every: int = 5) -> list[int]:
    """The steps after which something is told."""
    watch = GapWatch(PruneSchedule(0, 60, every, "cubic"))
    widths = WidthFigures(hidden_size=8, intermediate_size=8, num_attention_heads=1, head_dim=8, num_hidden_layers=1)
    records = [
        StepRecord(
            step=step,
            loss=gap,
            terms={},
            gap=gap,
            widths=widths,
            parameters=1,
            learning_rate=0.1,
            pruned=(step + 1) % every == 0,
            seconds=1.0,
        )
        for step, gap in enumerate(gaps)
    ]
    return [record.step for record in records if watch.see(record)]


@pytest.mark.parametrize(
    ("gaps", "every", "steps"),
    [
        (SOUND, 5, []),
        (TOO_FAST, 5, [7]),
        ([1 - (1 - step / 60) ** 3 for step in range(60)], 1, []),  # an event a step: the gap follows what is gone
        ([min(step, 12) * (1 if step < 30 else 6) for step in range(60)], 1, [31]),  # it recovers no more
        ([0, 0, 0.4, 0.4, 3, 0.4, 0.4, 0.3], 2, []),  # an odd batch; three steps are looked at
        ([0.0] * 60, 5, []),
    ],
    ids=["sound", "too fast a rate", "an event a step", "late events", "an odd batch", "no gap"],
)
def test_growth_past_what_events_cost_is_told_once(gaps, every, steps):
    assert told_of(gaps, every=every) == steps


@pytest.mark.parametrize(("learning_rate", "is_told"), [(6e-4, False), (0.3, True)])
def test_a_run_tells_what_to_change(tiny_folder, corpus_file, tmp_path, learning_rate, is_told):
    notes: list[str] = []
    distill(
        str(tiny_folder()),
        text=text_of(corpus_file),
        shape=SHAPE,
        settings=settings_of("sentence-embedding", steps=30, prune_every=4, learning_rate=learning_rate),
        output=tmp_path / "out",
        progress=Progress(on_note=notes.append),
    )
    assert sum("the student forgets" in note for note in notes) == is_told, notes
    assert all("lower distill.learning_rate" in note for note in notes)
