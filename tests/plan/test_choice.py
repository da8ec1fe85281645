"""Limits, the front, and what follows from a measured package."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from homoexport.documents.budget import Budget
from homoexport.documents.recipe import MeasureSettings
from homoexport.measure import TargetHost
from homoexport.plan import Check, Limits, Plan, Row, plan_of
from homoexport.plan.choice import best_of
from homoexport.plan.table import Figures
from homoexport.shape import Shape


def row(layers: int, hidden: int, *, p50: float, retained: float, ffn: int | None = None) -> Row:
    shape = Shape(layers, hidden, ffn or 4 * hidden, hidden // 32)
    figures = Figures(p50, 1.2 * p50, 1.5 * p50, p50, 60 + hidden / 10, hidden / 20)
    return Row(shape, figures, 10_000 * hidden, retained)


ROWS = (
    row(6, 384, p50=10.0, retained=1.0),
    row(6, 256, p50=6.0, retained=0.8),
    row(6, 224, p50=6.5, retained=0.75),  # slower than 256
    row(6, 192, p50=4.0, retained=0.6),
    row(3, 384, p50=5.0, retained=0.5),
    row(6, 192, p50=3.0, retained=0.55, ffn=384),
    row(6, 128, p50=2.0, retained=0.4),
)


def plan(**budget: object) -> Plan:
    asked = Budget(**budget)  # type: ignore[arg-type]
    limits = Limits.of(asked, 1, ROWS[0].figures, ROWS[0].parameters)
    choice = best_of([each for each in ROWS if limits.kept_by(each)])
    assert choice is not None
    return Plan(
        teacher="teacher",
        teacher_digest="0" * 64,
        budget=asked,
        limits=limits,
        measure=MeasureSettings(threads=1),
        scheme="int8",
        form="standard",
        target=TargetHost(True, False, "CPUExecutionProvider", "a CPU", True, ("avx2",)),
        reference=ROWS[0].figures,
        rows=ROWS,
        choice=choice,
        checks=(Check(ROWS[1].shape, ROWS[1].figures, ROWS[1].figures),),
        measured=44,
        remembered=False,
    )


def test_choice_keeps_most_of_what_fits():
    assert plan(latency_p50_ms=6.5).choice is ROWS[1]
    assert plan(latency_p50_ms=5.5).choice is ROWS[3]
    assert plan(latency_p50_ms=6.5, file_mb=10).choice is ROWS[3]
    assert plan(throughput_per_s=300).choice is ROWS[5]
    assert plan(parameters="2M").choice is ROWS[3]


def test_what_a_target_cannot_hold_is_followed_by_what_needs_clearly_less():
    asked = plan(latency_p50_ms=11)
    assert asked.choice is ROWS[0]
    assert asked.lighter(ROWS[0]) is ROWS[1]
    assert asked.lighter(ROWS[3]) is ROWS[6]  # that of half the ffn needs as much memory
    assert asked.lighter(ROWS[6]) is None


def test_relative_lines_are_of_the_teachers_figures():
    assert plan(latency_p50_ms="2x").limits.values == {"latency_p50_ms": 5.0}
    assert plan(latency_p50_ms="45%").limits.values == pytest.approx({"latency_p50_ms": 4.5})
    assert plan(throughput_per_s="2x").limits.values == pytest.approx({"throughput_per_s": 200})
    assert plan(throughput_per_s="200%").limits.values == pytest.approx({"throughput_per_s": 200})
    assert plan(parameters="2x").limits.values == pytest.approx({"parameters": 1_920_000})


def test_front_leaves_out_what_another_beats_and_what_misses_other_lines():
    told = [each.shape for each in plan(latency_p50_ms=6.5).front()]
    assert told == [ROWS[i].shape for i in (6, 5, 3, 1, 0)]
    assert [each.shape for each in plan(latency_p50_ms=6.5, file_mb=10).front()] == [ROWS[i].shape for i in (6, 5, 3)]


def test_widths_that_hardware_dislikes_are_named():
    assert [
        (slow.shape.hidden_size, wider.shape.hidden_size) for slow, wider in plan(latency_p50_ms=6.5).disliked()
    ] == [(224, 256)]


def test_a_little_more_buys_what_then_fits():
    ((line, limit, bought),) = plan(latency_p50_ms=5.5).more()
    assert (line, limit, bought.shape) == ("latency_p50_ms", 6.5, ROWS[1].shape)


def test_package_that_costs_more_than_planned_leads_to_a_narrower_shape():
    found = plan(latency_p50_ms=6.5)
    assert found.narrower(ROWS[1], {"latency_p50_ms": 1.3}) is ROWS[3]  # 6 measured as 8.45: all 1.41 times dearer
    assert found.narrower(ROWS[1], {"latency_p50_ms": 2.0}) is ROWS[6]
    assert found.narrower(ROWS[6], {"latency_p50_ms": 1.1}) is None
    assert found.narrower(ROWS[4], {"latency_p50_ms": 1.3}) is None  # more layers are not to be had by pruning


def test_room_to_spare_names_a_wider_shape():
    found = plan(latency_p50_ms=5.5)
    assert found.wider(ROWS[3], {"latency_p50_ms": 0.5}) is ROWS[1]
    assert found.wider(ROWS[3], {"latency_p50_ms": 0.9}) is None
    assert found.wider(ROWS[3], {"latency_p50_ms": 0.5}, [ROWS[1].shape]) is ROWS[2]  # the other one missed


def test_restless_machine_leaves_more_room():
    limits = replace(plan(latency_p50_ms=6.5, file_mb=20).limits, drift=0.2)
    assert (limits.margin("latency_p50_ms"), limits.margin("file_mb")) == (0.1, 0.005)
    assert limits.missed_by(ROWS[1]) == ["latency_p50_ms"]
    assert limits.missed_by(ROWS[1], margin=False) == []
    assert replace(limits, drift=9.0).margin("latency_p50_ms") == 0.125


def test_json_keeps_it():
    one = plan(latency_p50_ms="2x", file_mb=10)
    document = json.loads(json.dumps(one.as_json()))
    assert plan_of(document).as_json() == document
    assert plan_of(document).choice == one.choice
    measured = replace(one, choice=replace(one.choice, measured=True))
    assert plan_of(json.loads(json.dumps(measured.as_json()))).choice.measured
