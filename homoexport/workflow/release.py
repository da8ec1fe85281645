"""A package against the one that is in use already: is it slower, bigger or worse by more than is allowed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from homoexport.choices import RuntimeChoice
from homoexport.data import sample_text
from homoexport.documents.measurement import Change, Comparison, Measurement, PackageFigures, read_measurement
from homoexport.documents.recipe import MeasureSettings, QualitySettings
from homoexport.documents.release import INSTRUCTIONS, Release, ReleaseLine, verdict_on
from homoexport.errors import DeviceError, UserError
from homoexport.runtime.inference import open_package
from homoexport.stages.measure import compare_results, keeps_pace
from homoexport.workflow.gate import Gate
from homoexport.workflow.measure import measure_once
from homoexport.workflow.progress import QUIET, Progress


def hold_against(
    baseline: Path,
    package: Path,
    *,
    settings: MeasureSettings,
    quality: QualitySettings | None = None,
    runtime: RuntimeChoice = "auto",
    slower: float = 0.05,
    bigger: float = 0.01,
    progress: Progress = QUIET,
) -> Release:
    """Measure a package in turns with the one in use, judge both on the same examples, and compare.

    Args:
        baseline: the package in use, or a result of `homoexport bench --json` that it alone has: then the two were not
            measured in turns, and nothing is called where the machine was not as fast.
        quality: what both are judged on; its floor is a share of the baseline's figure.
        slower: the share by which the median latency may rise (of an emulated device, the counted instructions).
        bigger: the share by which the runtime's files may grow.

    Raises:
        PackageError: not a package, not a measurement, or altered.
        UserError: a quality of a measurement; a measurement of other conditions, another machine or several packages; a
            device that cannot be used, that cannot hold the baseline, or that says nothing of speed.
    """
    kept = _measured_before(baseline, quality) if baseline.is_file() else None
    judged = () if quality is None else (_quality(baseline, package, quality, runtime),)
    packages = [package] if kept else [baseline, package]
    measured = measure_once(packages, settings, runtime=[runtime] * len(packages), progress=progress)
    found = _in_turns(measured, str(baseline)) if kept is None else _with_the_one_before(kept, measured)
    lines = judged if found is None else (_speed(found, slower), _size(found, bigger), *judged)
    broken = _broken(measured, str(package))
    remarks = measured.noise.remarks if measured.noise else ()
    if found is not None and isinstance(found.ratio, Change):
        remarks = found.ratio.remarks
    return Release(
        verdict=verdict_on(lines, broken),
        baseline=str(baseline),
        package=str(package),
        device=measured.device,
        threads=measured.threads,
        batch_size=measured.batch_size,
        length=measured.length,
        lines=lines,
        broken=broken,
        remarks=remarks,
    )


@dataclass(frozen=True)
class _Pair:
    """Figures of both, and how many times faster the newer one is; no ratio of an emulator's times."""

    before: PackageFigures
    after: PackageFigures
    ratio: Comparison | Change | None


def _in_turns(measured: Measurement, baseline: str) -> _Pair | None:
    """Both of one measurement; None where the device cannot hold the newer one."""
    for failure in measured.failures:
        if failure.package == baseline:
            what = f"the device cannot hold it ({failure.stage}: {failure.reason})"
            raise DeviceError(what, where=baseline, hint="measure where the package in use fits")
    if len(measured.results) < 2:
        return None
    before, after = measured.results
    return _Pair(before, after, None if measured.emulated else measured.comparisons[-1])


def _measured_before(path: Path, quality: QualitySettings | None) -> Measurement:
    if quality is not None:
        hint = "name the package itself, or leave --task out"
        raise UserError("of a measurement no answers can be judged", where=str(path), hint=hint)
    kept = read_measurement(path)
    if not isinstance(kept, Measurement) or len(kept.results) != 1:
        hint = "give what `homoexport bench PACKAGE --json` wrote, under one condition"
        raise UserError("is not of one package alone", where=str(path), hint=hint)
    return kept


def _with_the_one_before(kept: Measurement, measured: Measurement) -> _Pair | None:
    """One measured before, and one now; None where the device cannot hold the newer one."""
    if not measured.results:
        return None
    (change,) = compare_results(kept, measured)
    return _Pair(kept.results[0], measured.results[0], change)


def _speed(found: _Pair, slower: float) -> ReleaseLine:
    before, after, speedup = found.before, found.after, found.ratio
    if speedup is None:
        if before.instructions is None or after.instructions is None:
            hint = "`homoexport doctor` says what counts instructions, or measure on a real one"
            raise DeviceError("its times are an emulator's and say nothing of the device", where="--device", hint=hint)
        return _counted(INSTRUCTIONS, before.instructions, after.instructions, 1 + slower)
    low, high = speedup.interval
    return ReleaseLine(
        line="latency_p50_ms",
        baseline=before.latency_p50_ms,
        package=after.latency_p50_ms,
        ratio=1 / speedup.speedup_p50,
        interval=(1 / high, 1 / low),
        allowed=1 + slower,
        kept=keeps_pace(speedup, slower),
    )


def _size(found: _Pair, bigger: float) -> ReleaseLine:
    return _counted("file_mb", found.before.file_bytes / 10**6, found.after.file_bytes / 10**6, 1 + bigger)


def _counted(line: str, before: float, after: float, allowed: float) -> ReleaseLine:
    """Of what has no noise."""
    ratio = after / before
    return ReleaseLine(
        line=line,
        baseline=before,
        package=after,
        ratio=ratio,
        interval=None,
        allowed=allowed,
        kept=ratio <= allowed,
    )


def _quality(baseline: Path, package: Path, quality: QualitySettings, runtime: RuntimeChoice) -> ReleaseLine:
    before, after = (open_package(folder, threads=1, runtime=runtime) for folder in (baseline, package))
    verdict = Gate(quality, teacher=before, texts=sample_text(), seed=0).judge(after)
    theirs, interval = verdict.teacher, verdict.interval
    assert theirs is not None
    assert interval is not None
    unit = theirs if theirs > 0 else 1.0  # of a figure that is 0 or less there is no share
    return ReleaseLine(
        line=verdict.line,
        baseline=theirs,
        package=verdict.measured,
        ratio=verdict.measured / unit,
        interval=verdict.share_interval or (interval[0] / unit, interval[1] / unit),
        allowed=quality.level,
        kept=verdict.kept,
    )


def _broken(measured: Measurement, package: str) -> tuple[str, ...]:
    failures = [f"{each.stage}: {each.reason}" for each in measured.failures if each.package == package]
    beyond = [
        f"answers otherwise on {measured.device} than here (bound: {result.agreement.bound})"
        for result in measured.results
        if result.package == package and result.agreement is not None and not result.agreement.within
    ]
    return (*failures, *beyond)
