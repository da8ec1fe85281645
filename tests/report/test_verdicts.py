"""Verdicts in a headline, in rows, and with what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homoexport.documents.budget import BudgetVerdict, is_kept
from homoexport.documents.summary import Summary
from homoexport.report import next_steps, side_by_side_table, verdict_lines, write_report
from homoexport.report.run import summary_rows
from homoexport.report.verdicts import headline
from homoexport.report.wording import verdict_word
from tests.report.conftest import typed

ACCURACY = BudgetVerdict(
    line="quality.accuracy",
    limit=0.95 * 0.831,
    measured=0.772,
    interval=(0.745, 0.799),
    kept=False,
    teacher=0.831,
    share_interval=(0.908, 0.949),
    asked="95%",
    data="sst2 dev",
)
LATENCY = BudgetVerdict(
    line="latency_p95_ms",
    limit=15.4,
    measured=17.3,
    interval=(17.0, 17.6),
    kept=False,
    teacher=46.2,
    asked="3x",
)


def told_of(summary: Summary, *verdicts: BudgetVerdict, **changes: Any) -> Summary:
    kept = is_kept(verdicts)
    return summary.model_copy(update={"budget": verdicts, "budget_kept": kept, **changes})


def test_a_floor_is_a_row_with_teacher_student_and_the_share_that_decided(summary: Summary) -> None:
    rows = {label: cells for label, *cells in summary_rows(told_of(summary, ACCURACY))}
    assert rows["Quality: accuracy, sst2 dev"] == ["0.831", "0.772", "92.9 % (90.8 to 94.9)"]
    figure = ACCURACY.model_copy(update={"share_interval": None, "asked": None, "limit": 0.75})
    rows = {label: cells for label, *cells in summary_rows(told_of(summary, figure))}
    assert rows["Quality: accuracy, sst2 dev"] == ["0.831", "0.772 (0.745 to 0.799)", "92.9 %"]


def test_a_floor_under_what_is_judged_anyway_is_one_row(summary: Summary) -> None:
    """Fidelity on held-out text has a row in any run."""
    floor = ACCURACY.model_copy(
        update={"line": "quality.similarity_spearman", "data": "held-out text", "teacher": 1.0, "share_interval": None}
    )
    floor = floor.model_copy(update={"measured": 0.874, "interval": (0.861, 0.886), "kept": None})
    rows = [row for row in summary_rows(told_of(summary, floor)) if row[0].startswith("Quality")]
    assert rows == [("Quality: Spearman with teacher", "1.00", "0.874 (0.861 to 0.886)", "87.4 %")]


def test_a_limit_keeps_its_origin() -> None:
    share = LATENCY.model_copy(update={"asked": "25 %", "teacher": 61.6})
    lines = [str(line) for line in verdict_lines([LATENCY, share, ACCURACY])]
    assert lines == [
        "Latency p95: 17.3 ms (17.0 to 17.6) of 3x = 15.4 ms: missed",
        "Latency p95: 17.3 ms (17.0 to 17.6) of 25 % of 61.6 ms = 15.4 ms: missed",
        "Quality (accuracy, sst2 dev): 0.772, 92.9 % (90.8 to 94.9) of the teacher's 0.831 of at least "
        "95 % of 0.831 = 0.789: missed",
    ]


def test_times_beside_other_work_are_told_as_such() -> None:
    quiet = LATENCY.model_copy(update={"quiet_share": 0.6})
    never = LATENCY.model_copy(update={"quiet_share": 0.0, "kept": None})
    some, none = (str(line) for line in verdict_lines([quiet, never]))
    assert some == "Latency p95: 17.3 ms (17.0 to 17.6) in the 60 % of rounds that were quiet of 3x = 15.4 ms: missed"
    assert none == "Latency p95: 17.3 ms (17.0 to 17.6), while other work ran, of 3x = 15.4 ms: too noisy to call"


def test_the_headline_names_the_lines_that_are_missed() -> None:
    file = BudgetVerdict(line="file_mb", limit=10.0, measured=9.1, interval=None, kept=True)
    assert headline([file]) == "The budget is kept."
    assert headline([file, LATENCY]) == (
        "The budget is missed: Latency p95 is 17.3 ms (17.0 to 17.6), where at most 3x = 15.4 ms was asked for."
    )
    assert "accuracy, sst2 dev" in headline([LATENCY, ACCURACY])


def test_noise_and_closeness_are_not_the_same() -> None:
    noisy, close = (each.model_copy(update={"kept": None}) for each in (LATENCY, ACCURACY))
    told = headline([noisy, close])
    assert told.startswith("Too noisy to call: Latency p95")
    assert "Too close to call: Quality (accuracy, sst2 dev)" in told
    assert headline([close]).startswith("Too close to call")
    assert verdict_word(close) == verdict_word(close, ACCURACY.model_copy(update={"kept": True})) == "too close to call"
    assert verdict_word(close, noisy) == "too noisy to call"
    assert verdict_word(close, LATENCY) == "missed"


def test_runs_side_by_side_are_told_in_the_same_words(summary: Summary) -> None:
    noisy, close = (told_of(summary, each.model_copy(update={"kept": None})) for each in (LATENCY, ACCURACY))
    assert side_by_side_table({"one": close, "two": noisy}).rows[0] == (
        "Budget",
        "too close to call",
        "too noisy to call",
    )


def test_a_quality_that_is_too_close_to_call_asks_for_examples_and_no_quiet_machine(summary: Summary) -> None:
    close = ACCURACY.model_copy(update={"kept": None})
    (step,) = next_steps(told_of(summary, close))
    assert step.startswith(
        "Quality (accuracy, sst2 dev): judge on more examples (quality.data), or train for more steps"
    )
    assert "quiet" not in step
    assert "nothing else runs" not in step
    assert str(verdict_lines([close])[0]).endswith(": too close to call")


def test_a_teacher_that_learned_nothing_comes_first(summary: Summary) -> None:
    missed = ACCURACY.model_copy(update={"teacher": -0.2, "limit": -0.1, "measured": -0.3})
    (step,) = next_steps(told_of(summary, missed))
    assert "the teacher itself is no better than chance" in step
    assert "finetune.epochs" in step


def test_each_missed_line_has_a_next_step(summary: Summary) -> None:
    quality, latency = next_steps(told_of(summary, ACCURACY, LATENCY, quality_metric="label_agreement"))
    for way in ("distill.steps", "wider shape", "homoexport finetune", "distill.int8_share"):
        assert way in quality
    assert "run --plan" in latency
    plain = summary.student.model_copy(update={"precision": "fp32"})
    quality, latency = next_steps(told_of(summary, ACCURACY, LATENCY, student=plain))
    assert "int8_share" not in quality
    assert "finetune" not in quality  # which learns no vectors
    assert "export.quantize" in latency
    noisy = LATENCY.model_copy(update={"kept": None, "quiet_share": 0.0})
    (again,) = next_steps(told_of(summary, noisy))
    at = "homoexport bench --device cpu --threads 1 --batch-size 1 --length 128"
    assert again.endswith(f", from this folder: {at} 0-teacher 2-onnx --latency-p95 3x")
    plain_line = noisy.model_copy(update={"asked": None, "teacher": None, "limit": 8.0})
    (again,) = next_steps(told_of(summary, plain_line), Path("runs/a b"))
    assert again.endswith(f"runs there: {at} 'runs/a b/2-onnx' --latency-p95 8ms")
    kept = LATENCY.model_copy(update={"kept": True})
    assert next_steps(told_of(summary, kept)) == []


@pytest.mark.parametrize("line", ["file_mb", "download_mb", "peak_rss_mb", "parameters", "throughput_per_s"])
def test_every_line_of_a_budget_has_one(summary: Summary, line: str) -> None:
    missed = BudgetVerdict(line=line, limit=10.0, measured=19.1, interval=None, kept=False)
    (step,) = next_steps(told_of(summary, missed))
    assert len(step.partition(": ")[2]) > 10


def test_a_page_with_a_floor_on_a_task_says_nothing_against_it(
    run_dir: Path, summary: Summary, measurement: dict[str, Any]
) -> None:
    without = write_report(run_dir, summary, measurement=typed(measurement)).read_text()
    assert "It is not accuracy on your task" in without
    page = write_report(run_dir, told_of(summary, ACCURACY), measurement=typed(measurement)).read_text()
    assert "It is not accuracy on your task" not in page
    assert "- Quality on a task is accuracy, sst2 dev" in page
    assert "- Likeness to the teacher is Spearman's correlation" in page
    assert "| Quality: accuracy, sst2 dev | 0.831 | 0.772 | 92.9 % (90.8 to 94.9) |" in page
    assert page.splitlines()[2].startswith("**The budget is missed: Quality (accuracy, sst2 dev) is 0.772")
    assert "Next: Quality (accuracy, sst2 dev): train for more steps" in page
