"""The choice is what keeps the budget when it is measured whole; predictions are corrected by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from homoexport.documents.plan import Check, Cost, Row
from homoexport.encoder import load_encoder
from homoexport.errors import BudgetError
from homoexport.shape import Shape
from homoexport.stages.plan.choice import Limits
from homoexport.stages.plan.lab import Lab
from homoexport.stages.plan.planner import _beside_mb, _checked, _refuse_hopeless
from homoexport.stages.plan.table import DEEP, ONE, Table
from tests.conftest import tiny_bert, tiny_tokenizer
from tests.stages.plan.test_table import candidates, cost, table_of


class FakeLab:
    """A target whose whole models cost what `true` says of the prediction; None where one does not fit."""

    def __init__(self, true: Callable[[Shape, Cost], Cost | None]) -> None:
        self.true = true
        self.asked: list[list[Shape]] = []

    def whole(self, shapes: Sequence[Shape], table: Table) -> dict[Shape, Cost]:
        self.asked.append(list(shapes))
        measured = {shape: self.true(shape, table.predict(shape)) for shape in shapes}
        return {shape: figures for shape, figures in measured.items() if figures is not None}

    def is_disturbed(self, shape: Shape) -> bool:
        """The first one that was asked for."""
        return shape == self.asked[0][0]


def slower(figures: Cost, factor: float) -> Cost:
    names = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms")
    return figures.times(dict.fromkeys(names, factor))


def with_p95(cost: Cost, tail: float) -> Cost:
    return cost.with_figures({"latency_p95_ms": tail * cost.latency_p50_ms})


@pytest.fixture(scope="module")
def table() -> Table:
    return table_of(drift=0.0)


def checked(
    table: Table, true: Callable[[Shape, Cost], Cost | None], **limits: float
) -> tuple[list[Row], Row, list[Check], FakeLab]:
    rows = [
        Row(
            **table.predict(shape).figures,
            shape=shape,
            parameters=0,
            retained=volume(shape) / 1e7,
        )
        for shape in candidates()
    ]
    lab = FakeLab(true)
    return *_checked(cast(Lab, lab), table, rows, Limits(limits, 1)), lab


def volume(shape: Shape) -> int:
    return shape.num_hidden_layers * shape.hidden_size * shape.intermediate_size


def best_by(true: Callable[[Shape], float], limit: float) -> Shape:
    """What keeps most of what takes at most so long, in truth."""
    fits = [shape for shape in candidates() if true(shape) <= 0.96 * limit]
    return max(fits, key=lambda shape: (volume(shape), -true(shape)))


def test_right_predictions_end_at_once(table):
    rows, choice, checks, lab = checked(table, lambda _shape, predicted: predicted, latency_p50_ms=4.0)
    assert choice.measured
    assert choice.shape == best_by(lambda shape: cost(shape).latency_p50_ms, 4.0)
    assert len(lab.asked) == 1
    assert len(checks) == len(lab.asked[0]) == 3
    assert [row.shape for row in rows if row.suspect] == [choice.shape]
    assert max(abs(check.error) for check in checks) < 1e-9
    assert len(rows) == len(candidates())


def test_all_are_corrected_by_what_whole_models_cost(table):
    rows, choice, checks, _ = checked(table, lambda _shape, predicted: slower(predicted, 1.5), latency_p50_ms=4.0)
    assert choice.measured
    assert choice.shape == best_by(lambda shape: 1.5 * cost(shape).latency_p50_ms, 4.0)
    assert [check.error for check in checks] == pytest.approx([1 / 1.5 - 1] * len(checks))
    for row in rows:
        assert row.latency_p50_ms == pytest.approx(1.5 * cost(row.shape).latency_p50_ms)


def test_a_choice_that_is_dearer_than_it_seemed_is_followed_by_another(table):
    first = best_by(lambda shape: cost(shape).latency_p50_ms, 4.0)
    _, choice, checks, lab = checked(
        table, lambda shape, predicted: slower(predicted, 1.2 if shape == first else 1.0), latency_p50_ms=4.0
    )
    assert lab.asked[0][0] == first
    assert choice.shape != first
    assert choice.measured
    assert choice.latency_p50_ms <= 4.0
    assert {check.shape for check in checks} >= {first, choice.shape}


def test_tails_are_those_of_the_calmer_time(table):
    drifting = table_of(drift=0.3, change=lambda cost: with_p95(cost, 3))

    def true(_shape: Shape, predicted: Cost) -> Cost:
        return with_p95(predicted, 1.3)

    rows, choice, checks, _ = checked(drifting, true, latency_p95_ms=5.0)
    assert checks[0].errors["latency_p95_ms"] == pytest.approx(3 / 1.3 - 1)
    for row in (*rows, choice):
        assert row.latency_p95_ms == pytest.approx(1.3 * row.latency_p50_ms)
    assert choice.measured
    assert choice.latency_p95_ms <= 5.0

    def true_now(_shape: Shape, predicted: Cost) -> Cost:
        return with_p95(predicted, 9)

    _, choice, checks, _ = checked(table, true_now, latency_p95_ms=5.0)
    assert choice.latency_p95_ms == pytest.approx(1.2 * choice.latency_p50_ms)
    assert checks[0].errors["latency_p95_ms"] == pytest.approx(1.2 / 9 - 1)
    assert checks[0].errors["peak_rss_mb"] == pytest.approx(0)


def test_what_does_not_fit_takes_all_that_need_as_much_along(table):
    def true(_shape: Shape, predicted: Cost) -> Cost | None:
        return predicted if predicted.peak_rss_mb < 70 else None

    rows, choice, _, lab = checked(table, true, latency_p50_ms=100.0)
    assert choice.measured
    assert choice.peak_rss_mb < 70
    assert len(lab.asked) <= 6
    assert len(rows) < len(candidates())
    with pytest.raises(BudgetError, match="no student fits into its memory"):
        checked(table, lambda _shape, _predicted: None, latency_p50_ms=100.0)


def test_where_no_choice_holds_the_best_that_was_measured_and_keeps_the_budget_is_taken(table):
    def true(shape: Shape, predicted: Cost) -> Cost:
        return slower(predicted, 1.0 if shape.num_hidden_layers * shape.hidden_size < 600 else 3.0)

    _, choice, checks, lab = checked(table, true, latency_p50_ms=4.0)
    assert len(lab.asked) <= 5
    assert choice.measured
    measured = {check.shape: check.measured for check in checks}
    assert measured[choice.shape].latency_p50_ms <= 4.0


def test_a_budget_that_whole_models_miss_is_refused_with_what_the_nearest_needs(table):
    with pytest.raises(BudgetError, match=r"no student keeps latency_p50 0\.8 ms: the nearest \(.*--fresh"):
        checked(table, lambda _shape, predicted: slower(predicted, 9.0), latency_p50_ms=0.8)


def sentence_encoder(task: str = "sentence-similarity") -> Any:
    return SimpleNamespace(task=task, model=SimpleNamespace(config=SimpleNamespace(vocab_size=30522)))


@pytest.mark.parametrize("remembered", [True, False])
def test_what_is_refused_was_measured_now(table, remembered):
    """A refusal that rests on what was remembered, or seen at a glance, is made sure of first."""
    calls: list[bool] = []

    class Early:
        encoder = sentence_encoder()

        def alone(self, shapes: Sequence[Shape], *, again: bool, glance: bool) -> tuple[dict[Shape, Cost], bool]:
            assert glance is not again
            calls.append(again)
            assert [shape.num_hidden_layers for shape in shapes] == [ONE, DEEP]
            pace = 50.0 if remembered and not again else 1.0  # the machine was busy then
            return {shape: slower(cost(shape), pace) for shape in shapes}, remembered and not again

    def refuse(limit: float) -> Any:
        return _refuse_hopeless(cast(Lab, Early()), Limits({"latency_p50_ms": limit}, 1), candidates(), lambda _s: 0)

    refuse(5.0)
    assert calls == ([False, True] if remembered else [False])
    with pytest.raises(BudgetError, match="the smallest"):
        refuse(0.001)


def test_beside_a_graph_a_browser_downloads_tokenizer_and_configuration(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    whole = sum((tmp_path / name).stat().st_size for name in names) / 1e6
    assert _beside_mb(load_encoder(str(tmp_path), task="feature-extraction")) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(
    ("limits", "task", "told"),
    [
        ({"latency_p95_ms": 0.001}, "sentence-similarity", True),
        ({"latency_p95_ms": 0.001, "file_mb": 8.0}, "sentence-similarity", True),
        ({"latency_p95_ms": 0.001, "file_mb": 7.0}, "sentence-similarity", False),  # they take 7.8 MB
        ({"latency_p95_ms": 0.001, "download_mb": 8.0}, "sentence-similarity", True),
        ({"latency_p95_ms": 0.001, "download_mb": 7.0}, "sentence-similarity", False),
        ({"latency_p95_ms": 0.001, "parameters": 7e6}, "sentence-similarity", False),
        ({"file_mb": 1e-6}, "sentence-similarity", False),  # nothing is smaller than the smallest student's own words
        ({"latency_p95_ms": 0.001}, "text-classification", False),
    ],
)
def test_where_time_is_too_short_for_any_student_static_word_vectors_are_told(limits, task, told):
    lab = SimpleNamespace(
        encoder=sentence_encoder(task),
        alone=lambda shapes, again, glance: ({shape: cost(shape) for shape in shapes}, False),
    )
    with pytest.raises(BudgetError) as caught:
        _refuse_hopeless(cast(Lab, lab), Limits(limits, 1), candidates(), lambda _s: 0)
    assert ("the mean of static word vectors (of 256 in int8: 7.8 MB)" in str(caught.value)) is told
