"""A run's figures, gathered from what its stages left; and its report, written again from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from homoexport.documents.artifact import RUN_MARK, Manifest, kind_of, refuse_links, verify, with_article
from homoexport.documents.budget import BudgetVerdict, is_kept
from homoexport.documents.document import digest_of, read_document, write_document
from homoexport.documents.evaluation import EVALUATION_FILE, QUALITY_FILE, Evaluation, PackageQuality, RunQuality
from homoexport.documents.layout import (
    FINETUNED,
    FLOORS,
    HTML_REPORT,
    MEASURED,
    MEASUREMENT,
    PACKAGE,
    PLAN,
    STUDENT,
    SUMMARY,
    TEACHER,
)
from homoexport.documents.measurement import Grid, Measurement, PackageFigures, read_measurement
from homoexport.documents.output import make_folder, output_errors
from homoexport.documents.plan import PLAN_FILE, Plan
from homoexport.documents.recipe import Recipe
from homoexport.documents.run_folder import read_mark
from homoexport.documents.summary import (
    Floors,
    MeasuredConditions,
    ModelFigures,
    PlannedTurns,
    QualityOfBoth,
    Ratios,
    Summary,
)
from homoexport.errors import OutputError, PackageError, UserError, readable
from homoexport.report import compared, names_of, write_comparison, write_report, write_side_by_side
from homoexport.runtime.inference import PackageInfo, read_package
from homoexport.workflow.turns import Turns, budget_verdicts, read_measured

_UNFINISHED, _FINISH = "is a run that is not finished", "finish it: homoexport run RECIPE -o FOLDER --resume"
_RUNS = "name folders that `homoexport run` wrote, or one of bench -o and one of eval -o together"


def summary_of(run_dir: Path, recipe: Recipe) -> Summary:
    """What the stages of a recipe's run left, in figures.

    Raises:
        PackageError: a part of it is missing or altered.
    """
    turns, measured = Turns(run_dir), run_dir / MEASURED
    measurement = read_measured(measured)
    plan = read_document(run_dir / PLAN / PLAN_FILE, Plan, hint="plan again") if recipe.is_planned else None
    return summarize(
        name=recipe.name,
        teacher=recipe.teacher,
        packages=(read_package(run_dir / TEACHER), read_package(run_dir / PACKAGE, measurement.results[-1].runtime)),
        measurement=measurement,
        quality=read_document(measured / QUALITY_FILE, RunQuality),
        verdicts=[
            *budget_verdicts(recipe.budget, measured),
            *read_document(measured / FLOORS, Floors).verdicts,
        ],
        recipe_digest=recipe.digest(),
        seconds=read_mark(run_dir).seconds,
        plan=None if plan is None else turns.described(plan, recipe.budget),
        vectors_from=recipe.distill.vectors_model,
    )


def write_summary(run_dir: Path, recipe: Recipe) -> Summary:
    """Write the summary of a recipe's run whose stages are done, and its report; see `summary_of`."""
    summary = summary_of(run_dir, recipe)
    write_document(run_dir / SUMMARY, summary)
    write_report(run_dir, summary, measurement=read_measured(run_dir / MEASURED))
    return summary


def report(run_dir: Path) -> Summary:
    """Write a finished run's report again, once its summary is that of what its stages left.

    Raises:
        PackageError: see `checked_summary`.
        OutputError: the folder cannot be written.
    """
    summary = checked_summary(run_dir)
    write_report(run_dir, summary, measurement=read_measured(run_dir / MEASURED))
    return summary


def report_side_by_side(run_dirs: Sequence[Path], *, output: Path) -> dict[str, Summary]:
    """Write one page of HTML of several finished runs, which are left as they are; their summaries by their names.

    Raises:
        UserError: a run is named twice.
        PackageError: see `checked_summary`.
        OutputError: the file cannot be written.
    """
    _refuse_folder(output)
    if len({folder.resolve() for folder in run_dirs}) < len(run_dirs):
        raise UserError("the same run is named twice", where="report", hint="name each run once")
    runs = dict(zip(names_of(run_dirs), map(checked_summary, run_dirs), strict=True))
    make_folder(output.parent)
    with output_errors(output):
        write_side_by_side(output, runs, [read_measured(folder / MEASURED) for folder in run_dirs])
    return runs


def parts_of(run_dir: Path) -> tuple[Recipe, ...]:
    """The recipes of the runs that lie in a folder of several, in their order; of any other folder none."""
    recipe = read_mark(run_dir).recipe if (run_dir / RUN_MARK).is_file() else None
    return () if recipe is None else recipe.parts


def report_several(run_dir: Path) -> dict[str, Summary]:
    """Write the page of the runs of one recipe (`run_several`); their summaries, with the times that were measured in
    turns.

    Raises:
        PackageError: see `checked_summary`.
        OutputError: the file cannot be written.
    """
    if not (run_dir / MEASURED).is_dir():
        raise PackageError(_UNFINISHED, where=str(run_dir), hint=_FINISH)
    names = [part.name for part in parts_of(run_dir)]
    finished = [name for name in names if (run_dir / name / SUMMARY).is_file()]
    if verify(run_dir / MEASURED, Manifest, strict=False).parent != measured_together(run_dir, finished):
        hint = "run its recipe again with --resume"
        raise PackageError("was measured of other packages", where=str(run_dir / MEASURED), hint=hint)
    found, runs, measured = read_measured(run_dir / MEASURED), dict[str, Summary](), []
    for name in finished:
        run = checked_summary(run_dir / name)
        its_own = _of_one(found, name)
        runs[name] = run if its_own is None else _timed_in(run, its_own)
        measured.append(its_own or read_measured(run_dir / name / MEASURED))
    with output_errors(run_dir):
        write_side_by_side(run_dir / HTML_REPORT, runs, measured, of=names, shared=read_mark(run_dir).seconds)
    return runs


def measured_together(run_dir: Path, names: Sequence[str]) -> str:
    """The digest of what the measurement of several runs is of: the teacher's package, and those of the runs."""
    packages = [run_dir / TEACHER, *(run_dir / name / PACKAGE for name in names)]
    return digest_of([verify(package, Manifest, strict=False).digest for package in packages])


def _of_one(measurement: Measurement, run: str) -> Measurement | None:
    """What was measured in turns of the teacher and of a run's package; None where that did not fit."""

    def is_its(package: str) -> bool:
        return Path(package).parts[-2:] == (run, PACKAGE)

    teachers = [result for result in measurement.results if Path(result.package).name == TEACHER]
    packages = [result for result in measurement.results if is_its(result.package)]
    if not packages:
        return None
    comparisons = [line for line in measurement.comparisons if is_its(line.package)]
    return measurement.model_copy(update={"results": (*teachers, *packages), "comparisons": tuple(comparisons)})


def _timed_in(summary: Summary, measurement: Measurement) -> Summary:
    """A summary with the times and the memory of another measurement of its packages."""
    *others, measured = measurement.results
    theirs, ours = _with_costs(summary.teacher, others[0] if others else None), _with_costs(summary.student, measured)
    ratios = _ratios(theirs, ours, measurement)
    return summary.model_copy(update={"teacher": theirs, "student": ours, "ratios": ratios})


def report_comparison(folders: Sequence[Path], *, output: Path) -> tuple[Measurement, Evaluation]:
    """Write one page of HTML of the models that one folder of two measured and the other judged; what the two hold.

    Raises:
        PackageError: a folder is altered, or what it holds is not of its form.
        UserError: no model is in both, or several conditions were measured.
        OutputError: the file cannot be written.
    """
    _refuse_folder(output)
    measured, judged = sorted(folders, key=lambda folder: kind_of(folder) != "measurement")
    for folder in (measured, judged):
        verify(folder, Manifest, strict=False)
    measurement = read_measurement(measured / MEASUREMENT)
    evaluation = read_document(judged / EVALUATION_FILE, Evaluation, hint="judge again")
    if isinstance(measurement, Grid):
        hint = "measure with one number of threads, one batch size and one length"
        raise UserError("was measured under several conditions", where=str(measured), hint=hint)
    if not compared(measurement, evaluation):
        hint = "give the same packages' folders to bench and to eval"
        raise UserError(f"has no model that {judged} has, too", where=str(measured), hint=hint)
    make_folder(output.parent)
    with output_errors(output):
        write_comparison(output, measurement, evaluation)
    return measurement, evaluation


def _refuse_folder(output: Path) -> None:
    """Refuse (OutputError) a folder where a page is to be, before anything is read."""
    if output.is_dir():
        raise OutputError("is a folder", where=str(output), hint="name a file")


def checked_summary(run_dir: Path) -> Summary:
    """A finished run's summary, made anew of what its stages left, once all that the one there says is so.

    One that an earlier version wrote says less.

    Raises:
        PackageError: the run is not finished, or a part of it is missing, altered or another run's; or it holds links.
    """
    _refuse_no_run(run_dir)
    refuse_links(run_dir)
    summary = read_document(run_dir / SUMMARY, Summary, hint="run the recipe again")
    stages = (STUDENT, PACKAGE, MEASURED, TEACHER, *([] if summary.plan is None else [PLAN]))
    student, package, measured, *others = (verify(run_dir / made, Manifest, strict=False) for made in stages)
    recipe = read_mark(run_dir).recipe
    if recipe is not None and recipe.finetune is not None:
        others.append(verify(run_dir / FINETUNED, Manifest, strict=False))
    recipes = {made.recipe for made in (student, package, measured, *others)}
    if recipe is not None and recipes == {summary.recipe_digest} != {recipe.digest()}:
        what = "its recipe is not the one that its stages were made by, or has other defaults in this homoexport"
        hint = "report with the homoexport that made the run, or run the recipe again in another folder"
        raise PackageError(what, where=str(run_dir / RUN_MARK), hint=hint)
    found = None
    if package.parent == student.digest and measured.parent == package.digest and recipe is not None:
        found = summary_of(run_dir, recipe) if recipes == {recipe.digest()} else None
    said = summary.model_dump(mode="json", exclude={"schema_version"}, exclude_unset=True)
    if found is None or not _is_so(said, found.model_dump(mode="json")):
        hint = "run its recipe again with --resume, or in another folder"
        raise PackageError("is not the summary of what lies beside it", where=str(run_dir / SUMMARY), hint=hint)
    return found


def _refuse_no_run(folder: Path) -> None:
    """Refuse (PackageError) what is not a finished run's folder, with what to give in its place."""
    with readable(PackageError, folder):
        is_folder, is_finished = folder.is_dir(), (folder / SUMMARY).is_file()
    kind = kind_of(folder) if is_folder else None
    if is_finished and kind in (None, "run"):
        return
    what, hint = "does not exist or is not a folder", _RUNS
    if is_folder and (parts := parts_of(folder)):
        what, hint = "is the folder of several runs", f"name those in it: {', '.join(part.name for part in parts)}"
    elif kind == "run":
        what, hint = _UNFINISHED, _FINISH
    elif kind is not None:
        what = f"is {with_article(kind)}, not a run"
        hint = _RUNS if kind in ("student", "package") else f"its report is {folder / HTML_REPORT}; {_RUNS}"
    elif is_folder:
        what = f"is no run: it has no {SUMMARY}"
    raise PackageError(what, where=str(folder), hint=hint)


def _is_so(said: object, found: object) -> bool:
    """Whether all that is said was found: plain values of JSON."""
    if isinstance(said, dict) and isinstance(found, dict):
        return all(key in found and _is_so(value, found[key]) for key, value in said.items())
    if isinstance(said, list) and isinstance(found, list):
        return len(said) == len(found) and all(map(_is_so, said, found))
    return said == found


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
    vectors_from: str | None = None,
) -> Summary:
    """The summary of a run of that name. Packages and measurement are the teacher's, then the student's; the teacher's
    measurement may be among the failures."""
    *others, measured = measurement.results
    ours = _model(name, packages[1], measured, quality.student)
    theirs = _model(teacher, packages[0], others[0] if others else None, quality.teacher)
    return Summary(
        name=name,
        teacher=theirs,
        student=ours,
        ratios=_ratios(theirs, ours, measurement),
        quality_metric=quality.student.metric,
        quality_detail=QualityOfBoth(teacher=quality.teacher, student=quality.student),
        quality_documents=quality.documents,
        vectors_from=vectors_from,
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


def _ratios(theirs: ModelFigures, ours: ModelFigures, measurement: Measurement) -> Ratios:
    comparison = measurement.comparisons[0] if measurement.comparisons else None
    assert comparison is None or comparison.package == measurement.results[-1].package
    assert ours.peak_rss_mb is not None
    return Ratios(
        parameters=theirs.parameters / ours.parameters,
        file_bytes=theirs.file_bytes / ours.file_bytes,
        peak_rss_mb=None if theirs.peak_rss_mb is None else theirs.peak_rss_mb / ours.peak_rss_mb,
        latency_p50_ms=comparison.speedup_p50 if comparison else None,
        latency_p50_interval=comparison.interval if comparison else None,
    )


def _model(name: str, package: PackageInfo, figures: PackageFigures | None, quality: PackageQuality) -> ModelFigures:
    model = ModelFigures(
        name=name,
        precision=package.precision,
        runtime=package.runtime,
        parameters=package.parameters,
        file_bytes=package.file_bytes,
        latency_p50_ms=None,
        latency_p95_ms=None,
        peak_rss_mb=None,
        quality=quality.value,
    )
    return _with_costs(model, figures)


def _with_costs(model: ModelFigures, figures: PackageFigures | None) -> ModelFigures:
    """A model with the times and the memory that were measured, or with none."""
    costs = ("latency_p50_ms", "latency_p95_ms", "peak_rss_mb")
    return model.model_copy(update={cost: getattr(figures, cost) if figures else None for cost in costs})
