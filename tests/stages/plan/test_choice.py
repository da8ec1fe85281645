"""Limits, the front, and what follows from a measured package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from homoexport.documents.budget import Budget
from homoexport.documents.document import parse_document, to_json
from homoexport.documents.plan import Check, Plan, Row
from homoexport.documents.recipe import MeasureSettings
from homoexport.documents.target import TargetHost
from homoexport.errors import PackageError
from homoexport.report.planned import plan_table
from homoexport.shape import Shape
from homoexport.stages.plan.choice import Limits, best_of, lighter, make_plan, narrower, wider


def row(layers: int, hidden: int, *, p50: float, retained: float, ffn: int | None = None) -> Row:
    return Row(
        shape=Shape(layers, hidden, ffn or 4 * hidden, hidden // 32),
        latency_p50_ms=p50,
        latency_p95_ms=1.2 * p50,
        latency_p99_ms=1.5 * p50,
        latency_mean_ms=p50,
        peak_rss_mb=60 + hidden / 10,
        file_mb=hidden / 20,
        parameters=10_000 * hidden,
        retained=retained,
    )


ROWS = (
    row(6, 384, p50=10.0, retained=1.0),
    row(6, 256, p50=6.0, retained=0.8),
    row(6, 224, p50=6.5, retained=0.75),  # slower than 256
    row(6, 192, p50=4.0, retained=0.6),
    row(3, 384, p50=5.0, retained=0.5),
    row(6, 192, p50=3.0, retained=0.55, ffn=384),
    row(6, 128, p50=2.0, retained=0.4),
)


def limits_of(**budget: object) -> Limits:
    return Limits.of(Budget(**budget), 1, ROWS[0], ROWS[0].parameters)  # type: ignore[arg-type]


def plan(**budget: object) -> Plan:
    limits = limits_of(**budget)
    choice = best_of([each for each in ROWS if limits.kept_by(each)])
    assert choice is not None
    return planned(limits, choice, Budget(**budget))  # type: ignore[arg-type]


def planned(limits: Limits, choice: Row, budget: Budget, rows: Sequence[Row] = ROWS) -> Plan:
    return make_plan(
        limits,
        rows,
        choice,
        [Check.of(rows[1].shape, rows[1], rows[1])],
        teacher="teacher",
        teacher_digest="0" * 64,
        budget=budget,
        measure=MeasureSettings(threads=1),
        scheme="int8",
        form="standard",
        target=TargetHost(
            is_here=True,
            emulated=False,
            provider="CPUExecutionProvider",
            cpu="a CPU",
            x86=True,
            instruction_sets=("avx2",),
        ),
        reference=None,
        models_measured=44,
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
    assert lighter(asked, ROWS[0]) is ROWS[1]
    assert lighter(asked, ROWS[3]) is ROWS[6]  # that of half the ffn needs as much memory
    assert lighter(asked, ROWS[6]) is None


def test_relative_lines_are_of_the_teachers_figures():
    assert limits_of(latency_p50_ms="2x").values == {"latency_p50_ms": 5.0}
    assert limits_of(latency_p50_ms="45%").values == pytest.approx({"latency_p50_ms": 4.5})
    assert limits_of(throughput_per_s="2x").values == pytest.approx({"throughput_per_s": 200})
    assert limits_of(throughput_per_s="200%").values == pytest.approx({"throughput_per_s": 200})
    assert limits_of(parameters="2x").values == pytest.approx({"parameters": 1_920_000})


def test_download_is_the_file_and_what_lies_beside_it():
    budget = Budget(download_mb="50%")
    limits = Limits.of(budget, 1, ROWS[0], ROWS[0].parameters, beside_mb=1.0)
    assert limits.values == {"download_mb": (ROWS[0].file_mb + 1) / 2}
    assert limits.figure(ROWS[3], "download_mb") == ROWS[3].file_mb + 1
    assert [limits.kept_by(each) for each in ROWS] == [False, False, False, False, False, False, True]
    made = planned(limits, ROWS[6], budget)
    assert plan_table(made).head[5:8] == ["Download", "RAM", "Kept"]
    assert (made.beside_mb, made.cost_line) == (1.0, "file_mb")
    assert Limits.of_plan(made) == limits


def test_front_leaves_out_what_another_beats_and_what_misses_other_lines():
    told = [each.shape for each in plan(latency_p50_ms=6.5).front]
    assert told == [ROWS[i].shape for i in (6, 5, 3, 1, 0)]
    assert [each.shape for each in plan(latency_p50_ms=6.5, file_mb=10).front] == [ROWS[i].shape for i in (6, 5, 3)]


def test_widths_that_hardware_dislikes_are_named():
    (slower,) = plan(latency_p50_ms=6.5).slower
    assert (slower.narrow.shape.hidden_size, slower.wide.shape.hidden_size) == (224, 256)


def test_a_little_more_buys_what_then_fits():
    (more,) = plan(latency_p50_ms=5.5).more
    assert (more.line, more.limit, more.buys.shape) == ("latency_p50_ms", 6.5, ROWS[1].shape)


def test_package_that_costs_more_than_planned_leads_to_a_narrower_shape():
    found = plan(latency_p50_ms=6.5)
    assert narrower(found, ROWS[1], {"latency_p50_ms": 1.3}) is ROWS[3]  # 6 measured as 8.45: all 1.41 times dearer
    assert narrower(found, ROWS[1], {"latency_p50_ms": 2.0}) is ROWS[6]
    assert narrower(found, ROWS[6], {"latency_p50_ms": 1.1}) is None
    assert narrower(found, ROWS[4], {"latency_p50_ms": 1.3}) is None  # more layers are not to be had by pruning


def test_room_to_spare_names_a_wider_shape():
    found = plan(latency_p50_ms=5.5)
    assert wider(found, ROWS[3], {"latency_p50_ms": 0.5}) is ROWS[1]
    assert wider(found, ROWS[3], {"latency_p50_ms": 0.9}) is None
    assert wider(found, ROWS[3], {"latency_p50_ms": 0.5}, [ROWS[1].shape]) is ROWS[2]  # the other one missed


def test_a_machine_that_drifts_leaves_more_room():
    limits = replace(limits_of(latency_p50_ms=6.5, file_mb=20), drift=0.2)
    assert (limits.margin("latency_p50_ms"), limits.margin("file_mb")) == (0.1, 0.005)
    assert limits.missed_by(ROWS[1]) == ["latency_p50_ms"]
    assert limits.missed_by(ROWS[1], margin=False) == []
    assert replace(limits, drift=9.0).margin("latency_p50_ms") == 0.125


def test_json_keeps_it():
    one = plan(latency_p50_ms="2x", file_mb=10)
    document = json.loads(to_json(one))
    assert parse_document(document, Plan, where="plan.json") == one
    assert document["choice"]["shape"]["head_dim"] == 32
    assert document["budget"] == {"latency_p50_ms": "2x", "file_mb": 10.0}
    measured = one.model_copy(update={"choice": one.choice.model_copy(update={"measured": True})})
    assert parse_document(json.loads(to_json(measured)), Plan, where="plan.json").choice.measured
    with pytest.raises(PackageError, match=r"schema version 1\.0"):
        parse_document(document | {"schema_version": "1.0"}, Plan, where="plan.json")
