"""Distilling by name: from a teacher's name and a recipe's sections to a student's folder, or to several.

The rooms that need torch are imported where they are used, after what was asked for is checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.documents.artifact import MANIFEST, DistilledManifest, Manifest, verify
from homoexport.documents.document import copy_file, digest_of
from homoexport.documents.layout import CHECKPOINT, END_STATE, LOG, TRACKERS
from homoexport.documents.output import output_errors, replacing
from homoexport.documents.recipe import (
    DistillSettings,
    StudentShape,
    TextSettings,
    TextSource,
    VocabularySettings,
)
from homoexport.documents.run_folder import (
    begin,
    check_output,
    forget_checkpoints,
    holds,
    is_finished,
    refuse_other_work,
)
from homoexport.errors import PackageError
from homoexport.shape import PartialShape, Shape
from homoexport.workflow.job import check_before_loading, open_job
from homoexport.workflow.progress import QUIET, Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from homoexport.encoder import Encoder
    from homoexport.stages.distill import Job
    from homoexport.workflow.student import Place

# Between a run and its resumption.
_FREE_TO_CHANGE = {
    "threads",
    "trackers",
    "micro_batch_size",
    "checkpoint_every",
    "activation_checkpointing",
    "compile",
    "teacher_cache_gb",
}
PRUNE_ON_STEPS, _PRUNE_ON_UNTIL = 0.4, 0.5  # share of the steps, and of these until the narrower width is reached
_BRANCH_PRUNES_UNTIL = 0.3  # where the trunk's heads are not the branch's: share of the branch's steps


def distill(
    teacher: str | Encoder,
    *,
    text: TextSettings | str,
    shape: PartialShape,
    settings: DistillSettings,
    output: Path,
    vocabulary: VocabularySettings | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    keep_state: bool = False,
    recipe_digest: str | None = None,
    progress: Progress = QUIET,
) -> DistilledManifest:
    """Distil a student out of a teacher and save it as a stock model folder.

    Runs under `accelerate launch` as it stands; the first process alone writes.

    Args:
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`; or what `load_encoder` made of one of these.
        text: what to distil on, or a glob of files of it.
        output: becomes the student's folder: config, weights, tokenizer, log, manifest.
        vocabulary: which pieces of the tokenizer stay; all, unless it or `shape.vocab_size` is given.
        seed: of data order, held-out split and masks.
        force: replace `output` where it is a folder that homoexport wrote.
        resume: go on from the last checkpoint in `output`, on any number of processes.
        keep_state: leave what `prune_on` goes on from.

    Raises:
        TeacherError, TextError, ShapeError, OutputError, RecipeError, TrainingError: see `homoexport.errors`.
        KeyboardInterrupt, SystemExit: a signal came while it made steps; `resume` goes on after the last one.

    Example:
        >>> settings = DistillSettings(objective="sentence-embedding", steps=1000, batch_size=32)
        >>> shape, out = PartialShape(hidden_size=192), Path("student")
        >>> student = distill("minilm", text="*.txt", shape=shape, settings=settings, output=out)  # doctest: +SKIP
    """
    if isinstance(text, str):
        text = TextSettings(sources=(TextSource(files=text),))
    work = _work_digest(teacher, text, [shape], settings, seed, vocabulary)
    check_output(output, "student", work, inputs=_inputs(teacher, text, settings), force=force, resume=resume)
    if resume and _is_done(output):
        return verify(output, DistilledManifest, strict=False)
    check_before_loading(text, settings, vocabulary)
    from homoexport.stages.distill import all_processes_alive
    from homoexport.workflow.student import Place, run_student

    with all_processes_alive():
        job = open_job(
            teacher,
            text=text,
            settings=settings,
            seed=seed,
            shapes=[shape],
            vocabulary=vocabulary,
            tracker_dir=output / TRACKERS,
            progress=progress,
        )
        place = Place(output, work, recipe_digest, resume, progress, keep_state=keep_state)
        with _replacing_together(output, work, job.accelerator, [output], force=force, resume=resume):
            if _is_done(output):  # by another process, before this one held the folder
                return verify(output, DistilledManifest, strict=False)
            return run_student(job, place, job.targets[0])


def prune_on(
    student: Path,
    *,
    teacher: str | Encoder,
    text: TextSettings,
    shape: PartialShape,
    settings: DistillSettings,
    output: Path,
    vocabulary: VocabularySettings | None = None,
    seed: int = 0,
    resume: bool = False,
    recipe_digest: str | None = None,
    progress: Progress = QUIET,
) -> DistilledManifest:
    """Prune a finished student further, from where its distillation ended, to a narrower one.

    It takes `PRUNE_ON_STEPS` of the steps, half of them pruning, and leaves its own state to go on from, too. The
    student's folder is one that `distill` or this function left with its state (`keep_state`); teacher, text, words and
    settings are those that it was distilled with. No width of the shape is more than the student's.
    """
    if not (student / END_STATE).is_file() and not (output / CHECKPOINT).is_file() and not _is_done(output):
        raise PackageError("has left no state to go on from", where=str(student), hint="distil it again")
    before = verify(student, Manifest, strict=False).digest
    work = digest_of([_work_digest(teacher, text, [shape], settings, seed, vocabulary), before])
    check_output(output, "student", work, inputs=_inputs(teacher, text, settings), force=False, resume=resume)
    if resume and _is_done(output):
        return verify(output, DistilledManifest, strict=False)
    further = settings.model_copy(
        update={
            "steps": max(2, round(PRUNE_ON_STEPS * settings.steps)),
            "prune_from": 0.0,
            "prune_until": _PRUNE_ON_UNTIL,
            "method": "homodistil",
        }
    )
    from homoexport.stages.distill import all_processes_alive
    from homoexport.workflow.student import Place, run_student

    with all_processes_alive():
        job = open_job(
            teacher,
            text=text,
            settings=further,
            seed=seed,
            shapes=[shape],
            vocabulary=vocabulary,
            tracker_dir=output / TRACKERS,
            progress=progress,
        )
        with _replacing_together(output, work, job.accelerator, [output], resume=resume):
            if _is_done(output):
                return verify(output, DistilledManifest, strict=False)
            if not (output / CHECKPOINT).is_file():
                begin(output, "student", work)
                copy_file(student / LOG, output / LOG)  # the way up to here
                copy_file(student / END_STATE, output / CHECKPOINT)
            place = Place(output, work, recipe_digest, True, progress, keep_state=True)
            return run_student(job, place, job.targets[0])


def forget_state(student: Path) -> None:
    """Remove what `prune_on` would go on from: no part of the student."""
    (student / END_STATE).unlink(missing_ok=True)


def distill_students(
    teacher: str | Encoder,
    *,
    text: TextSettings,
    shapes: Sequence[StudentShape],
    settings: DistillSettings,
    output: Path,
    vocabulary: VocabularySettings | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    recipe_digest: str | None = None,
    progress: Progress = QUIET,
) -> list[Path]:
    """Distil several students out of one run.

    The run prunes toward the narrowest student, for `prune_until` of the steps. As its width passes a wider one's, it
    leaves a checkpoint there; each such branch is finished afterwards with its own share of steps (`finish`). Shapes
    are named and the widest comes first; `output` becomes a folder with a student's folder for each name, which are
    returned in this order.
    """
    work = _work_digest(teacher, text, shapes, settings, seed, vocabulary)
    check_output(output, "student", work, inputs=_inputs(teacher, text, settings), force=force, resume=resume)
    folders = [output / str(shape.name) for shape in shapes]
    if resume and all(_is_done(folder) for folder in folders):
        return folders
    check_before_loading(text, settings, vocabulary)
    from homoexport.stages.distill import all_processes_alive
    from homoexport.workflow.student import Place, run_student

    trunk_settings = _settings_of_trunk(settings, finish=shapes[-1].finish)

    def place_of(folder: Path, *, goes_on: bool) -> Place:
        return Place(folder, work, recipe_digest, goes_on, progress, name=folder.name)

    with all_processes_alive():
        job = open_job(
            teacher,
            text=text,
            settings=settings,
            seed=seed,
            shapes=shapes,
            vocabulary=vocabulary,
            tracker_dir=output / TRACKERS,
            progress=progress,
        )
        with _replacing_together(output, work, job.accelerator, folders, force=force, resume=resume):
            if job.accelerator.is_main_process and not resume:
                begin(output, "student", work)
            job.accelerator.wait_for_everyone()
            if not _is_done(folders[-1]):
                run_student(
                    job.with_settings(trunk_settings),
                    place_of(folders[-1], goes_on=resume),
                    job.targets[-1],
                    waypoints=list(zip(folders[:-1], job.targets[:-1], strict=True)),
                )
            for folder, shape, target in zip(folders[:-1], shapes, job.targets, strict=False):
                if not _is_done(folder):
                    _finish_branch(job, place_of(folder, goes_on=True), target, trunk=folders[-1], finish=shape.finish)
    return folders


def _settings_of_trunk(settings: DistillSettings, *, finish: float) -> DistillSettings:
    """Pruning as long as it was asked for, and then the narrowest student's share of the steps."""
    steps = round((settings.prune_until + finish) * settings.steps)
    shares = {name: getattr(settings, name) * settings.steps / steps for name in ("prune_from", "prune_until")}
    return settings.model_copy(update={"steps": steps, **shares})


def _finish_branch(job: Job, place: Place, target: Shape, *, trunk: Path, finish: float) -> None:
    """Go on from where a wider student branched off, for its own share of the steps."""
    from homoexport.workflow.student import run_student

    if job.accelerator.is_main_process and not (place.folder / LOG).exists():
        copy_file(trunk / LOG, place.folder / LOG)  # the way up to where it branched off
    settings = job.settings.model_copy(
        update={
            "steps": max(1, round(finish * job.settings.steps)),
            "warmup": 0.0,
            "prune_from": 0.0,
            "prune_until": _BRANCH_PRUNES_UNTIL,
        }
    )
    run_student(job.with_settings(settings), place, target)


def _work_digest(
    teacher: str | Encoder,
    text: TextSettings,
    shapes: Sequence[PartialShape],
    settings: DistillSettings,
    seed: int,
    vocabulary: VocabularySettings | None = None,
) -> str:
    """What must not change between a run and its resumption; where and how it is computed may."""
    fixed = settings.model_dump(mode="json", exclude=_FREE_TO_CHANGE)
    asked = [shape.model_dump(mode="json") for shape in shapes]
    # The sizes that a plan chose among: that of these students stands in their shapes.
    words = [] if vocabulary is None else [vocabulary.model_dump(mode="json", exclude={"sizes"})]
    of = teacher if isinstance(teacher, str) else teacher.artifact or teacher.source
    return digest_of([of, text.model_dump(mode="json"), asked, fixed, seed, *words])


def _name_of(teacher: str | Encoder) -> str:
    return teacher if isinstance(teacher, str) else teacher.source


def _inputs(teacher: str | Encoder, text: TextSettings, settings: DistillSettings) -> list[str]:
    """What the output may not replace."""
    return [_name_of(teacher), *text.paths, *filter(None, [settings.vectors_from])]


@contextmanager
def _replacing_together(
    output: Path, work: str, accelerator: Accelerator, students: Sequence[Path], *, force: bool = False, resume: bool
) -> Iterator[None]:
    """Where the block fails before its first checkpoint, all is as it was: nothing there, or what `force` replaces."""

    def is_worth_keeping() -> bool:
        return holds(output, CHECKPOINT, MANIFEST)

    def is_done() -> bool:
        return all(map(is_finished, students))

    of_first = replacing(output, force=force, resume=resume, is_worth_keeping=is_worth_keeping, is_done=is_done)
    with output_errors(output), of_first if accelerator.is_main_process else nullcontext():
        if resume and accelerator.is_main_process:
            refuse_other_work(output, work)
        accelerator.wait_for_everyone()
        yield


def _is_done(folder: Path) -> bool:
    """Whether the student is there; a checkpoint that an interrupt left beside it is not needed."""
    if not is_finished(folder):
        return False
    if int(os.environ.get("RANK", "0")) == 0:
        forget_checkpoints(folder)
    return True
