"""The whole journey on one screen: plan, distil, export, measure, judge, report.

A run's folder holds one artifact a stage, so that a stopped run goes on where it was:

    plan         what the budget can afford, where the recipe names no student
    0-teacher    the teacher's fp32 ONNX package, to compare with
    1-student    the distilled student
    2-onnx       the student's package, which is what ships
    3-measured   both packages measured in one interleaved run, and their quality
    turns/N      1-student to 3-measured of a turn that missed the budget, and was pruned on from
    report.md, summary.json, plots/

A planned student whose measured package misses a line of the budget is pruned further, from where its distillation
ended, to the best of the plan's shapes that keep it when they cost as much more than planned as this one did. One that
the device cannot hold is pruned on to the best that needs clearly less memory.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homoexport.distill import LOG, TASKS, Progress, distill, forget_state, prune_on, target_of
from homoexport.documents.artifact import (
    MANIFEST,
    RUN_MARK,
    Manifest,
    make_folder,
    output_errors,
    read_manifest,
    refuse_existing,
    staged,
    verify,
    write_manifest,
    write_run_mark,
)
from homoexport.documents.budget import TIMED_LINES, BudgetVerdict
from homoexport.documents.document import read_document, read_json, to_json, write_document, write_text
from homoexport.documents.evaluation import QUALITY_FILE, RunQuality
from homoexport.documents.plan import PLAN_FILE, Plan, Row
from homoexport.documents.recipe import Recipe, StudentShape
from homoexport.encoder import load_encoder, max_length_of
from homoexport.errors import DeviceError, DoesNotFit, OutputError, RecipeError
from homoexport.evaluate import quality_of_run
from homoexport.measure import check_measurement
from homoexport.plan import lighter, narrower
from homoexport.report import summarize, write_plan_report, write_report
from homoexport.runtime.inference import open_package, read_package
from homoexport.shape import PartialShape
from homoexport.workflow.export import export_folder, held_out_texts, threads_here
from homoexport.workflow.gate import Gate, check_gate
from homoexport.workflow.measure import measure_once, refuse_emulated_latency, texts_of
from homoexport.workflow.plan import plan
from homoexport.workflow.turns import (
    MEASURED,
    MEASUREMENT,
    PACKAGE,
    PLAN,
    STUDENT,
    TURNS,
    Turns,
    budget_verdicts,
    is_noisy,
    read_measured,
    unclear,
    used_of,
)

TEACHER = "0-teacher"
SUMMARY = "summary.json"  # written last: a run that has it is over
FLOORS = "floors.json"  # of quality, with their verdicts
_GLANCE_SECONDS = 0.05
_PATIENCE = 3.0  # times as long is measured what was too noisy to call


@dataclass(frozen=True)
class Listener:
    """What a run tells while it works; by default to nobody."""

    on_stage: Callable[[str], None] = lambda _name: None
    on_distill: Callable[[Progress], None] = lambda _progress: None
    on_measure: Callable[[str, float], None] = lambda _stage, _share: None


@dataclass
class _Clock:
    """Seconds of each stage, kept over resumes in the run's mark."""

    path: Path
    listener: Listener
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.listener.on_stage(title)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)
            write_text(self.path, to_json({**read_json(self.path), "seconds": self.seconds}))


def run_recipe(
    recipe: Recipe, run_dir: Path, *, force: bool = False, resume: bool = False, listener: Listener | None = None
) -> dict[str, Any]:
    """Everything from the teacher to the report.

    Args:
        recipe: what to do.
        run_dir: becomes the run's folder.
        force: replace `run_dir` where it is a run's folder.
        resume: go on with the run in `run_dir`, which must be of the same recipe.
        listener: is told what happens.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UserError, ParityError: see `homoexport.errors`.
        DoesNotFit: the student's package needs more memory than the device gives.
    """
    listener = listener or Listener()
    if resume:
        clock = _resume_run(recipe, run_dir, listener)
    else:
        clock = _Clock(run_dir / RUN_MARK, listener)
        refuse_existing(run_dir, force=force, kind="run", inputs=[recipe.teacher, *recipe.text.paths])
    check_recipe(recipe)
    with output_errors(run_dir):
        if resume:
            return _run_stages(recipe, run_dir, clock, listener)
        with _replacing(run_dir):
            make_folder(run_dir)
            mark = {"recipe_digest": recipe.digest(), "recipe": recipe.model_dump(mode="json")}
            write_run_mark(run_dir, "run", mark)
            return _run_stages(recipe, run_dir, clock, listener)


def check_recipe(recipe: Recipe) -> None:
    """Find what would stop a run half-way before it begins.

    Raises:
        UserError: a device, thread count, length or shape that cannot be had.
    """
    student, settings = None if recipe.is_planned else _student_of(recipe), recipe.measure
    if recipe.quality is not None:
        check_gate(recipe.quality, teacher=recipe.teacher, hidden_size=None if student is None else student.hidden_size)
    refuse_emulated_latency(recipe.budget, settings.device)
    workload = settings.threads, settings.batch_size, settings.length
    check_measurement(settings.device, [workload], texts=texts_of(settings), min_seconds=settings.min_seconds)
    teacher = load_encoder(recipe.teacher, task=TASKS[recipe.distill.objective])
    if student is not None:
        target_of(teacher, student, recipe.distill)
    if settings.length > (longest := max_length_of(teacher)):
        raise RecipeError(
            f"length {settings.length} is more than the teacher's {longest} tokens",
            where="measure.length",
            hint=f"at most {longest}",
        )


def _student_of(recipe: Recipe) -> StudentShape:
    """The one student of a recipe that can go the whole way."""
    if recipe.student is None:
        raise RecipeError(
            "a run exports and measures one student", where="students", hint="distil them with `homoexport distill`"
        )
    return recipe.student


@contextmanager
def _replacing(run_dir: Path) -> Iterator[None]:
    """Put an old run aside; where the new one fails before there is anything to resume, put it back."""
    aside = run_dir.with_name(f".{run_dir.name}.old")
    if run_dir.exists():
        shutil.rmtree(aside, ignore_errors=True)
        run_dir.rename(aside)
    try:
        yield
    finally:
        if (run_dir / STUDENT / RUN_MARK).is_file() or (run_dir / TURNS).is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
            if aside.exists():
                aside.rename(run_dir)


def _run_stages(recipe: Recipe, run_dir: Path, clock: _Clock, listener: Listener) -> dict[str, Any]:
    turns = Turns(run_dir)
    plan = _plan(recipe, run_dir, clock, listener) if recipe.is_planned else None
    if plan is None:
        if recipe.budget.relative:
            _refuse_unheld_teacher(recipe, run_dir, clock, listener)
        _distill(recipe, run_dir, _student_of(recipe), turns, clock, listener)
        _export_and_measure(recipe, run_dir, clock, listener)
    else:
        while following := _take_turn(recipe, run_dir, plan, turns, clock, listener):
            listener.on_stage(f"Pruning on to {following.shape.name}")
            turns.put_aside()
    listener.on_stage("Writing the report")
    measurement = read_measured(run_dir / MEASURED)
    summary = summarize(
        name=recipe.name,
        teacher=recipe.teacher,
        student=recipe.name,
        packages=(read_package(run_dir / TEACHER), read_package(run_dir / PACKAGE)),
        measurement=measurement,
        quality=read_document(run_dir / MEASURED / QUALITY_FILE, RunQuality),
        verdicts=[
            *budget_verdicts(recipe.budget, run_dir / MEASURED),
            *(BudgetVerdict.model_validate(line, strict=False) for line in read_json(run_dir / MEASURED / FLOORS)),
        ],
        recipe_digest=recipe.digest(),
        seconds=clock.seconds,
        plan=None if plan is None else turns.told(plan, recipe.budget),
    )
    write_text(run_dir / SUMMARY, to_json(summary))
    write_report(run_dir, summary, log_path=run_dir / STUDENT / LOG, measurement=measurement)
    turns.forget_states()
    return summary


def _take_turn(
    recipe: Recipe, run_dir: Path, plan: Plan, turns: Turns, clock: _Clock, listener: Listener
) -> Row | None:
    """Distil, export and measure the present shape; what to prune to next, or None where the run ends with this one."""
    row = turns.row(plan, recipe.budget)
    _distill(recipe, run_dir, PartialShape.of(row.shape), turns, clock, listener)
    try:
        _export_and_measure(recipe, run_dir, clock, listener)
        return None if (run_dir / SUMMARY).exists() else _following(recipe, run_dir, plan, row, clock, listener)
    except DoesNotFit:
        following = lighter(plan, row)
        if following is None:
            raise
    listener.on_stage(f"{recipe.measure.device} cannot hold {row.shape.name}")
    shutil.rmtree(run_dir / MEASURED, ignore_errors=True)
    return following


def _following(recipe: Recipe, run_dir: Path, plan: Plan, row: Row, clock: _Clock, listener: Listener) -> Row | None:
    """What to prune to where the measured package does not keep the budget; None where it ends with what there is.

    What is too noisy to call, or was missed while the machine was restless, is measured again first, once and for
    longer. A package that misses its quality's floor is not pruned further, which would make it worse.
    """
    verdicts = budget_verdicts(recipe.budget, run_dir / MEASURED)
    missed_time = any(verdict.kept is False and verdict.line in TIMED_LINES for verdict in verdicts)
    if unclear(verdicts) or (missed_time and is_noisy(run_dir / MEASURED)):
        listener.on_stage("Too noisy to call: measuring again, for longer")
        _export_and_measure(recipe, run_dir, clock, listener, patience=_PATIENCE)
        verdicts = budget_verdicts(recipe.budget, run_dir / MEASURED)
    used = used_of(verdicts)
    is_poor = any(line["kept"] is False for line in read_json(run_dir / MEASURED / FLOORS))
    if max(used.values()) <= 1 or is_poor:
        return None
    listener.on_stage(f"The budget is not kept by {row.shape.name}")
    return narrower(plan, row, used)


def _plan(recipe: Recipe, run_dir: Path, clock: _Clock, listener: Listener) -> Plan:
    """The plan, kept or made."""
    folder = run_dir / PLAN
    if not _done(folder):
        with clock.stage("plan", f"Planning for {recipe.measure.device}"):
            found = plan(
                recipe.teacher,
                budget=recipe.budget,
                measure=recipe.measure,
                export=recipe.export,
                distill=recipe.distill,
                text=recipe.text,
                progress=listener.on_measure,
            )
            write_plan_report(folder, found)
    found = read_document(folder / PLAN_FILE, Plan, hint="plan again")
    listener.on_stage(f"Planned: {found.choice.shape.name}")
    return found


def _distill(
    recipe: Recipe, run_dir: Path, shape: PartialShape, turns: Turns, clock: _Clock, listener: Listener
) -> None:
    student = run_dir / STUDENT
    if _done(student):
        return
    settings: dict[str, Any] = {
        "text": recipe.text,
        "shape": shape,
        "settings": recipe.distill,
        "out_dir": student,
        "seed": recipe.seed,
        "resume": (student / RUN_MARK).is_file(),
        "recipe_digest": recipe.digest(),
        "on_progress": listener.on_distill,
    }
    with clock.stage("distill", f"Distilling {recipe.teacher}"):
        if turns.last is None:
            distill(recipe.teacher, keep_state=recipe.is_planned, **settings)
        else:
            prune_on(turns.last / STUDENT, teacher=recipe.teacher, **settings)
            forget_state(turns.last / STUDENT)


def _export_teacher(recipe: Recipe, folder: Path, clock: _Clock) -> None:
    if _done(folder):
        return
    with clock.stage("teacher", "Exporting the teacher to fp32 ONNX, to compare with"):
        export_folder(
            recipe.teacher,
            folder,
            task=TASKS[recipe.distill.objective],
            settings=recipe.export.model_copy(
                update={"quantize": "none", "embeddings": "auto", "with_tokenizer": False, "with_ort_format": False}
            ),
            measure=recipe.measure,
            recipe_digest=recipe.digest(),
        )


def _refuse_unheld_teacher(recipe: Recipe, run_dir: Path, clock: _Clock, listener: Listener) -> None:
    """Find out before distilling whether the device can measure what relative lines are held against."""
    if _done(run_dir / STUDENT):
        return
    _export_teacher(recipe, run_dir / TEACHER, clock)
    short = recipe.measure.model_copy(update={"min_seconds": _GLANCE_SECONDS})
    if failures := measure_once([run_dir / TEACHER], short, progress=listener.on_measure).failures:
        raise DeviceError(
            f"the teacher does not fit ({failures[0].stage}: {failures[0].reason}), and "
            f"{recipe.budget.relative[0]} is relative to it",
            where=recipe.measure.device,
            hint="give the line as a figure with its unit",
        )


def _export_and_measure(
    recipe: Recipe, run_dir: Path, clock: _Clock, listener: Listener, *, patience: float = 1.0
) -> None:
    """Both packages, measured; with patience for so many times as long, in place of what was measured before."""
    teacher, student, package = run_dir / TEACHER, run_dir / STUDENT, run_dir / PACKAGE
    digest, texts = recipe.digest(), held_out_texts(student)
    _export_teacher(recipe, teacher, clock)
    is_again = patience > 1
    if _done(run_dir / MEASURED) and not is_again:
        return
    threads = threads_here(recipe.measure)
    gate = None
    if recipe.quality is not None:
        gate = Gate(recipe.quality, teacher=str(teacher), texts=texts, seed=recipe.seed, threads=threads)
    if not _done(package):
        with clock.stage("export", f"Exporting the student ({recipe.export.quantize})"):
            export_folder(
                str(student),
                package,
                settings=recipe.export,
                measure=recipe.measure,
                recipe_digest=digest,
                texts=texts,
                gate=gate,
            )
    with (
        clock.stage("measure", f"Measuring on {recipe.measure.device}"),
        staged(run_dir / MEASURED, force=is_again) as folder,
    ):
        packages = [teacher, package]
        seconds = {"min_seconds": patience * recipe.measure.min_seconds}
        measured = measure_once(packages, recipe.measure.model_copy(update=seconds), progress=listener.on_measure)
        if not any(result.package == str(package) for result in measured.results):
            failure = next(failure for failure in measured.failures if failure.package == str(package))
            raise DoesNotFit(
                f"{failure.package} does not fit ({failure.stage}: {failure.reason})",
                where=recipe.measure.device,
                hint="ask for a smaller student, or measure where there is more memory, and --resume",
            )
        opened = [open_package(each, threads=threads) for each in packages]
        quality = quality_of_run(opened[0], opened[1], texts, seed=recipe.seed)
        write_document(folder / MEASUREMENT, measured)
        write_document(folder / QUALITY_FILE, quality)
        floors = [] if gate is None else [gate.judge(opened[1]).model_dump(mode="json")]
        write_text(folder / FLOORS, to_json(floors))
        write_manifest(folder, "measurement", parent=read_manifest(package, Manifest).digest, recipe=digest)


def _resume_run(recipe: Recipe, run_dir: Path, listener: Listener) -> _Clock:
    path = run_dir / RUN_MARK
    if not path.is_file():
        raise OutputError("holds no run to resume", where=str(run_dir), hint="leave --resume out to start one")
    mark = read_json(path)
    if mark.get("recipe_digest") != recipe.digest():
        raise RecipeError(
            "the run to resume was started with another recipe",
            where=str(run_dir),
            hint="give the same recipe and overrides, or another folder",
        )
    return _Clock(path, listener, mark.get("seconds", {}))


def _done(folder: Path) -> bool:
    """Whether a stage's artifact is there and whole."""
    if not (folder / MANIFEST).is_file():
        return False
    verify(folder, Manifest, strict=False)
    return True
