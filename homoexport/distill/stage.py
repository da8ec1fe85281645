"""The stage: from settings to a student's folder, or to several out of one run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from homoexport.distill.checkpoint import CHECKPOINT, END_STATE, load_checkpoint
from homoexport.distill.job import Job, all_processes_alive, open_job
from homoexport.distill.loop import Run
from homoexport.distill.start import start_student
from homoexport.distill.steps import run_steps
from homoexport.distill.writer import LOG, Progress, Writer
from homoexport.documents.artifact import (
    MANIFEST,
    RUN_MARK,
    Manifest,
    make_folder,
    output_errors,
    read_manifest,
    refuse_existing,
    write_run_mark,
)
from homoexport.documents.document import digest_of, read_json
from homoexport.documents.recipe import DistillSettings, StudentShape, TextSettings
from homoexport.errors import OutputError, PackageError, RecipeError
from homoexport.shape import PartialShape, Shape

_FREE_TO_CHANGE = {
    *("threads", "trackers", "micro_batch_size", "checkpoint_every", "activation_checkpointing", "compile")
}  # between a run and its resumption
_PRUNE_ON_STEPS, _PRUNE_ON_UNTIL = 0.4, 0.5  # share of the steps, and of these until the narrower width is reached
_BRANCH_PRUNES_UNTIL = 0.3  # where the trunk's heads are not the branch's: share of the branch's steps


def distill(
    teacher: str,
    *,
    text: TextSettings,
    shape: PartialShape,
    settings: DistillSettings,
    out_dir: Path,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    keep_state: bool = False,
    recipe_digest: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Distil a student out of a teacher and save it as a stock model folder.

    Runs under `accelerate launch` as it stands; the first process alone writes.

    Args:
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`.
        text: what to distil on.
        shape: the student's widths and depth.
        settings: how to distil.
        out_dir: becomes the student's folder: config, weights, tokenizer, log, manifest.
        seed: of data order, held-out split and masks.
        force: replace `out_dir` where it is a folder that homoexport wrote.
        resume: go on from the last checkpoint in `out_dir`, on any number of processes.
        keep_state: leave what `prune_on` goes on from.
        recipe_digest: of the recipe that this is part of.
        on_progress: is given every step's report, in the first process.

    Returns:
        `out_dir`.

    Raises:
        TeacherError, TextError, ShapeError, OutputError, RecipeError, TrainingError: see
            `homoexport.errors`.
    """
    digest = _settings_digest(teacher, text, [shape], settings, seed)
    _check_output(out_dir, digest, [teacher, *text.paths], force=force, resume=resume)
    if resume and _done(out_dir):
        return out_dir
    with all_processes_alive():
        job = open_job(
            teacher, text=text, settings=settings, seed=seed, shapes=[shape], tracker_dir=out_dir / "trackers"
        )
        place = _Place(out_dir, digest, recipe_digest, resume, on_progress, keep_state=keep_state)
        with output_errors(out_dir), _resumable_or_as_before(out_dir, job.accelerator, resume=resume):
            _run_student(job, place, job.targets[0])
    return out_dir


def prune_on(
    student: Path,
    *,
    teacher: str,
    text: TextSettings,
    shape: PartialShape,
    settings: DistillSettings,
    out_dir: Path,
    seed: int = 0,
    resume: bool = False,
    recipe_digest: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Prune a finished student further, from where its distillation ended, to a narrower one.

    It takes `_PRUNE_ON_STEPS` of the steps, half of them pruning, and leaves its own state to go on from, too.

    Args:
        student: a folder that `distill` or this function left with its state (`keep_state`).
        teacher: whose student it is.
        text: what it was distilled on.
        shape: no wider than the student in anything.
        settings: those that it was distilled with.
        out_dir: becomes the narrower student's folder.
        seed: as for `distill`.
        resume: go on with the same in `out_dir`.
        recipe_digest: of the recipe that this is part of.
        on_progress: is given every step's report.

    Returns:
        `out_dir`.

    Raises:
        PackageError: the student has left no state.
        Others as for `distill`.
    """
    if not (student / END_STATE).is_file() and not (out_dir / CHECKPOINT).is_file() and not _done(out_dir):
        raise PackageError("has left no state to go on from", where=str(student), hint="distil it again")
    digest = digest_of(
        [_settings_digest(teacher, text, [shape], settings, seed), read_manifest(student, Manifest).digest]
    )
    _check_output(out_dir, digest, [teacher, *text.paths], force=False, resume=resume)
    if resume and _done(out_dir):
        return out_dir
    further = settings.model_copy(
        update={
            "steps": max(2, round(_PRUNE_ON_STEPS * settings.steps)),
            "prune_from": 0.0,
            "prune_until": _PRUNE_ON_UNTIL,
            "method": "homodistil",
        }
    )
    with all_processes_alive():
        job = open_job(teacher, text=text, settings=further, seed=seed, shapes=[shape])
        with output_errors(out_dir), _resumable_or_as_before(out_dir, job.accelerator, resume=resume):
            if not (out_dir / CHECKPOINT).is_file():
                _start_folder(out_dir, digest)
                _copy(student / LOG, out_dir / LOG)  # the way up to here
                _copy(student / END_STATE, out_dir / CHECKPOINT)
            place = _Place(out_dir, digest, recipe_digest, True, on_progress, keep_state=True)
            _run_student(job, place, job.targets[0])
    return out_dir


def forget_state(student: Path) -> None:
    """Remove what `prune_on` would go on from: no part of the student."""
    (student / END_STATE).unlink(missing_ok=True)


def distill_students(
    teacher: str,
    *,
    text: TextSettings,
    shapes: Sequence[StudentShape],
    settings: DistillSettings,
    out_dir: Path,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    recipe_digest: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Path]:
    """Distil several students out of one run.

    The run prunes toward the narrowest student. As its width passes a wider one's, it leaves a
    checkpoint there; each such branch is finished afterwards with its own share of steps.

    Args:
        teacher: as for `distill`.
        text: as for `distill`.
        shapes: the students, named, the widest first.
        settings: as for `distill`; pruning lasts `prune_until` of `steps`, then each student has its
            `finish` of `steps`.
        out_dir: becomes a folder with a student's folder for each name.
        seed: as for `distill`.
        force: as for `distill`.
        resume: go on where the last run stopped.
        recipe_digest: as for `distill`.
        on_progress: as for `distill`.

    Returns:
        The students' folders, in the order of `shapes`.

    Raises:
        RecipeError: students not in order of width, or a method that has no path of widths.
        TeacherError, TextError, ShapeError, OutputError, TrainingError: see `homoexport.errors`.
    """
    digest = _settings_digest(teacher, text, shapes, settings, seed)
    _check_output(out_dir, digest, [teacher, *text.paths], force=force, resume=resume)
    folders = [out_dir / str(shape.name) for shape in shapes]
    if resume and all(_done(folder) for folder in folders):
        return folders
    trunk_steps = round((settings.prune_until + shapes[-1].finish) * settings.steps)
    trunk_settings = settings.model_copy(
        update={
            "steps": trunk_steps,
            "prune_from": settings.prune_from * settings.steps / trunk_steps,
            "prune_until": settings.prune_until * settings.steps / trunk_steps,
        }
    )

    def place_of(folder: Path, *, goes_on: bool) -> _Place:
        return _Place(folder, digest, recipe_digest, goes_on, on_progress, name=folder.name)

    with all_processes_alive():
        job = open_job(
            teacher, text=text, settings=settings, seed=seed, shapes=shapes, tracker_dir=out_dir / "trackers"
        )
        with output_errors(out_dir), _resumable_or_as_before(out_dir, job.accelerator, resume=resume):
            if job.accelerator.is_main_process and not resume:
                _start_folder(out_dir, digest)
            job.accelerator.wait_for_everyone()
            if not _done(folders[-1]):
                _run_student(
                    job.with_settings(trunk_settings),
                    place_of(folders[-1], goes_on=resume),
                    job.targets[-1],
                    waypoints=list(zip(folders[:-1], job.targets[:-1], strict=True)),
                )
            for folder, shape, target in zip(folders[:-1], shapes, job.targets, strict=False):
                if not _done(folder):
                    if job.accelerator.is_main_process and not (folder / LOG).exists():
                        _copy(folders[-1] / LOG, folder / LOG)  # the way up to where it branched off
                    steps = max(1, round(shape.finish * settings.steps))
                    branch = settings.model_copy(
                        update={"steps": steps, "warmup": 0.0, "prune_from": 0.0, "prune_until": _BRANCH_PRUNES_UNTIL}
                    )
                    _run_student(job.with_settings(branch), place_of(folder, goes_on=True), target)
    return folders


@dataclass(frozen=True)
class _Place:
    """Where a student goes, and who is told."""

    folder: Path
    settings_digest: str
    recipe_digest: str | None
    goes_on: bool
    on_progress: Callable[[Progress], None] | None
    name: str | None = None
    keep_state: bool = False


def _run_student(job: Job, place: _Place, target: Shape, *, waypoints: Sequence[tuple[Path, Shape]] = ()) -> None:
    """Run to the end, from the start or from what the folder's checkpoint says, and save the student."""
    folder, accelerator = place.folder, job.accelerator
    state = load_checkpoint(folder) if place.goes_on else None
    if state is not None and state["sources"] != job.sources:
        raise RecipeError(
            "the teacher or the text is not what the run was started with",
            where=str(folder),
            hint="put it back, or start again with --force",
        )
    settings = job.settings
    if state is not None and state["at_branch"] and not state["at_end"]:
        settings = settings.model_copy(update={"learning_rate": state["run"]["rate"]["_last_lr"][0]})
    run = new_run(job.with_settings(settings), target, waypoints=[shape for _, shape in waypoints])
    writer = Writer(
        job, run, folder, name=place.name, offset=state["offset"] if state else 0, on_progress=place.on_progress
    )
    if state is not None:
        (run.branch_off if state["at_branch"] else run.restore)(state["run"])
        job.corpus.load_state_dict(state["text"])
        writer.rewind()
    else:
        if accelerator.is_main_process:
            _start_folder(folder, place.settings_digest)
        accelerator.wait_for_everyone()

    def leave_branch() -> None:
        branch, _ = waypoints[len(waypoints) - len(run.waypoints) - 1]
        if accelerator.is_main_process:
            _start_folder(branch, place.settings_digest)
        writer.checkpoint(branch, at_branch=True)

    run.on_waypoint = leave_branch
    with writer.trackers():
        run_steps(run, job.batches, offset=writer.offset, on_step=writer.log, on_checkpoint=writer.checkpoint)
    if place.keep_state:
        writer.checkpoint(at_end=True)
    writer.save_student(place.recipe_digest)
    run.close()


def new_run(job: Job, target: Shape, *, waypoints: Sequence[Shape] = (), kind: type[Run] = Run) -> Run:
    """A run at step 0.

    Args:
        job: teacher, text, settings, processes.
        target: shape to end at.
        waypoints: shapes to pass on the way, the widest first.
        kind: Run, or one that differs in some of its parts.
    """
    start = start_student(job.encoder.model, job.family, target, job.settings.method, seed=job.seed)
    return kind(
        job.encoder,
        start,
        target=target,
        settings=job.settings,
        accelerator=job.accelerator,
        waypoints=waypoints,
    )


def _settings_digest(
    teacher: str, text: TextSettings, shapes: Sequence[PartialShape], settings: DistillSettings, seed: int
) -> str:
    """What must not change between a run and its resumption; where and how it is computed may."""
    fixed = settings.model_dump(mode="json", exclude=_FREE_TO_CHANGE)
    return digest_of([teacher, text.model_dump(mode="json"), [s.model_dump(mode="json") for s in shapes], fixed, seed])


@contextmanager
def _resumable_or_as_before(out_dir: Path, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Where the block fails before its first checkpoint, all is as it was: nothing there, or what `force` replaces."""
    main, aside = accelerator.is_main_process, out_dir.with_name(f".{out_dir.name}.old")
    if main and not resume and out_dir.exists():
        shutil.rmtree(aside, ignore_errors=True)
        out_dir.rename(aside)
    accelerator.wait_for_everyone()
    try:
        yield
    finally:
        if main and any(any(out_dir.rglob(name)) for name in (CHECKPOINT, MANIFEST)):
            shutil.rmtree(aside, ignore_errors=True)
        elif main:
            shutil.rmtree(out_dir, ignore_errors=True)
            if aside.exists():
                aside.rename(out_dir)


def _copy(source: Path, destination: Path) -> None:
    part = destination.with_suffix(".part")
    shutil.copyfile(source, part)
    part.replace(destination)


def _done(folder: Path) -> bool:
    """Whether the student is there; a checkpoint that an interrupt left beside it is not needed."""
    if not (folder / MANIFEST).is_file():
        return False
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return True


def _check_output(out_dir: Path, settings_digest: str, inputs: Sequence[str], *, force: bool, resume: bool) -> None:
    if resume and force:
        raise RecipeError("--force starts anew and --resume goes on", where=str(out_dir), hint="give one of them")
    if not resume:
        refuse_existing(out_dir, force=force, kind="student", inputs=inputs)
        return
    if not (out_dir / RUN_MARK).is_file():
        raise OutputError("holds no run to resume", where=str(out_dir), hint="leave --resume out to start one")
    if read_json(out_dir / RUN_MARK).get("settings") != settings_digest:
        raise RecipeError(
            "the run to resume was started with other settings",
            where=str(out_dir),
            hint="give the same recipe and flags, or start another run elsewhere",
        )


def _start_folder(out_dir: Path, settings_digest: str) -> None:
    shutil.rmtree(out_dir, ignore_errors=True)
    make_folder(out_dir)
    write_run_mark(out_dir, "student", {"settings": settings_digest})
