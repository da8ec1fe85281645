"""Lines of a budget: units are parsed strictly, shares are the teacher's."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from homoexport.documents.budget import Budget, is_kept, judge


@pytest.mark.parametrize(
    ("line", "given", "expected"),
    [
        ("latency_p95_ms", 8, 8.0),
        ("latency_p95_ms", "8", 8.0),
        ("latency_p95_ms", "8ms", 8.0),
        ("latency_p99_ms", "0.5 s", 500.0),
        ("latency_p50_ms", "500us", 0.5),
        ("latency_p50_ms", "4x", "4x"),
        ("file_mb", "12MB", 12.0),
        ("file_mb", "1MiB", 1.048576),
        ("file_mb", "25%", "25%"),
        ("peak_rss_mb", "80000kB", 80.0),
        ("throughput_per_s", "200/s", 200.0),
        ("parameters", "10M", 10e6),
        ("parameters", "2.5 B", 2.5e9),
    ],
)
def test_what_people_write(line, given, expected):
    assert Budget(**{line: given}).lines() == {line: expected}


@pytest.mark.parametrize(
    ("line", "given"),
    [
        *[
            ("latency_p95_ms", bad)
            for bad in ("8 parsecs", "8MB", "ms", "-8ms", "0ms", "0x", "1e3ms", "8 m s", "nan", True)
        ],
        *[("file_mb", bad) for bad in ("12 ms", "12mb", 0, -1, float("inf"))],
        *[("throughput_per_s", bad) for bad in ("200/h", "200 ms")],
        *[("parameters", bad) for bad in ("10MB", "ten", "0")],
    ],
)
def test_anything_else_is_refused(line, given):
    with pytest.raises(ValidationError):
        Budget(**{line: given})


def test_mistake_is_told_with_what_to_write():
    with pytest.raises(
        ValidationError, match=r"'8 parsecs' is no time; write 8ms, or relative to the teacher: 4x, 25%"
    ):
        Budget(latency_p95_ms="8 parsecs")


def test_shares_follow_the_teachers_figures():
    budget = Budget(latency_p95_ms="4x", file_mb="10%", throughput_per_s="4x", peak_rss_mb=80)
    assert budget.relative == ("latency_p95_ms", "throughput_per_s", "file_mb")
    teacher = {"latency_p95_ms": 40.0, "file_mb": 90.0, "throughput_per_s": 25.0}
    limits = {"latency_p95_ms": 10.0, "throughput_per_s": 100.0, "file_mb": 9.0, "peak_rss_mb": 80.0}
    assert budget.limits(teacher) == pytest.approx(limits)


def test_throughput_is_a_line_from_below():
    (kept,) = judge(Budget(throughput_per_s="100/s"), {"throughput_per_s": 120.0})
    (missed,) = judge(Budget(throughput_per_s="2x"), {"throughput_per_s": 120.0}, reference={"throughput_per_s": 100.0})
    assert (kept.kept, kept.at_least, missed.kept, missed.limit) == (True, True, False, 200.0)
    assert is_kept([kept]) is True
    assert is_kept([kept, missed]) is False


def test_a_relative_limit_keeps_what_it_was_asked_as():
    (line,) = judge(Budget(latency_p95_ms="3x"), {"latency_p95_ms": 17.3}, reference={"latency_p95_ms": 46.2})
    assert (line.limit, line.teacher, line.asked, line.kept) == (pytest.approx(15.4), 46.2, "3x", False)
    (plain,) = judge(Budget(latency_p95_ms=8), {"latency_p95_ms": 7.0}, reference={"latency_p95_ms": 46.2})
    assert (plain.teacher, plain.asked) == (None, None)


@pytest.mark.parametrize(
    ("measured", "quiet_share", "kept"),
    [(7.2, 1.0, True), (7.2, 0.0, True), (10.2, 1.0, False), (10.2, 0.6, False), (10.2, 0.0, None)],
)
def test_a_time_beside_other_work_is_never_missed(measured, quiet_share, kept):
    """Other work only adds to it, so that what is kept all the same is kept."""
    figures = {"latency_p95_ms": measured, "file_mb": 11.0}
    time, file = judge(Budget(latency_p95_ms=8, file_mb=10), figures, quiet_share=quiet_share)
    assert (time.kept, time.quiet_share) == (kept, quiet_share)
    assert (file.kept, file.quiet_share) == (False, 1.0)


def test_a_time_relative_to_the_teachers_is_not_called_beside_other_work():
    """It slows the teacher as well, by what nobody knows."""
    figures, reference = {"latency_p95_ms": 7.2}, {"latency_p95_ms": 46.2}
    assert judge(Budget(latency_p95_ms="3x"), figures, reference=reference, quiet_share=0.0)[0].kept is None
    rates = {"throughput_per_s": 90.0}
    assert judge(Budget(throughput_per_s=100), rates, quiet_share=0.0)[0].kept is None
