"""A run in figures: what `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homoexport.budget import Verdict

SCHEMA_VERSION = 1
_FIGURES = ("parameters", "file_bytes", "latency_p50_ms", "latency_p95_ms", "peak_rss_mb")


def budget_kept(verdicts: Sequence[Verdict]) -> bool | None:
    """False where a line is missed, None where none is but one is too noisy to call, else True."""
    if any(verdict.kept is False for verdict in verdicts):
        return False
    return None if any(verdict.kept is None for verdict in verdicts) else True


def _model(name: str, figures: Mapping[str, Any], quality: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "precision": figures["precision"],
        **{key: figures[key] for key in _FIGURES},
        "quality": quality["value"],
    }


def _plain(verdict: Verdict) -> dict[str, Any]:
    line = verdict.as_json()
    return line | {"interval": list(verdict.interval) if verdict.interval else None}


def summarize(
    *,
    name: str,
    teacher: str,
    student: str,
    measurement: Mapping[str, Any],
    quality: Mapping[str, Mapping[str, Any]],
    verdicts: Sequence[Verdict],
    recipe_digest: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The summary of a run, JSON-ready.

    Args:
        name: of the run.
        teacher: the teacher's name.
        student: the student's name.
        measurement: a measurement as JSON, whose first result is the teacher's package and whose
            second is the student's.
        quality: for `teacher` and `student`: `metric`, `value`, and `interval` where there is one.
        verdicts: the budget's lines.
        recipe_digest: of the recipe.
        seconds: wall time of every stage.

    Returns:
        Figures of teacher and student, their ratios (how many times smaller or faster the student
        is), the verdicts, host and versions.
    """
    of_teacher, of_student = measurement["results"][:2]
    comparison = measurement["comparisons"][0]
    assert comparison["package"] == of_student["package"]
    assert comparison["against"] == of_teacher["package"]
    smaller = {key: of_teacher[key] / of_student[key] for key in ("parameters", "file_bytes", "peak_rss_mb")}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "teacher": _model(teacher, of_teacher, quality["teacher"]),
        "student": _model(student, of_student, quality["student"]),
        "ratios": {
            **smaller,
            "latency_p50_ms": comparison["speedup_p50"],
            "latency_p50_interval": list(comparison["interval"]),
        },
        "quality_metric": quality["student"]["metric"],
        "quality_detail": {model: dict(figures) for model, figures in quality.items()},
        "budget": [_plain(verdict) for verdict in verdicts],
        "budget_kept": budget_kept(verdicts),
        "recipe_digest": recipe_digest,
        "seconds": dict(seconds),
        "measured": {key: measurement[key] for key in ("device", "threads", "batch_size", "length")},
        "host": measurement["host"],
        "versions": measurement["versions"],
    }


def verdicts_of(summary: Mapping[str, Any]) -> list[Verdict]:
    """The budget's verdicts out of a summary that was read from JSON."""
    return [
        Verdict(**(line | {"interval": tuple(line["interval"]) if line["interval"] else None}))
        for line in summary["budget"]
    ]
