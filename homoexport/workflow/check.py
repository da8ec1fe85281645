"""What would stop a run half-way, found before it begins; what needs no model is checked before anything is loaded.

Rooms that need torch are imported where they are used.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import UNLABELLED_TASKS
from homoexport.documents.outlook import Outlook, RunTime, SourceFound
from homoexport.documents.recipe import Recipe, StudentShape, load_recipe
from homoexport.documents.run_folder import check_output
from homoexport.errors import OutputError, RecipeError
from homoexport.shape import Shape
from homoexport.stages.evaluate import TASKS, JudgedExamples, torch_package
from homoexport.stages.measure import check_measurement, refuse_uncounted
from homoexport.text.columns import shown
from homoexport.text.sources import columns_of
from homoexport.workflow.gate import check_gate, gate_data
from homoexport.workflow.job import check_before_loading
from homoexport.workflow.measure import refuse_emulated_latency, texts_of
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.runtimes import refuse_without
from homoexport.workflow.text import sample_of
from homoexport.workflow.vectors import second_model

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.sample import SourceSample, TextSample

_STATES = 3  # tensors as large as the student that a checkpoint holds: weights, and AdamW's two moments
_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Checked:
    """A run that can be done: its teacher, the beginning of its text, and its student's shape, None where it is still
    to be planned.

    `asked` are the parameters of the model whose vectors teach, 0 without one; `judged` is how many texts each model is
    asked for a floor of quality.
    """

    recipe: Recipe
    teacher: Encoder
    text: TextSample
    student: Shape | None
    asked: int
    judged: int


def check(
    recipe: Recipe | Path | str,
    *,
    output: Path | str | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> Outlook:
    """Find all that can be known to stop a run, and say what it would do, and about how long it would take.

    Args:
        recipe: what to do, or the YAML file that says it.
        output: where its folder would lie; by default below `runs`.
        force, resume: as of `run`.

    Raises:
        UserError: what would stop it: files, columns, labels, widths, a device, a number of threads, too little text or
            room on the disk, a floor of quality that cannot be judged, an output that may not be replaced.

    Example:
        >>> outlook = check("recipes/quickstart.yaml")  # doctest: +SKIP
        >>> outlook.time.total  # seconds  # doctest: +SKIP
        214.0
    """
    from homoexport.workflow.estimate import time_of_run

    recipe, place = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe)), Path(output or "runs")
    if output is not None:
        check_output(place, "run", recipe.digest(), inputs=inputs_of(recipe), force=force, resume=resume)
    checked = check_recipe(recipe, output=None if resume else place)
    progress.on_share("making a few steps, to say how long all of them take", 0.0)
    return outlook_of(checked, place, time=time_of_run(checked))


def inputs_of(recipe: Recipe) -> list[str]:
    """What a run reads, and may not replace."""
    return [recipe.teacher, *recipe.text.paths, *filter(None, [recipe.distill.vectors_from])]


def check_recipe(recipe: Recipe, *, output: Path | None = None) -> Checked:
    """`check`, for the run that follows; there is room for it, where an output is named."""
    student, judged = _checked_without_models(recipe)
    settings = recipe.measure
    from homoexport.encoder import load_encoder, max_length_of
    from homoexport.stages.distill import TASKS as OBJECTIVES
    from homoexport.stages.distill import targets_of
    from homoexport.stages.export.package import refuse_unknown

    teacher = load_encoder(recipe.teacher, task=OBJECTIVES[recipe.distill.objective])
    refuse_unknown(teacher, recipe.export.runtime)
    targets = targets_of(
        teacher, [] if student is None else [student], recipe.distill, max_length=recipe.text.max_length
    )
    if settings.length > (longest := max_length_of(teacher)):
        raise RecipeError(
            f"length {settings.length} is more than the teacher's {longest} tokens",
            where="measure.length",
            hint=f"at most {longest}",
        )
    text = sample_of(teacher, recipe.text, recipe.distill.objective, batch_size=recipe.distill.batch_size)
    second = second_model(recipe.distill)
    if recipe.quality is not None and judged is not None:
        width = None
        if student is not None and recipe.output == "student":
            width = student.hidden_size or teacher.model.config.hidden_size
        judge = torch_package(second or teacher)
        check_gate(recipe.quality, judged, teacher=judge, hidden_size=width, output=recipe.output)
    shape, asked = targets[0] if targets else None, 0 if second is None else second.parameters
    checked = Checked(recipe, teacher, text, shape, asked, _judged_texts(recipe, judged))
    if output is not None:
        _refuse_full_disk(checked, output)
    return checked


def _checked_without_models(recipe: Recipe) -> tuple[StudentShape | None, JudgedExamples | None]:
    """What is asked for of the student, and what it will be judged on, once what needs no model is checked."""
    student, settings = None if recipe.is_planned else student_of(recipe), recipe.measure
    refuse_emulated_latency(recipe.budget, settings.device)
    refuse_uncounted(settings.device)
    refuse_without(recipe.export, settings.device, calibrated=True)  # on held-out text
    workload = settings.threads, settings.batch_size, settings.length
    check_measurement(settings.device, [workload], texts=texts_of(settings), min_seconds=settings.min_seconds)
    check_before_loading(recipe.text, recipe.distill, recipe.vocabulary)
    return student, None if recipe.quality is None else gate_data(recipe.quality)


def _judged_texts(recipe: Recipe, judged: JudgedExamples | None) -> int:
    """How many texts each model is asked that is held against the floor of quality."""
    if recipe.quality is None or judged is None:
        return 0
    task, is_held_out = TASKS[judged.task], recipe.quality.data is None and judged.task in UNLABELLED_TASKS
    count = recipe.text.held_out if is_held_out else len(judged.examples.texts)
    return min(count, task.max_texts or count) * (2 if task.pairs == "needed" else 1)


def student_of(recipe: Recipe) -> StudentShape:
    """The one student of a recipe that can go the whole way."""
    if recipe.student is None:
        raise RecipeError(
            "a run exports and measures one student", where="students", hint="distil them with `homoexport distill`"
        )
    return recipe.student


def _refuse_full_disk(checked: Checked, output: Path) -> None:
    folder, needed, free = _disk(checked, output)
    if free < needed:
        what = f"has {free / 1e9:.1f} GB free, and the run needs {needed / 1e9:.1f} GB at least"
        raise OutputError(what, where=str(folder), hint="make room there, or name another place with -o")


def _disk(checked: Checked, output: Path) -> tuple[Path, int, int]:
    """The folder that the run's will lie in or below, the bytes that it needs at least, and those that are free."""
    place = output.absolute()
    folder = next(each for each in (place, *place.parents) if each.is_dir())
    teacher, student = checked.teacher.parameters, _student_parameters(checked) or 0
    needed = _FLOAT32 * (teacher + (_STATES + 1) * student)  # its package; a checkpoint, and then the student
    return folder, needed, shutil.disk_usage(folder).free


def _student_parameters(checked: Checked) -> int | None:
    from homoexport.encoder import family_of, parameters_at

    if checked.student is None:
        return None
    model = checked.teacher.model
    return parameters_at(model, family_of(model.config), checked.student)


def outlook_of(checked: Checked, output: Path, *, time: RunTime | None) -> Outlook:
    """What was found, for whoever decides on the run."""
    from homoexport.encoder import family_of

    recipe, teacher, text = checked.recipe, checked.teacher, checked.text
    distill, measure, quality = recipe.distill, recipe.measure, recipe.quality
    _, needed, free = _disk(checked, output)
    return Outlook(
        recipe=recipe.name,
        teacher=recipe.teacher,
        task=teacher.task,
        family=teacher.model.config.model_type,
        teacher_shape=family_of(teacher.model.config).widths(teacher.model).shape,
        teacher_parameters=teacher.parameters,
        text=tuple(map(_found, text.sources)),
        max_length=recipe.text.max_length,
        tokens=round(text.tokens(), 1),
        held_out=recipe.text.held_out,
        objective=distill.objective,
        method=distill.method,
        steps=distill.steps,
        batch_size=distill.batch_size,
        student_shape=checked.student,
        student_parameters=_student_parameters(checked),
        device=measure.device,
        threads=measure.threads,
        workload=(measure.batch_size, measure.length),
        budget=recipe.budget.lines(),
        quality=None if quality is None else f"{quality.metric or quality.task} of at least {quality.floor}",
        disk_needed_bytes=needed,
        disk_free_bytes=free,
        time=time,
    )


def _found(source: SourceSample) -> SourceFound:
    times = source.whole()
    rows = ({role: shown(cell) for role, cell in row.items() if role != "vector"} for row in source.rows)
    return SourceFound(
        source=source.name,
        files=source.files,
        columns=columns_of(source.sequencer.source),
        sequences=None if times is None else round(source.sequences * times),
        rows=tuple(rows),
    )
