"""A run's figures, gathered from what its stages left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from homoexport.documents.budget import BudgetVerdict, is_kept
from homoexport.documents.evaluation import PackageQuality, RunQuality
from homoexport.documents.measurement import Measurement, PackageFigures
from homoexport.documents.summary import (
    MeasuredConditions,
    ModelFigures,
    PlannedTurns,
    QualityOfBoth,
    Ratios,
    Summary,
)
from homoexport.runtime.inference import PackageInfo


def summarize(
    *,
    name: str,
    teacher: str,
    packages: tuple[PackageInfo, PackageInfo],
    measurement: Measurement,
    quality: RunQuality,
    verdicts: Sequence[BudgetVerdict],
    recipe_digest: str,
    seconds: Mapping[str, float],
    plan: PlannedTurns | None = None,
) -> Summary:
    """The summary of a run of that name. Packages and measurement are the teacher's, then the student's; the teacher's
    measurement may be among the failures."""
    *others, measured = measurement.results
    ours = _model(name, packages[1], measured, quality.student)
    theirs = _model(teacher, packages[0], others[0] if others else None, quality.teacher)
    comparison = measurement.comparisons[0] if measurement.comparisons else None
    assert comparison is None or comparison.package == measured.package
    assert ours.peak_rss_mb is not None
    return Summary(
        name=name,
        teacher=theirs,
        student=ours,
        ratios=Ratios(
            parameters=theirs.parameters / ours.parameters,
            file_bytes=theirs.file_bytes / ours.file_bytes,
            peak_rss_mb=None if theirs.peak_rss_mb is None else theirs.peak_rss_mb / ours.peak_rss_mb,
            latency_p50_ms=comparison.speedup_p50 if comparison else None,
            latency_p50_interval=comparison.interval if comparison else None,
        ),
        quality_metric=quality.student.metric,
        quality_detail=QualityOfBoth(teacher=quality.teacher, student=quality.student),
        budget=tuple(verdicts),
        budget_kept=is_kept(verdicts),
        recipe_digest=recipe_digest,
        seconds=dict(seconds),
        plan=plan,
        measured=MeasuredConditions(
            device=measurement.device,
            emulated=measurement.emulated,
            threads=measurement.threads,
            batch_size=measurement.batch_size,
            length=measurement.length,
        ),
        host=measurement.host,
        versions=measurement.versions,
    )


def _model(name: str, package: PackageInfo, figures: PackageFigures | None, quality: PackageQuality) -> ModelFigures:
    return ModelFigures(
        name=name,
        precision=package.precision,
        parameters=package.parameters,
        file_bytes=package.file_bytes,
        latency_p50_ms=figures.latency_p50_ms if figures else None,
        latency_p95_ms=figures.latency_p95_ms if figures else None,
        peak_rss_mb=figures.peak_rss_mb if figures else None,
        quality=quality.value,
    )
