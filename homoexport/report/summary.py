"""A run in figures: what `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.evaluation import QualityFigure, RunQuality
from homoexport.documents.measurement import Measurement, PackageFigures
from homoexport.runtime.inference import PackageDetails

SCHEMA_VERSION = 1
_FIGURES = ("latency_p50_ms", "latency_p95_ms", "peak_rss_mb")


def budget_kept(verdicts: Sequence[BudgetVerdict]) -> bool | None:
    """False where a line is missed, None where none is but one is too noisy to call, else True."""
    if any(verdict.kept is False for verdict in verdicts):
        return False
    return None if any(verdict.kept is None for verdict in verdicts) else True


def _model(
    name: str, package: PackageDetails, figures: PackageFigures | None, quality: QualityFigure
) -> dict[str, Any]:
    return {
        "name": name,
        "precision": package.precision,
        "parameters": package.parameters,
        "file_bytes": package.file_bytes,
        **{key: getattr(figures, key) if figures else None for key in _FIGURES},
        "quality": quality.value,
    }


def _plain(verdict: BudgetVerdict) -> dict[str, Any]:
    return verdict.model_dump(mode="json")


def summarize(
    *,
    name: str,
    teacher: str,
    student: str,
    packages: tuple[PackageDetails, PackageDetails],
    measurement: Measurement,
    quality: RunQuality,
    verdicts: Sequence[BudgetVerdict],
    recipe_digest: str,
    seconds: Mapping[str, float],
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a run, JSON-ready.

    Args:
        name: of the run.
        teacher: the teacher's name.
        student: the student's name.
        packages: the teacher's and the student's.
        measurement: a measurement of both as JSON; the teacher's may be among the failures.
        quality: of both packages.
        verdicts: the budget's lines.
        recipe_digest: of the recipe.
        seconds: wall time of every stage.
        plan: what was planned, and the turns, where the shape was not given.

    Returns:
        Figures of teacher and student, their ratios (how many times smaller or faster the student
        is), the verdicts, host and versions. None for what was not measured: the teacher's where it does not
        fit, a ratio of latencies there and under an emulator.
    """
    *others, of_student = measurement.results
    models = {
        "teacher": _model(teacher, packages[0], others[0] if others else None, quality.teacher),
        "student": _model(student, packages[1], of_student, quality.student),
    }
    comparison = measurement.comparisons[0] if measurement.comparisons else None
    assert comparison is None or comparison.package == of_student.package
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        **models,
        "ratios": {
            **{key: _ratio(models, key) for key in ("parameters", "file_bytes", "peak_rss_mb")},
            "latency_p50_ms": comparison.speedup_p50 if comparison else None,
            "latency_p50_interval": list(comparison.interval) if comparison else None,
        },
        "quality_metric": quality.student.metric,
        "quality_detail": quality.model_dump(mode="json", exclude={"schema_version"}),
        "budget": [_plain(verdict) for verdict in verdicts],
        "budget_kept": budget_kept(verdicts),
        "recipe_digest": recipe_digest,
        "seconds": dict(seconds),
        "plan": plan,
        "measured": {
            key: getattr(measurement, key) for key in ("device", "emulated", "threads", "batch_size", "length")
        },
        "host": measurement.host.model_dump(mode="json", exclude_none=True) if measurement.host else {},
        "versions": measurement.versions,
    }


def _ratio(models: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    of_teacher = models["teacher"][key]
    return None if of_teacher is None else float(of_teacher / models["student"][key])


def verdicts_of(summary: Mapping[str, Any]) -> list[BudgetVerdict]:
    """The budget's verdicts out of a summary that was read from JSON."""
    return [BudgetVerdict.model_validate(line, strict=False) for line in summary["budget"]]
