"""Models judged side by side on data: what `homoexport eval` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from homoexport.choices import AskedTask, JudgedTask
from homoexport.documents.artifact import refuse_existing, staged, write_manifest
from homoexport.documents.document import write_document
from homoexport.documents.evaluation import EVALUATION_FILE, BenchmarkData, Columns, Evaluation, JudgedData
from homoexport.errors import UserError
from homoexport.stages.evaluate import (
    MAX_TRAIN,
    TASKS,
    Examples,
    columns_of_task,
    digest_of_source,
    evaluate_models,
    evaluate_on_mteb,
    flags_of_task,
    read_for,
    read_judged,
)


def evaluate(
    models: Sequence[str],
    *,
    task: AskedTask,
    data: str | None = None,
    columns: Columns | None = None,
    data_dir: Path | None = None,
    teacher: str | None = None,
    probe: bool = False,
    train: str | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
    threads: int = 1,
    output: Path | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Judge packages and torch models on the same data, with 95 % intervals.

    Args:
        models: packages' folders, students' folders, hub names, or `package:DISTRIBUTION/PATH`.
        task: `sts`, `fidelity`, `masked-lm`, `classification`, `tagging`, one of GLUE's, or `mteb`.
        data: a glob of files, or `package:DISTRIBUTION/GLOB`, for the tasks that bring no data.
        columns: of texts, second texts, and labels or scores; those that are not named are the task's own.
        data_dir: GLUE's files, a folder a task; without it the hub is asked.
        teacher: what the others are compared with, for fidelity, classification and tagging.
        probe: judge a linear classifier on frozen vectors, trained on the train split of a task of GLUE.
        train: files that a probe for `classification` is trained on.
        names: tasks of MTEB.
        seed: of samples, masks and intervals.
        threads: threads of one inference.
        output: a folder that keeps the figures as an artifact.
        force: replace `output` where it is such an artifact.
        progress: receives a line for each model.

    Raises:
        UserError: an argument that makes no difference to the task, or one that is missing.
        TextError: data that cannot be read.
        PackageError, TeacherError: not a model, or one that cannot do the task.
        OutputError: `output` exists, or cannot be written.
    """
    columns = columns or Columns()
    given = {
        "--data": data,
        "--text-column": columns.text,
        "--pair-column": columns.pair,
        "--label-column": columns.label,
        "--train": train,
        "--data-dir": data_dir,
        "--probe": probe or None,
        "--name": names or None,
        "--teacher": teacher,
    }
    _check_flags(task, {flag for flag, value in given.items() if value is not None})
    if output is not None:
        refuse_existing(output, force=force, kind="evaluation", inputs=[*models, *filter(None, (data, train))])
    if task == "mteb":
        results = evaluate_on_mteb(models, names, threads=threads, progress=progress)
        evaluation = Evaluation(task=task, seed=seed, data=BenchmarkData(tasks=tuple(names)), results=results)
    else:
        evaluation = _evaluate_on_examples(
            models,
            task,
            data=data,
            columns=columns,
            data_dir=data_dir,
            teacher=teacher,
            probe=probe,
            train=train,
            seed=seed,
            threads=threads,
            progress=progress,
        )
    if output is not None:
        with staged(output, force=force) as folder:
            write_document(folder / EVALUATION_FILE, evaluation)
            write_manifest(folder, "evaluation")
    return evaluation


def _evaluate_on_examples(
    models: Sequence[str],
    task: JudgedTask,
    *,
    data: str | None,
    columns: Columns,
    data_dir: Path | None,
    teacher: str | None,
    probe: bool,
    train: str | None,
    seed: int,
    threads: int,
    progress: Callable[[str], None] | None,
) -> Evaluation:
    examples, judged_as, metrics = read_judged(task, data=data, columns=columns, data_dir=data_dir)
    trained_on = None
    if train is not None or probe:
        with read_for("--train") if train is not None else nullcontext():
            trained_on = read_judged(task, data=train, columns=columns, data_dir=data_dir, split="train").examples
    results = evaluate_models(
        models,
        examples,
        task=judged_as,
        teacher=teacher,
        train=trained_on,
        metrics=metrics,
        seed=seed,
        threads=threads,
        progress=progress,
    )
    return Evaluation(
        task=task,
        teacher=teacher,
        teacher_digest=None if teacher is None else digest_of_source(teacher),
        seed=seed,
        columns=columns_of_task(task, columns),
        data=_data_of(examples, TASKS[judged_as].max_texts),
        train=None if trained_on is None else _data_of(trained_on, MAX_TRAIN),
        results=results,
    )


def _data_of(examples: Examples, limit: int | None) -> JudgedData:
    count = len(examples.texts)
    drawn = count if limit is None else min(limit, count)
    return JudgedData(source=examples.source, examples=count, digest=examples.digest, drawn=drawn)


def _check_flags(task: AskedTask, given: set[str]) -> None:
    """Refuse flags that would make no difference, and miss those that are needed."""
    taken = frozenset({"--name"}) if task == "mteb" else flags_of_task(task)
    for needed, hint in (("--data", "name files with --data"), ("--name", "name tasks of MTEB with --name")):
        if needed in taken - given:
            raise UserError("judged on what?", where=f"--task {task}", hint=hint)
    if wrong := sorted(given - taken):
        raise UserError("makes no difference here", where=f"{wrong[0]} with --task {task}", hint="leave it out")
