"""Several runs of one recipe, for its students or its budgets: a folder of each, and one page that compares them.

Each folder is that of a run of its own recipe, the same with this one student or budget; what all share (the teacher's
own, and students out of one distillation) is there as hard links, so that `report`, `verify` and `bench` take it as
any other. In the end all packages are measured in turns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from homoexport.choices import RuntimeChoice
from homoexport.documents.artifact import MANIFEST, RUN_MARK, Manifest, verify, write_manifest
from homoexport.documents.document import write_document
from homoexport.documents.layout import (
    FINETUNED,
    HTML_REPORT,
    MEASURED,
    MEASUREMENT,
    PACKAGE,
    STUDENT,
    STUDENTS,
    SUMMARY,
    TEACHER,
)
from homoexport.documents.output import staged
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.documents.run_folder import begin, is_finished
from homoexport.documents.summary import Summary
from homoexport.errors import BudgetError, DoesNotFit, RecipeError
from homoexport.workflow.distill import distill_students
from homoexport.workflow.measure import measure_once
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.run import Journey, begun
from homoexport.workflow.summary import measured_together, report_several
from homoexport.workflow.turns import Turns


def run_several(
    recipe: Recipe | Path | str,
    *,
    output: Path | str,
    force: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Summary]:
    """`run` for each student or budget of a recipe, and compare them: their summaries by name.

    Times and memory are those of one measurement of all packages in turns; verdicts are each run's own. A student that
    the device cannot hold has no summary.

    Args:
        recipe: what to do, or the YAML file that says it.
        output: becomes the folder of all: a run's folder of each, and `report.html`, which lays them side by side.
        force, resume: as of `run`.

    Raises:
        UserError, ParityError: see `run`; or the recipe is of one run. A budget that nothing keeps is told before a
            student is made.
        DoesNotFit: the device can hold none of the students.

    Example:
        >>> runs = run_several("recipes/family.yaml", output="runs/family")  # doctest: +SKIP
        >>> {name: run.student.latency_p95_ms for name, run in runs.items()}  # doctest: +SKIP
        {'wide': 8.1, 'narrow': 3.9}
    """
    recipe, folder = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe)), Path(output)
    if not recipe.parts:
        raise RecipeError("has neither 'students' nor 'budgets'", where=recipe.name, hint="`run` is for one student")
    with begun(recipe, folder, over=HTML_REPORT, force=force, resume=resume, progress=progress) as journey:
        journeys = [_begun(journey, part) for part in recipe.parts]
        students = _distilled(journey) if recipe.students else []
        journey.export_teacher()
        for each, student in zip_longest(journeys, students):
            _share(journey.folder, student, each)
        _run(journeys)
        _measure_in_turns(journey, [each.folder / PACKAGE for each in journeys if (each.folder / SUMMARY).is_file()])
        return report_several(folder)


def is_kept(recipe: Recipe, runs: Mapping[str, Summary]) -> bool:
    """Whether all of a recipe's budgets are kept, or its one budget by one of the students at least."""
    kept = [part.name in runs and runs[part.name].budget_kept is True for part in recipe.parts]
    return all(kept) if recipe.budgets else any(kept)


def _distilled(journey: Journey) -> list[Path]:
    """The students' folders, kept or made."""
    recipe, folder = journey.recipe, journey.folder / STUDENTS
    if recipe.budget.relative and not folder.is_dir():
        journey.refuse_unheld_teacher()
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


def _begun(journey: Journey, recipe: Recipe) -> Journey:
    """The journey of one student or budget, in a folder of its own; planned where its student is not given."""
    folder = journey.folder / recipe.name
    if not (folder / RUN_MARK).is_file():
        begin(folder, "run", recipe.digest(), recipe=recipe)
    one = replace(journey, recipe=recipe, folder=folder)
    if recipe.is_planned:
        try:
            one.planned()
        except BudgetError as error:
            raise BudgetError(error.what, where=f"budgets.{recipe.name}", hint=error.hint) from None
    return one


def _share(common: Path, student: Path | None, journey: Journey) -> None:
    """Have in a run's folder what was made once for all, and its student where it has one already."""
    shared = {FINETUNED: common / FINETUNED, TEACHER: common / TEACHER, STUDENT: student}
    for name, made in shared.items():
        if made is not None and made.is_dir() and not is_finished(journey.folder / name):
            _take_over(made, journey.folder / name, journey.recipe)


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


def _run(journeys: Sequence[Journey]) -> None:
    """Each run that is not over; where the device holds no student, the last one's refusal."""
    refused = None
    for journey in journeys:
        if (journey.folder / SUMMARY).is_file() and (journey.folder / HTML_REPORT).is_file():
            Turns(journey.folder).forget_states()  # which a stop just before may have left
            continue
        journey.progress.on_stage(f"The run {journey.recipe.name}")
        try:
            journey.run()
        except DoesNotFit as error:
            refused = error
            journey.progress.on_note(f"{journey.recipe.name} is left out: {error.what}")
    if refused is not None and not any((journey.folder / SUMMARY).is_file() for journey in journeys):
        raise refused


def _measure_in_turns(journey: Journey, packages: Sequence[Path]) -> None:
    """The teacher's package and those of all runs in one measurement, unless it is there."""
    recipe, folder = journey.recipe, journey.folder / MEASURED
    measured = [journey.folder / TEACHER, *packages]
    parent = measured_together(journey.folder, [package.parent.name for package in packages])
    if is_finished(folder) and verify(folder, Manifest, strict=False).parent == parent:
        return
    runtimes: list[RuntimeChoice] = ["onnxruntime", *[recipe.export.runtime] * len(packages)]
    title = f"Measuring all on {recipe.measure.device}, in turns"
    with journey.stage("measure", title), staged(folder, force=is_finished(folder)) as new:
        found = measure_once(measured, recipe.measure, runtime=runtimes, progress=journey.progress)
        write_document(new / MEASUREMENT, found)
        write_manifest(new, "measurement", parent=parent, recipe=recipe.digest())
