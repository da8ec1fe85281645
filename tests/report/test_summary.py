from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homoexport.documents.budget import BudgetVerdict, is_kept
from homoexport.documents.document import read_document, write_document
from homoexport.documents.evaluation import PackageQuality, RunQuality
from homoexport.documents.summary import Summary
from homoexport.report.run import summary_rows
from homoexport.report.wording import conditions
from homoexport.workflow.summary import summarize
from tests.report.conftest import typed


def _verdicts(*kept: bool | None) -> list[BudgetVerdict]:
    return [BudgetVerdict(line="file_mb", limit=10.0, measured=9.0, interval=None, kept=line) for line in kept]


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [([], True), ([True, True], True), ([True, None], None), ([None, False], False), ([False], False)],
)
def test_a_missed_line_outweighs_a_noisy_one(kept: list[bool | None], wanted: bool | None) -> None:
    assert is_kept(_verdicts(*kept)) is wanted


def test_summary_is_read_as_it_was_written(summary: Summary, tmp_path: Path) -> None:
    write_document(tmp_path / "summary.json", summary)
    assert read_document(tmp_path / "summary.json", Summary) == summary


def test_summary_holds_the_measured_figures(summary: Summary, measurement: dict[str, Any]) -> None:
    for who, result in zip(("teacher", "student"), measurement["results"], strict=True):
        for figure in ("parameters", "file_bytes", "latency_p50_ms", "latency_p95_ms", "peak_rss_mb"):
            assert getattr(getattr(summary, who), figure) == result[figure]
    assert (summary.teacher.quality, summary.student.quality) == (1.0, 0.874)
    assert summary.quality_detail.student.interval == (0.861, 0.886)
    assert summary.ratios.model_dump() == {
        "parameters": pytest.approx(2.6211),
        "file_bytes": pytest.approx(10.0),
        "peak_rss_mb": pytest.approx(3.0),
        "latency_p50_ms": 4.5,
        "latency_p50_interval": (4.4, 4.62),
    }
    assert summary.budget_kept is True
    assert summary.measured.model_dump() == {
        **{"device": "cpu", "emulated": False, "threads": 1},
        **{"batch_size": 1, "length": 128},
    }


_FIGURE = PackageQuality(package="p", metric="m", value=1.0)
QUALITY = RunQuality(teacher=_FIGURE, student=_FIGURE)
REST: dict[str, Any] = {"name": "n", "teacher": "t", "recipe_digest": "", "quality": QUALITY}
REST |= {"verdicts": [], "seconds": {}}


def test_a_measurement_in_another_order_is_a_bug(measurement: dict[str, Any], packages: Any) -> None:
    measurement["results"].reverse()
    with pytest.raises(AssertionError):
        summarize(**REST, packages=packages, measurement=typed(measurement))


def test_a_teacher_that_does_not_fit_leaves_its_figures_out(measurement: dict[str, Any], packages: Any) -> None:
    """A device with too little memory for the teacher is what a student is made for."""
    del measurement["results"][0]
    measurement["comparisons"] = []
    found = summarize(**REST, packages=packages, measurement=typed(measurement))
    assert found.teacher.file_bytes == 91_000_000
    assert found.teacher.latency_p50_ms is None
    assert found.student.peak_rss_mb == 82.0
    assert found.ratios.file_bytes == 10.0
    assert (found.ratios.peak_rss_mb, found.ratios.latency_p50_ms) == (None, None)
    rows = {label: cells for label, *cells in summary_rows(found)}
    assert rows["Latency p50"][0] == "does not fit"
    assert rows["Peak memory"][::2] == ["does not fit", ""]


def test_an_emulators_times_make_no_ratio(measurement: dict[str, Any], packages: Any) -> None:
    measurement |= {"emulated": True, "comparisons": []}
    found = summarize(**REST, packages=packages, measurement=typed(measurement))
    assert found.ratios.latency_p50_ms is None
    assert found.ratios.peak_rss_mb == 3.0
    assert {label: cells for label, *cells in summary_rows(found)}["Latency p50"][-1] == ""
    assert "(emulated)" in conditions(found.measured)
