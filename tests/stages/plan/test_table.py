"""Whole models predicted from small ones: exact where costs are sums, as they are taken to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from homoexport.documents.document import parse_document, to_json
from homoexport.documents.plan import Cost, MeasuredTable, PlanMemory, ShapeCost
from homoexport.shape import Shape
from homoexport.stages.plan.shapes import hidden_sizes
from homoexport.stages.plan.table import DEEP, ONE, Table, outliers, shapes_to_measure


def cost(shape: Shape) -> Cost:
    """A target whose costs are the sums that the table takes them for."""
    hidden, ffn, heads = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads
    layer = 1e-6 * (4 * hidden**2 + 2 * hidden * ffn) + 0.002 * heads + 0.01
    p50 = 0.05 + 1e-4 * hidden + shape.num_hidden_layers * layer
    layer_mb = (4 * hidden**2 + 2 * hidden * ffn + 9 * hidden + ffn) / 1e6
    embedding_mb = 30_000 * hidden / 1e6
    peak = 60 + 1.2 * embedding_mb + 1.5 * shape.num_hidden_layers * layer_mb
    return Cost(
        latency_p50_ms=p50,
        latency_p95_ms=1.2 * p50,
        latency_p99_ms=1.5 * p50,
        latency_mean_ms=1.1 * p50,
        peak_rss_mb=peak,
        file_mb=embedding_mb + shape.num_hidden_layers * layer_mb + 0.01,
    )


def candidates() -> list[Shape]:
    return [
        Shape(layers, hidden, ratio * hidden, hidden // head_dim)
        for hidden in hidden_sizes(384)
        for ratio in (1, 2, 4)
        for head_dim in (16, 32)
        for layers in (2, 4, 6)
    ]


def table_of(drift: float = 0.02, change: Callable[[Cost], Cost] = lambda cost: cost) -> Table:
    """A table of small models, which cost what `change` makes of it."""
    measured = tuple(ShapeCost.of(shape, change(cost(shape))) for shape in shapes_to_measure(candidates()))
    return Table(MeasuredTable(batch_size=1, length=128, measured=measured, pace_ms=1.0, drift=drift))


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of()


def test_table_is_of_small_models_alone():
    shapes = shapes_to_measure(candidates())
    assert {shape.num_hidden_layers for shape in shapes} == {ONE, DEEP}
    assert len(shapes) == 3 * len(hidden_sizes(384)) + 5


def test_whole_models_follow(table):
    for shape in candidates():
        found, true = table.predict(shape), cost(shape)
        assert found.latency_p50_ms == pytest.approx(true.latency_p50_ms, rel=1e-6)
        assert found.latency_p95_ms == pytest.approx(1.2 * true.latency_p50_ms, rel=1e-6)
        assert found.latency_p99_ms == pytest.approx(1.5 * true.latency_p50_ms, rel=1e-6)
        assert found.file_mb == pytest.approx(true.file_mb, rel=1e-6)
        assert found.peak_rss_mb == pytest.approx(true.peak_rss_mb, rel=1e-3)


def test_between_two_widths_it_is_a_line(table):
    shape = Shape(6, 176, 640, 11)
    low, high = (replace(shape, hidden_size=hidden) for hidden in (160, 192))
    middle = (cost(low).latency_p50_ms + cost(high).latency_p50_ms) / 2
    assert table.predict(shape).latency_p50_ms == pytest.approx(middle, rel=1e-6)
    assert table.predict(shape).latency_p50_ms == pytest.approx(cost(shape).latency_p50_ms, rel=0.01)


def test_outside_of_the_table_nothing_is_told(table):
    with pytest.raises(ValueError, match="48 is not between 64 and 384"):
        table.predict(Shape(6, 48, 192, 3))


def test_json_keeps_it(table):
    kept = PlanMemory(table=table.figures)
    assert parse_document(json.loads(to_json(kept)), PlanMemory, where="cache") == kept


def test_widths_to_consider_have_an_odd_one():
    assert 240 in hidden_sizes(768)
    assert hidden_sizes(384)[0] == 64
    assert hidden_sizes(384)[-1] == 384


def test_nothing_is_predicted_to_take_no_time_however_restless_the_machine():
    shapes = shapes_to_measure(candidates())
    widest = {
        max(shape for shape in shapes if shape.hidden_size == hidden) for hidden in {s.hidden_size for s in shapes}
    }
    measured = tuple(
        ShapeCost.of(shape, cost(shape).times({"latency_p50_ms": 1.0 if shape in widest else 1e-6})) for shape in shapes
    )
    table = Table(MeasuredTable(batch_size=1, length=128, measured=measured, pace_ms=1.0, drift=0.9))
    assert all(table.predict(shape).latency_p50_ms > 0 for shape in candidates() if table.covers(shape))


def test_models_far_from_their_neighbours_line_are_outliers(table):
    assert outliers(table.measured) == []
    deep = sorted(
        (shape for shape in table.measured if shape.num_hidden_layers == DEEP and shape.hidden_size == 192),
        key=lambda shape: (shape.intermediate_size, shape.num_attention_heads),
    )
    odd = deep[-1]
    measured = {**table.measured, odd: table.measured[odd].times({"latency_p50_ms": 1.72})}
    found = outliers(measured)
    assert odd in found
    assert {shape.num_hidden_layers for shape in found} == {DEEP}
    assert all(abs(shape.hidden_size - 192) <= 64 for shape in found)  # its neighbours may look odd beside it
    for end in (min, max):
        last = end(table.measured, key=lambda shape: (shape.num_hidden_layers, shape.hidden_size))
        slow = {**table.measured, last: table.measured[last].times({"latency_p50_ms": 4.0})}
        assert last in outliers(slow)


def test_doubt_is_of_what_is_predicted_from_a_suspect_model(table):
    (suspect,) = [shape for shape in table.measured if shape.num_hidden_layers == ONE and shape.hidden_size == 192] or [
        next(shape for shape in table.measured if shape.hidden_size == 192)
    ]
    doubted = Table(table.figures.model_copy(update={"suspect": (suspect,)}))
    sizes = sorted({shape.hidden_size for shape in table.measured})
    place = sizes.index(192)
    for hidden, is_doubted in (
        (192, True),
        (sizes[place + 1], False),
        (sizes[place] + 1, True),
        (sizes[place - 2], False),
    ):
        assert doubted.doubts(Shape(6, hidden, hidden, 4)) is is_doubted
    assert not table.doubts(Shape(6, 192, 192, 4))
