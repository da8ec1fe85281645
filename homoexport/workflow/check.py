"""What would stop a run half-way, found before it begins; what needs no model is checked before anything is loaded.

Rooms that need torch are imported where they are used.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import UNLABELLED_TASKS
from homoexport.documents.outlook import Learning, Outlook, RunTime, SourceFound
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.documents.run_folder import check_output
from homoexport.errors import OutputError, RecipeError, TextError
from homoexport.shape import Shape
from homoexport.stages.evaluate import (
    TASKS,
    JudgedExamples,
    LabelledTask,
    label_indices,
    own_task,
    torch_package,
)
from homoexport.stages.measure import check_measurement, refuse_uncounted
from homoexport.text.columns import shown
from homoexport.text.sources import columns_of
from homoexport.workflow.gate import check_gate, gate_data
from homoexport.workflow.job import check_before_loading, check_threads, checked_size
from homoexport.workflow.measure import refuse_emulated_latency, texts_of
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.runtimes import refuse_without
from homoexport.workflow.text import sample_of
from homoexport.workflow.trim import check_sizes
from homoexport.workflow.vectors import second_model
from homoexport.workflow.vocabularies import SIZES

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.sample import SourceSample, TextSample

_STATES = 3  # tensors as large as the student that a checkpoint holds: weights, and AdamW's two moments
_FLOAT32 = 4  # bytes
_COLUMNS = {f"--{role}-column": f"{role}_column" for role in ("text", "pair", "label")}


@dataclass(frozen=True)
class Checked:
    """A run that can be done: its teacher, the beginning of its text, and its students' shapes, the widest first; none
    where one is still to be planned.

    `asked` are the parameters of the model whose vectors teach, 0 without one; `judged` is how many texts each model is
    asked for a floor of quality. `task` is what the teacher is to learn first; its head is new, then, and answers
    nothing of worth.
    """

    recipe: Recipe
    teacher: Encoder
    text: TextSample
    students: tuple[Shape, ...]
    asked: int
    judged: int
    task: LabelledTask | None = None

    @property
    def student(self) -> Shape | None:
        """The widest."""
        return next(iter(self.students), None)


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
        how = {"force": force, "resume": resume}
        check_output(place, "run", recipe.digest(), inputs=inputs_of(recipe), recipe=recipe, **how)
    checked = check_recipe(recipe, output=None if resume else place)
    progress.on_share("making a few steps, to say how long all of them take", 0.0)
    return outlook_of(checked, place, time=time_of_run(checked))


def inputs_of(recipe: Recipe) -> list[str]:
    """What a run reads, and may not replace."""
    learned = () if recipe.finetune is None else recipe.finetune.data(recipe.text, recipe.quality)
    labelled = [each.files for each in learned]
    return [recipe.teacher, *recipe.text.paths, *labelled, *filter(None, [recipe.distill.vectors_from])]


def check_recipe(recipe: Recipe, *, output: Path | None = None) -> Checked:
    """`check`, for the run that follows; there is room for it, where an output is named."""
    judged, task = _checked_without_models(recipe)
    settings, shapes = recipe.measure, recipe.shapes
    from homoexport.encoder import load_classifier, load_encoder, max_length_of
    from homoexport.stages.distill import TASKS as OBJECTIVES
    from homoexport.stages.distill import targets_of
    from homoexport.stages.export.package import refuse_unknown

    if task is None:
        teacher = load_encoder(recipe.teacher, task=OBJECTIVES[recipe.distill.objective])
    else:
        teacher = load_classifier(recipe.teacher, task.names)
    refuse_unknown(teacher, recipe.export.runtime)
    if recipe.vocab_sizes:
        check_sizes(teacher, recipe.vocabulary, recipe.vocab_sizes, key=SIZES)
    checked_size(teacher, recipe.vocabulary, shapes)
    targets = targets_of(teacher, shapes, recipe.distill, max_length=recipe.text.max_length)
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
        if shapes and recipe.output == "student":
            width = shapes[-1].hidden_size or teacher.model.config.hidden_size
        judge = torch_package(second or teacher)
        check_gate(recipe.quality, judged, teacher=judge, hidden_size=width, output=recipe.output)
    asked = 0 if second is None else second.parameters
    checked = Checked(recipe, teacher, text, targets, asked, _judged_texts(recipe, judged), task)
    if output is not None:
        _refuse_full_disk(checked, output)
    return checked


def _checked_without_models(recipe: Recipe) -> tuple[JudgedExamples | None, LabelledTask | None]:
    """What a student will be judged on, and what its teacher is to learn, once what needs no model is checked."""
    settings = recipe.measure
    for budget in (recipe.budget, *recipe.budgets.values()):
        refuse_emulated_latency(budget, settings.device)
    refuse_uncounted(settings.device)
    refuse_without(recipe.export, settings.device, calibrated=True)  # on held-out text
    workload = settings.threads, settings.batch_size, settings.length
    check_measurement(settings.device, [workload], texts=texts_of(settings), min_seconds=settings.min_seconds)
    check_before_loading(recipe.text, recipe.distill, recipe.vocabulary)
    return None if recipe.quality is None else gate_data(recipe.quality), _task_to_learn(recipe)


def _judged_texts(recipe: Recipe, judged: JudgedExamples | None) -> int:
    """How many texts each model is asked that is held against the floor of quality."""
    if recipe.quality is None or judged is None:
        return 0
    task, is_held_out = TASKS[judged.task], recipe.quality.data is None and judged.task in UNLABELLED_TASKS
    count = recipe.text.held_out if is_held_out else len(judged.examples.texts)
    return min(count, task.max_texts or count) * (2 if task.pairs == "needed" else 1)


def _task_to_learn(recipe: Recipe) -> LabelledTask | None:
    """What the teacher is to be fine-tuned on first."""
    asked = recipe.finetune
    if asked is None:
        return None
    check_threads(asked.threads, where="finetune.threads")
    train, dev = asked.data(recipe.text, recipe.quality)
    called = "finetune.train", "finetune.dev" if asked.dev else "quality.data"
    try:
        return own_task(asked.task, train.files, dev.files, train.columns, dev_columns=dev.columns, called=called)
    except TextError as error:
        raise error.renamed(_COLUMNS) from None


def _refuse_full_disk(checked: Checked, output: Path) -> None:
    folder, needed, free = _disk(checked, output)
    if free < needed:
        what = f"has {free / 1e9:.1f} GB free, and the run needs {needed / 1e9:.1f} GB at least"
        raise OutputError(what, where=str(folder), hint="make room there, or name another place with -o")


def _disk(checked: Checked, output: Path) -> tuple[Path, int, int]:
    """The folder that the run's will lie in or below, the bytes that it needs at least, and those that are free."""
    place = output.absolute()
    folder = next(each for each in (place, *place.parents) if each.is_dir())
    teacher, students = checked.teacher.parameters, sum(_parameters(checked, shape) for shape in checked.students)
    teachers = teacher * (1 if checked.task is None else 2)  # its package, and where it is fine-tuned itself
    needed = _FLOAT32 * (teachers + (_STATES + 1) * students)  # a checkpoint, and then the student
    return folder, needed, shutil.disk_usage(folder).free


def _parameters(checked: Checked, student: Shape) -> int:
    from homoexport.encoder import family_of, parameters_at

    model = checked.teacher.model
    return parameters_at(model, family_of(model.config), student)


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
        finetuning=_learning(checked),
        text=tuple(map(_found, text.sources)),
        max_length=recipe.text.max_length,
        tokens=round(text.tokens(), 1),
        held_out=recipe.text.held_out,
        objective=distill.objective,
        method=distill.method,
        steps=distill.steps,
        batch_size=distill.batch_size,
        student_shape=checked.student,
        student_parameters=None if checked.student is None else _parameters(checked, checked.student),
        vocab_sizes=recipe.vocab_sizes,
        students={str(asked.name): shape for asked, shape in zip(recipe.students, checked.students, strict=False)},
        device=measure.device,
        threads=measure.threads,
        workload=(measure.batch_size, measure.length),
        budget=recipe.budget.lines(),
        budgets={name: budget.lines() for name, budget in recipe.budgets.items()},
        quality=None if quality is None else f"{quality.metric or quality.task} of at least {quality.floor}",
        disk_needed_bytes=needed,
        disk_free_bytes=free,
        time=time,
    )


def _learning(checked: Checked) -> Learning | None:
    """What the teacher is to learn first."""
    asked, task = checked.recipe.finetune, checked.task
    if asked is None or task is None:
        return None
    of_examples = len(task.train.texts)
    examples = min(of_examples, asked.max_examples or of_examples)
    return Learning(
        task=asked.task,
        train=task.train.source,
        dev=task.judged["dev"].source,
        labels=_counted(task),
        examples=examples,
        of_examples=of_examples,
        steps=asked.steps(examples),
        batch_size=asked.batch_size,
    )


def _counted(task: LabelledTask) -> dict[str, int]:
    """How many examples each label has; none where there are scores."""
    if not task.names:
        return {}
    assert task.train.labels is not None
    counts = Counter(label_indices(task.train.labels, task.names, where=task.train.source).tolist())
    return {name: counts[place] for place, name in enumerate(task.names)}


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
