"""A plan for a person: why a shape was not taken, how old the table is, and what the machine did then."""

from __future__ import annotations

import pytest

from homoexport.report import plan_lines, plan_table
from homoexport.report.planned import front_figure
from tests.stages.plan.test_choice import ROWS, plan


def test_rows_of_the_front_say_which_line_they_miss() -> None:
    table = plan_table(plan(latency_p50_ms=6.1))
    why = {row[0].removeprefix("> "): row[-1] for row in table.rows}
    assert table.head[-1] == "Why not"
    assert why == {
        "6 x 128/512, 4 heads": "",
        "6 x 192/384, 6 heads": "",
        "6 x 192/768, 6 heads": "",
        "6 x 256/1024, 8 heads": "p50 (room)",
        "6 x 384/1536, 12 heads": "p50",
    }
    assert [table.rows[place][0][:2] for place in table.bold] == ["> "]
    assert plan_table(plan(file_mb=1000)).head[-1] == "Kept"  # nothing misses anything


def test_suspect_rows_are_marked() -> None:
    made = plan(latency_p50_ms=4.5)
    front = tuple(row.model_copy(update={"suspect": row.shape.hidden_size == 192}) for row in made.front)
    marked = [row[0] for row in plan_table(made.model_copy(update={"front": front})).rows if "suspect" in row[-1]]
    assert [name.removeprefix("> ") for name in marked] == ["6 x 192/384, 6 heads", "6 x 192/768, 6 heads"]
    said = "\n".join(plan_lines(made.model_copy(update={"suspect": (ROWS[3].shape,)})))
    assert "1 small model is suspect" in said


@pytest.mark.parametrize(
    ("age", "told"), [(5.0, "5 seconds ago"), (7_300, "2 hours ago"), (172_800, "2 days ago"), (600, "10 minutes ago")]
)
def test_a_remembered_plan_says_its_age_and_the_machines_state_then(age: float, told: str) -> None:
    made = plan(latency_p50_ms=4.5).model_copy(update={"remembered": True, "table_age_s": age})
    said = "\n".join(plan_lines(made))
    assert f"remembered, measured {told}; " in said
    assert "The machine was quiet then." in said
    busy = "\n".join(plan_lines(made.model_copy(update={"disturbed_share": 0.34})))
    assert "The machine was busy then: models waited for a core in 34 % of the rounds" in busy
    assert "The machine was quiet then." not in busy


def test_a_machine_that_is_faster_or_slower_now_is_told() -> None:
    made = plan(latency_p50_ms=4.5).model_copy(update={"remembered": True, "table_age_s": 9.0})
    for pace, told in (
        (1.7, "took 1.70 times as long then as it does now"),
        (0.5, "takes 2.00 times as long now as it did then"),
    ):
        said = "\n".join(plan_lines(made.model_copy(update={"slower_then": pace})))
        assert told in said
        assert "The machine was quiet then." not in said


def test_the_fronts_picture_says_why_a_point_above_it_was_not_taken() -> None:
    axes = front_figure(plan(latency_p50_ms=6.1, file_mb=11)).axes[0]
    groups = {
        str(points.get_label()): {tuple(map(float, point)) for point in points.get_offsets()}
        for points in axes.collections
    }
    assert groups["misses file"] == {(10.0, 100.0), (6.0, 80.0), (6.5, 75.0), (5.0, 50.0)}
    assert (4.0, 60.0) in groups["shapes"]
