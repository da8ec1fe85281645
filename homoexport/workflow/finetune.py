"""Fine-tuning on tasks, and what comes out of it judged: one student, or many tasks and seeds that can be resumed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import LearnedTask
from homoexport.documents.artifact import (
    MANIFEST,
    FinetunedManifest,
    output_errors,
    refuse_existing,
    staged,
    verify,
    write_manifest,
)
from homoexport.documents.document import digest_of, write_document
from homoexport.documents.evaluation import (
    FINE_TUNING_FILE,
    Columns,
    DataDigest,
    FineTunedRun,
    FineTuning,
    MetricOverSeeds,
    QualityFigure,
)
from homoexport.documents.recipe import FinetuneRecipe, FinetuneSettings
from homoexport.documents.run_folder import HELD_OUT, begin, check_output, holds, is_finished, replacing
from homoexport.documents.student import FinetunedDetails
from homoexport.errors import PackageError, UserError
from homoexport.runtime.inference import Text
from homoexport.stages.evaluate import (
    Examples,
    LabelledTask,
    check_learned,
    check_whole,
    digest_of_source,
    drawn_rows,
    evaluate_models,
    label_indices,
    label_places,
    open_model,
    read_learned,
)
from homoexport.workflow.distill import check_threads
from homoexport.workflow.progress import QUIET, Progress

_HELD_OUT_TEXTS = 1000  # that a student carries for the checks of its export


def finetune(
    student: str,
    *,
    task: LearnedTask,
    output: Path,
    train: str | None = None,
    dev: str | None = None,
    columns: Columns | None = None,
    data_dir: Path | None = None,
    teacher: str | None = None,
    recipe: FinetuneRecipe | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> FineTuning:
    """Fine-tune a student on a task, and judge it; with several tasks or seeds a student each.

    Args:
        student: a student's folder, or any supported model.
        task: `classification` or `scores` on files of one's own; a task of GLUE; or `glue`, all nine of them, where
            those without files are skipped.
        output: becomes the student's folder; of several trainings the folder of all, `TASK/seed-N`.
        train: a glob of files to train on.
        dev: a glob of files to judge on.
        columns: of these files; by default `text` and `label`, of scores `score`.
        data_dir: GLUE's files, a folder a task; without it the hub is asked.
        teacher: a classifier of the same labels, whose logits teach, too; of several tasks the folder of its own
            fine-tunings, of which each task's first seed is taken.
        recipe: settings by task, and seeds.
        force: replace `output` where homoexport wrote it.
        resume: of several trainings, make those that are missing.
        progress: is told stages and steps.

    Raises:
        UserError: an argument that makes no difference to the task, or one that is missing.
        Others as `finetune_student` and `finetune_many`.
    """
    recipe = recipe or FinetuneRecipe()
    columns = columns or Columns()
    check_learned(task, train=train, dev=dev, columns=columns, data_dir=data_dir)
    for settings in (recipe.finetune, *recipe.tasks.values()):
        check_threads(settings.threads, where="finetune.threads")
    single = is_single(task, recipe)
    if single and resume:
        raise UserError("is for several tasks or seeds", where="--resume", hint="leave it out")
    if not resume:
        refuse_existing(output, force=force, kind="student" if single else "finetuning", inputs=[student])
    tasks, skipped = read_learned(
        task, train=train, dev=dev, columns=columns, data_dir=data_dir, on_stage=progress.on_stage
    )
    if single:
        (learned,) = tasks
        run = finetune_student(
            student,
            learned,
            output,
            settings=recipe.settings_of(learned.name),
            seed=recipe.seeds[0],
            teacher=teacher,
            force=force,
            progress=progress,
        )
        return FineTuning(model=student, runs=(run,), summary=over_seeds([run]))
    return finetune_many(
        student,
        tasks,
        output,
        recipe=recipe,
        teachers=teachers_of(teacher, tasks) if teacher else None,
        skipped=skipped,
        force=force,
        resume=resume,
        progress=progress,
    )


def is_single(task: LearnedTask, recipe: FinetuneRecipe) -> bool:
    """Whether there is one training alone, whose folder is the student's."""
    return task != "glue" and len(recipe.seeds) == 1


def finetune_student(
    source: str,
    task: LabelledTask,
    out_dir: Path,
    *,
    settings: FinetuneSettings,
    seed: int,
    teacher: str | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> FineTunedRun:
    """Fine-tune a model on a task, judge it, and write it as a student's folder.

    Args:
        source: a student's folder, or any supported model.
        task: what it shall learn.
        out_dir: becomes the folder.
        settings: how to train.
        seed: of the new head, dropout, the order of examples, and of those that are drawn where they are limited.
        teacher: a classifier of the same labels, a package or a torch model, whose logits teach, too.
        force: replace `out_dir` where it is a student's.
        progress: is told stages and steps.

    Returns:
        What the manifest keeps of it, under `finetuned`.

    Raises:
        TeacherError, PackageError: a source or a teacher that cannot be used.
        OutputError: `out_dir` exists, or cannot be written.
        TrainingError: a loss that is no number.
    """
    from homoexport.encoder import load_encoder
    from homoexport.stages.finetune import train_classifier

    refuse_existing(out_dir, force=force, kind="student", inputs=[source, *([teacher] if teacher else [])])
    check_whole(source)
    load_encoder(source)  # what cannot be fine-tuned is refused before a teacher is asked
    train = drawn(task.train, settings.max_examples, seed)
    logits = None
    if teacher is not None:
        progress.on_stage(f"asking {teacher}")
        logits = _answers(teacher, train, task.names, threads=settings.threads or 1)
    with staged(out_dir, force=force) as folder:
        progress.on_stage(f"fine-tuning {source} on {task.name}, seed {seed}")
        made = train_classifier(
            source,
            train.texts,
            _targets(train, task.names),
            names=task.names,
            settings=settings,
            seed=seed,
            folder=folder,
            teacher_logits=logits,
            on_progress=progress.on_finetune,
        )
        progress.on_stage("judging")
        judged = {name: _judged(folder, examples, task, seed=seed) for name, examples in task.judged.items()}
        _write_held_out(folder, next(iter(task.judged.values())).texts)
        run = _described(task, train, judged, seed=seed, teacher=teacher)
        details = FinetunedDetails(
            task="text-classification",
            teacher=source,
            family=made.family,
            parameters=made.parameters,
            labels=task.names,
            steps=made.steps,
            taught=teacher is not None,
            finetune=settings,
            seconds=made.seconds,
            finetuned=run,
        )
        write_manifest(folder, "student", parent=made.parent, details=details)
    return run


def _described(
    task: LabelledTask,
    train: Examples,
    judged: dict[str, tuple[QualityFigure, ...]],
    *,
    seed: int,
    teacher: str | None,
) -> FineTunedRun:
    return FineTunedRun(
        task=task.name,
        seed=seed,
        examples=len(train.texts),
        of_examples=len(task.train.texts),
        trained_on=_digest(train),
        judged_on={name: _digest(dev) for name, dev in task.judged.items()},
        teacher=teacher,
        teacher_digest=None if teacher is None else digest_of_source(teacher),
        judged=judged,
    )


def _write_held_out(folder: Path, texts: Sequence[Text]) -> None:
    lines = [" ".join(_first(text).split()) for text in texts[:_HELD_OUT_TEXTS]]
    (folder / HELD_OUT).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _targets(train: Examples, names: Sequence[str]) -> NDArray[np.int64] | NDArray[np.float32]:
    """Indices of labels, or scores, [N]."""
    if not names:
        return np.array(train.scores(), np.float32)
    assert train.labels is not None
    return label_indices(train.labels, names, where=train.source)


def _digest(examples: Examples) -> DataDigest:
    return DataDigest(source=examples.source, digest=examples.digest)


def finetune_many(
    source: str,
    tasks: Iterable[LabelledTask],
    out_dir: Path,
    *,
    recipe: FinetuneRecipe,
    teachers: Mapping[str, str] | None = None,
    skipped: Mapping[str, str] | None = None,
    force: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> FineTuning:
    """Fine-tune a model on every task with every seed, each a student's folder `TASK/seed-N`, and sum up.

    Args:
        source: as for `finetune_student`.
        tasks: what it shall learn, one apart from the other.
        out_dir: becomes the folder of all.
        recipe: settings and seeds.
        teachers: a teacher for a task, by the task's name.
        skipped: tasks that are left out, and why.
        force: replace `out_dir` where it is such a folder.
        resume: go on where the same work was stopped.
        progress: is told stages and steps.

    Returns:
        What `summary.json` keeps.

    Raises:
        RecipeError: other work is to be resumed.
        Others as `finetune_student`.
    """
    tasks, teachers = list(tasks), teachers or {}
    work = {
        "source": (source, digest_of_source(source)),
        "recipe": recipe.model_dump(mode="json"),
        "teachers": {name: (teacher, digest_of_source(teacher)) for name, teacher in teachers.items()},
        "tasks": {task.name: _digests(task) for task in tasks},
    }
    digest = digest_of(work)
    check_output(out_dir, "finetuning", digest, inputs=[source, *teachers.values()], force=force, resume=resume)
    runs = []
    is_worth_keeping = partial(holds, out_dir, MANIFEST)
    with output_errors(out_dir), replacing(out_dir, resume=resume, is_worth_keeping=is_worth_keeping):
        if not resume:
            begin(out_dir, "finetuning", digest)
        for task, seed in product(tasks, recipe.seeds):
            folder = out_dir / task.name / f"seed-{seed}"
            if not is_finished(folder):
                settings, teacher = recipe.settings_of(task.name), teachers.get(task.name)
                finetune_student(source, task, folder, settings=settings, seed=seed, teacher=teacher, progress=progress)
            runs.append(verify(folder, FinetunedManifest, strict=False).details.finetuned)
        tuning = FineTuning(model=source, runs=tuple(runs), summary=over_seeds(runs), skipped=dict(skipped or {}))
        write_document(out_dir / FINE_TUNING_FILE, tuning)
    return tuning


def _digests(task: LabelledTask) -> dict[str, str]:
    return {"train": task.train.digest, **{f"judged {name}": dev.digest for name, dev in task.judged.items()}}


def teachers_of(folder: str, tasks: Sequence[LabelledTask]) -> dict[str, str]:
    """The teachers of tasks: the first seed of each in the folder of a teacher's fine-tunings.

    Raises:
        PackageError: a task that the teacher was not fine-tuned on; or one task alone, and the folder is a model's.
    """
    found = {task.name: sorted(Path(folder, task.name).glob("seed-*")) for task in tasks}
    if len(tasks) == 1 and (Path(folder) / "config.json").is_file():
        return {tasks[0].name: folder}
    if missing := [name for name, seeds in found.items() if not seeds]:
        hint = "fine-tune the teacher on the same tasks first"
        raise PackageError(f"holds no {missing[0]}/seed-N", where=folder, hint=hint)
    return {name: str(seeds[0]) for name, seeds in found.items()}


def over_seeds(runs: Sequence[FineTunedRun]) -> tuple[MetricOverSeeds, ...]:
    """For each judged split and metric of fine-tuned students: median, lowest and highest over the seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for split, metrics in run.judged.items():
            for each in metrics:
                values.setdefault((_split_name(run.task, split), each.metric), []).append(each.value)
    return tuple(
        MetricOverSeeds(
            task=task,
            metric=metric,
            median=statistics.median(found),
            low=min(found),
            high=max(found),
            seeds=len(found),
        )
        for (task, metric), found in values.items()
    )


def _split_name(task: str, split: str) -> str:
    return task if split == "dev" else split


def drawn(examples: Examples, limit: int | None, seed: int) -> Examples:
    """At most `limit` of the examples, drawn by `seed`, in their order."""
    if limit is None or limit >= len(examples.texts):
        return examples
    return examples.taken(drawn_rows(len(examples.texts), limit, seed))


def _answers(teacher: str, train: Examples, names: Sequence[str], *, threads: int) -> NDArray[np.float32]:
    """A teacher's logits [N, C] of the examples.

    Raises:
        PackageError: it is no text classifier of these labels.
    """
    model = open_model(teacher, threads=threads, task="text-classification")
    found = model.details.labels
    if model.details.task != "text-classification" or len(found) != (len(names) or 1):
        has = f"has the labels {', '.join(found)}" if found else f"is for {model.details.task}"
        wanted = ", ".join(names) if names else "one output for scores"
        raise PackageError(has, where=teacher, hint=f"name a text classifier with {wanted}")
    places = label_places(names, found) if names else [0]
    if places is None:
        what, hint = f"has the labels {', '.join(found)}", f"name a text classifier with {', '.join(names)}"
        raise PackageError(what, where=teacher, hint=hint)
    return np.stack(model.logits(train.texts))[:, places]


def _judged(folder: Path, examples: Examples, task: LabelledTask, *, seed: int) -> tuple[QualityFigure, ...]:
    (found,) = evaluate_models([str(folder)], examples, task="classification", metrics=task.metrics, seed=seed)
    return found.metrics


def _first(text: Text) -> str:
    return text if isinstance(text, str) else text[0]
