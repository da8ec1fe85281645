from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.summary import Summary
from homoexport.report import measurement_table, summary_table, verdict_lines
from homoexport.report.wording import megabytes, number, parameters, ratio
from tests.report.conftest import typed


def verdict(
    line: str, limit: float, measured: float, kept: bool | None, interval: tuple[float, float] | None = None
) -> BudgetVerdict:
    return BudgetVerdict(line=line, limit=limit, measured=measured, interval=interval, kept=kept)


def test_a_share_of_the_teachers_quality_is_told_as_one() -> None:
    kept = verdict("quality.ndcg@10", 0.9 * 0.766, 0.753, True, (0.678, 0.822))
    (line,) = verdict_lines(
        [kept.model_copy(update={"teacher": 0.766, "share_interval": (0.946, 1.021), "asked": "90%"})]
    )
    told = "0.753, 98.3 % (94.6 to 102.1) of the teacher's 0.766 of at least 90 % of 0.766 = 0.689"
    assert str(line) == f"Quality (ndcg@10): {told}: kept"


def _render(table: object, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0, "0"),
        (0.0012345, "0.00123"),
        (0.5, "0.500"),
        (9.999, "10.0"),
        (17.26, "17.3"),
        (123.45, "123"),
        (98765.4, "98,765"),
        (-2.5, "-2.50"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_digits(value: float, wanted: str) -> None:
    assert number(value) == wanted


def test_units() -> None:
    assert (parameters(22_713_216), parameters(4_400)) == ("22.7 M", "4.40 k")
    assert megabytes(91_000_000) == "91.0 MB"


def test_a_ratio_below_one_is_told_the_other_way_round() -> None:
    assert ratio(4.5, "faster", "slower", (4.4, 4.62)) == "4.50x faster (4.40 to 4.62)"
    assert ratio(0.25, "faster", "slower", (0.2, 0.5)) == "4.00x slower (2.00 to 5.00)"
    assert ratio(0.98, "faster", "slower", (0.9, 1.1)) == "0.980x (0.900 to 1.10), no clear difference"


def test_summary_table_sets_teacher_against_student(summary: Summary) -> None:
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]]
        for line in _render(summary_table(summary), 120).splitlines()
        if "│" in line
    }
    assert cells["Parameters"] == ["22.7 M", "8.67 M", "2.62x fewer"]
    assert cells["File"] == ["91.0 MB", "9.10 MB", "10.0x smaller"]
    assert cells["Latency p50"][2] == "4.50x faster (4.40 to 4.62)"
    assert cells["Peak memory"] == ["246 MB", "82.0 MB", "3.00x less"]
    assert any("0.874 (0.861 to 0.886)" in row[1] for row in cells.values())


def test_tables_fit_a_narrow_terminal(summary: Summary, measurement: dict[str, Any]) -> None:
    for table in (summary_table(summary), measurement_table(typed(measurement))):
        lines = _render(table, 80).splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)


def test_measurement_table_names_conditions_and_speedup(measurement: dict[str, Any]) -> None:
    text = _render(measurement_table(typed(measurement)))
    assert "cpu, 1 thread, 1 x 128 tokens" in text
    assert "4.50x (4.40 to 4.62)" in text
    alone = _render(measurement_table(typed({**measurement, "results": measurement["results"][:1], "comparisons": []})))
    assert "Against the first" not in alone
    assert "246 MB" in alone


def test_verdict_lines() -> None:
    lines = verdict_lines(
        [
            verdict("latency_p95_ms", 25.0, 21.34, None, (20.0, 26.5)),
            verdict("file_mb", 10.0, 9.1, True),
            verdict("peak_rss_mb", 80.0, 82.0, False),
        ]
    )
    assert [str(line) for line in lines] == [
        "Latency p95: 21.3 ms (20.0 to 26.5) of 25.0 ms: too noisy to call",
        "File: 9.10 MB of 10.0 MB: kept",
        "Peak memory: 82.0 MB of 80.0 MB: missed",
    ]
