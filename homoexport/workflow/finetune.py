"""Fine-tuning on tasks, and what comes out of it judged: one model, or many tasks and seeds that can be resumed.

The folders have no copy of what was judged on: it may not be the user's to publish. Its place and digest are kept.
"""

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
    verify,
    vocabulary_of,
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
)
from homoexport.documents.output import refuse_existing, replacing, staged
from homoexport.documents.recipe import FinetuneRecipe, FinetuneSettings
from homoexport.documents.run_folder import begin, check_output, holds, is_finished, refuse_other_work
from homoexport.documents.student import FinetunedDetails
from homoexport.errors import PackageError, UserError
from homoexport.report import write_finetuned_report
from homoexport.stages.evaluate import (
    Examples,
    LabelledTask,
    check_learned,
    digest_of_source,
    evaluate_models,
    label_indices,
    label_places,
    open_model,
    read_learned,
)
from homoexport.workflow.job import check_threads
from homoexport.workflow.progress import QUIET, Progress


def finetune(
    model: str,
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
    """Fine-tune a model on a task, and judge it: a student, or any encoder that transformers has a classifier for; with
    several tasks or seeds each.

    Args:
        task: `classification` or `scores` on one's own files; one of GLUE's; or `glue`, all of these that have files.
        model: hub name, or folder.
        output: becomes the model's folder; of several trainings the folder of all, `TASK/seed-N`.
        columns: of the files to train and to judge on (globs); by default `text` and `label`, of scores `score`.
        data_dir: GLUE's files, a folder a task; without it the hub is asked.
        teacher: a classifier of the same labels, whose logits teach, too; of several tasks the folder of its own
            fine-tunings, of which each task's first seed is taken.
        resume: of several trainings, make those that are missing.

    Raises:
        UserError: an argument that makes no difference to the task or is missing; models or files that cannot be used.
        TrainingError: a loss that is no number.
    """
    recipe, columns = recipe or FinetuneRecipe(), columns or Columns()
    check_learned(task, train=train, dev=dev, columns=columns, data_dir=data_dir)
    for settings in (recipe.finetune, *recipe.tasks.values()):
        check_threads(settings.threads, where="finetune.threads")
    single = is_single(task, recipe)
    if single and resume:
        raise UserError("is for several tasks or seeds", where="--resume", hint="leave it out")
    if not resume:
        refuse_existing(output, force=force, kind="model" if single else "finetuning", inputs=[model])
    tasks, skipped = read_learned(
        task, train=train, dev=dev, columns=columns, data_dir=data_dir, on_stage=progress.on_stage
    )
    if single:
        (learned,) = tasks
        settings, seed = recipe.settings_of(learned.name), recipe.seeds[0]
        run = finetune_model(
            model, learned, output, settings=settings, seed=seed, teacher=teacher, force=force, progress=progress
        )
        return FineTuning(model=model, runs=(run,), summary=over_seeds([run]))
    return finetune_many(
        model,
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
    """Whether there is one training alone, whose folder is the model's."""
    return task != "glue" and len(recipe.seeds) == 1


def finetune_model(
    source: str,
    task: LabelledTask,
    out_dir: Path,
    *,
    settings: FinetuneSettings,
    seed: int,
    teacher: str | None = None,
    recipe_digest: str | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> FineTunedRun:
    """Fine-tune a model on a task, judge it, and write its folder; what its manifest keeps of it.

    Args:
        seed: of the new head, of dropout, of the order of examples, and of those that are drawn.
        recipe_digest: of the run that it is a stage of.
    """
    from homoexport.encoder import load_encoder
    from homoexport.stages.finetune import train_classifier

    refuse_existing(out_dir, force=force, kind="model", inputs=[source, *([teacher] if teacher else [])])
    vocabulary = vocabulary_of(load_encoder(source).home)  # what cannot be fine-tuned is refused before all else
    train = task.train.drawn(settings.max_examples, seed)
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
        run = _judged_run(folder, task, train, seed=seed, teacher=teacher)
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
            vocabulary=vocabulary,
            finetuned=run,
        )
        write_finetuned_report(folder, FineTuning(model=source, runs=(run,), summary=over_seeds([run])))
        write_manifest(folder, "model", parent=made.parent, recipe=recipe_digest, details=details)
    return run


def _judged_run(tuned: Path, task: LabelledTask, train: Examples, *, seed: int, teacher: str | None) -> FineTunedRun:
    """What a fine-tuned model has learned from, and its figures."""
    judged = {}
    for name, examples in task.judged.items():
        (found,) = evaluate_models([str(tuned)], examples, task="classification", metrics=task.metrics, seed=seed)
        judged[name] = found.metrics
    return FineTunedRun(
        task=task.name,
        seed=seed,
        examples=len(train.texts),
        of_examples=len(task.train.texts),
        trained_on=_digest(train),
        judged_on={name: _digest(dev) for name, dev in task.judged.items()},
        columns=task.columns,
        teacher=teacher,
        teacher_digest=None if teacher is None else digest_of_source(teacher),
        judged=judged,
    )


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
    """Fine-tune a model on every task with every seed, each in a folder `TASK/seed-N`, and sum up.

    Teachers and the reasons why tasks are skipped go by the task's name.
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
    is_done = (out_dir / FINE_TUNING_FILE).is_file
    with replacing(out_dir, force=force, resume=resume, is_worth_keeping=is_worth_keeping, is_done=is_done):
        if resume:
            refuse_other_work(out_dir, digest)
        else:
            begin(out_dir, "finetuning", digest)
        for task, seed in product(tasks, recipe.seeds):
            folder = out_dir / task.name / f"seed-{seed}"
            if not is_finished(folder):
                settings, teacher = recipe.settings_of(task.name), teachers.get(task.name)
                finetune_model(source, task, folder, settings=settings, seed=seed, teacher=teacher, progress=progress)
            runs.append(verify(folder, FinetunedManifest, strict=False).details.finetuned)
        tuning = FineTuning(model=source, runs=tuple(runs), summary=over_seeds(runs), skipped=dict(skipped or {}))
        write_finetuned_report(out_dir, tuning)
        write_document(out_dir / FINE_TUNING_FILE, tuning)
    return tuning


def _digests(task: LabelledTask) -> dict[str, str]:
    return {"train": task.train.digest, **{f"judged {name}": dev.digest for name, dev in task.judged.items()}}


def teachers_of(folder: str, tasks: Sequence[LabelledTask]) -> dict[str, str]:
    """The teachers of tasks: the first seed of each in the folder of a teacher's fine-tunings, or of one task the model
    that the folder holds."""
    found = {task.name: sorted(Path(folder, task.name).glob("seed-*")) for task in tasks}
    if len(tasks) == 1 and (Path(folder) / "config.json").is_file():
        return {tasks[0].name: folder}
    if missing := [name for name, seeds in found.items() if not seeds]:
        hint = "fine-tune the teacher on the same tasks first"
        raise PackageError(f"holds no {missing[0]}/seed-N", where=folder, hint=hint)
    return {name: str(seeds[0]) for name, seeds in found.items()}


def over_seeds(runs: Sequence[FineTunedRun]) -> tuple[MetricOverSeeds, ...]:
    """For each judged split and metric of fine-tuned models: median, lowest and highest over the seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for split, metrics in run.judged.items():
            for each in metrics:
                task = run.task if split == "dev" else split
                values.setdefault((task, each.metric), []).append(each.value)
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


def _answers(teacher: str, train: Examples, names: Sequence[str], *, threads: int) -> NDArray[np.float32]:
    """A teacher's logits [N, C] of the examples, in the order of these labels."""
    model = open_model(teacher, threads=threads, task="text-classification")
    found = model.details.labels
    places = None
    if model.details.task == "text-classification" and len(found) == (len(names) or 1):
        places = label_places(names, found) if names else [0]
    if places is None:
        has = f"has the labels {', '.join(found)}" if found else f"is for {model.details.task}"
        wanted = ", ".join(names) if names else "one output for scores"
        raise PackageError(has, where=teacher, hint=f"name a text classifier with {wanted}")
    return np.stack(model.logits(train.texts))[:, places]
