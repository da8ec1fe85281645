from __future__ import annotations

from typing import Any

import numpy as np

from homoexport.documents.student import StepRecord
from homoexport.report.plots import homotopy_figure, latency_figure, terms_figure
from tests.report.conftest import typed


def test_widths_and_gap_are_the_logs(log: list[StepRecord]) -> None:
    above, below = homotopy_figure(log, log[0].widths).axes
    lines = {line.get_label(): line.get_ydata() for line in above.get_lines()}
    assert lines["hidden size: 384 to 192"][[0, -1]].tolist() == [100, 50]
    assert lines["head dimension: 32 to 32"].tolist() == [100] * len(log)
    raw, mean = below.get_lines()
    gap = np.array([line.gap for line in log])
    np.testing.assert_array_equal(raw.get_ydata(), gap)
    np.testing.assert_allclose(mean.get_ydata()[100], gap[98:103].mean())
    assert "mean over 5 steps" in below.get_xlabel()


def test_every_active_term_has_its_own_axes(log: list[StepRecord]) -> None:
    axes = terms_figure(log).axes
    assert [one.get_title(loc="left") for one in axes] == ["task", "hidden states", "attention", "embeddings"]
    np.testing.assert_array_equal(axes[2].get_lines()[0].get_ydata(), [line.terms["attention"] for line in log])


def test_a_term_that_a_stage_or_a_batch_lacks_has_a_gap_there(log: list[StepRecord]) -> None:
    first, *rest = log
    lacking = first.model_copy(update={"terms": {name: first.terms[name] for name in first.terms if name != "task"}})
    axes = next(axes for axes in terms_figure([lacking, *rest]).axes if axes.get_title(loc="left") == "task")
    drawn = axes.lines[0].get_ydata()
    assert np.isnan(drawn[0])
    assert list(drawn[len(rest) // 2 :]) == [each.terms["task"] for each in log][len(rest) // 2 :]


def test_a_log_of_one_line_can_be_drawn(log: list[StepRecord]) -> None:
    (line,) = homotopy_figure(log[:1], log[0].widths).axes[1].get_lines()
    assert line.get_ydata().tolist() == [0.0]
    assert len(terms_figure(log[:1]).axes) == 4


def test_bars_are_the_measured_latencies(measurement: dict[str, Any]) -> None:
    (axes,) = latency_figure(typed(measurement), labels=["teacher", "student"]).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [result[f"latency_p{p}_ms"] for p in (50, 95) for result in measurement["results"]]
    assert axes.get_title(loc="left") == "The student is 4.50x faster (4.40 to 4.62) at p50"
