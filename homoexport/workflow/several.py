"""Several students of one recipe: one distillation, a run's folder for each, and one page that compares them.

Each student's folder is that of a run of its own recipe, the same with this one student; what all share is there as
hard links, so that `report`, `verify` and `bench` take it as any other.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from homoexport.documents.artifact import MANIFEST, RUN_MARK, Manifest, verify
from homoexport.documents.document import write_document
from homoexport.documents.layout import (
    CHECKPOINT,
    FINETUNED,
    HTML_REPORT,
    MEASURED,
    STUDENT,
    STUDENTS,
    SUMMARY,
    TEACHER,
)
from homoexport.documents.output import output_errors, replacing, staged
from homoexport.documents.recipe import Recipe
from homoexport.documents.run_folder import begin, check_output, holds, is_finished, refuse_other_work
from homoexport.documents.summary import Summary
from homoexport.report import write_side_by_side
from homoexport.workflow.check import inputs_of
from homoexport.workflow.distill import distill_students
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.run import Journey, checked_teacher
from homoexport.workflow.summary import checked_summary
from homoexport.workflow.turns import read_measured


def run_students(
    recipe: Recipe, *, output: Path, force: bool = False, resume: bool = False, progress: Progress = QUIET
) -> dict[str, Summary]:
    """Distil a recipe's students out of one run, export and measure each, and compare them; summaries by their names.

    Args:
        output: becomes the folder of all: a run's folder for each student, and `report.html`, which lays them side by
            side.
        force, resume: as of `run`.

    Raises:
        UserError, ParityError, DoesNotFit: see `run`.
    """
    check_output(output, "run", recipe.digest(), inputs=inputs_of(recipe), force=force, resume=resume)
    teacher, task = checked_teacher(recipe, output, resume=resume, progress=progress)

    def is_worth_keeping() -> bool:
        return is_finished(output / FINETUNED) or holds(output / STUDENTS, CHECKPOINT, MANIFEST)

    is_done = (output / HTML_REPORT).is_file
    with replacing(output, force=force, resume=resume, is_worth_keeping=is_worth_keeping, is_done=is_done):
        if resume:
            refuse_other_work(output, recipe.digest())
        else:
            begin(output, "run", recipe.digest(), recipe=recipe)
        journey = Journey(recipe, output, teacher, progress)
        if task is not None:
            journey = replace(journey, teacher=journey.finetuned(task))
        students = _distilled(journey)
        journey.export_teacher()
        runs = {str(shape.name): output / str(shape.name) for shape in recipe.students}
        for shape, student in zip(recipe.students, students, strict=True):
            progress.on_stage(f"The student {shape.name}")
            _run_of_one(journey, recipe.of_student(shape), runs[str(shape.name)], student)
        summaries = {name: checked_summary(folder) for name, folder in runs.items()}
        with output_errors(output):
            measured = [read_measured(folder / MEASURED) for folder in runs.values()]
            write_side_by_side(output / HTML_REPORT, summaries, measured)
    return summaries


def _distilled(journey: Journey) -> list[Path]:
    """The students' folders, kept or made."""
    recipe, folder = journey.recipe, journey.folder / STUDENTS
    with journey.stage("distill", f"Distilling {recipe.teacher}"):
        made = distill_students(
            journey.teacher,
            text=recipe.text,
            shapes=recipe.students,
            settings=recipe.distill,
            output=folder,
            vocabulary=recipe.vocabulary,
            seed=recipe.seed,
            resume=(folder / RUN_MARK).is_file(),
            recipe_digest=recipe.digest(),
            progress=journey.progress,
        )
    journey.teacher.model.to("cpu")  # where it is exported
    return made


def _run_of_one(journey: Journey, recipe: Recipe, folder: Path, student: Path) -> None:
    """Export and measure one student in a run's folder of its own."""
    if (folder / SUMMARY).is_file():
        return
    if not (folder / RUN_MARK).is_file():
        begin(folder, "run", recipe.digest(), recipe=recipe)
    shared = {FINETUNED: journey.folder / FINETUNED, TEACHER: journey.folder / TEACHER, STUDENT: student}
    for name, made in shared.items():
        if made.is_dir() and not is_finished(folder / name):
            _take_over(made, folder / name, recipe)
    Journey(recipe, folder, journey.teacher, journey.progress).run()


def _take_over(made: Path, folder: Path, recipe: Recipe) -> None:
    """Have an artifact in another folder as one of another recipe's, its files as hard links where the disk has any."""

    def linked(source: str, target: str) -> None:
        with suppress(OSError):
            os.link(source, target)
            return
        shutil.copy2(source, target)

    manifest = verify(made, Manifest, strict=False)
    with staged(folder) as new:
        shutil.copytree(made, new, dirs_exist_ok=True, copy_function=linked)
        write_document(new / MANIFEST, manifest.model_copy(update={"recipe": recipe.digest()}))
