"""Models judged side by side on data: what `homoexport eval` does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from homoexport.choices import AskedTask, RuntimeChoice
from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.documents.document import write_document
from homoexport.documents.evaluation import EVALUATION_FILE, BenchmarkData, Columns, Evaluation, JudgedData
from homoexport.documents.output import refuse_existing, staged
from homoexport.errors import UserError
from homoexport.report import write_evaluation_report
from homoexport.stages.evaluate import (
    MAX_TRAIN,
    TASKS,
    Examples,
    columns_of_task,
    digest_of_source,
    evaluate_models,
    evaluate_on_mteb,
    flags_of_task,
    is_package,
    judged_task,
    read_for,
    read_judged,
    refuse_unfit,
)
from homoexport.workflow.progress import QUIET, Progress


def evaluate(
    models: Sequence[str],
    *,
    task: AskedTask,
    data: str | None = None,
    columns: Columns | None = None,
    data_dir: Path | None = None,
    teacher: str | None = None,
    documents: str | None = None,
    dimensions: Sequence[int] = (),
    probe: bool = False,
    train: str | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
    threads: int = 1,
    runtime: RuntimeChoice = "auto",
    output: Path | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> Evaluation:
    """Judge packages and torch models on the same data, with 95 % intervals.

    Args:
        models: packages' folders, students' folders, hub names, or `package:DISTRIBUTION/PATH`.
        task: `sts`, `search`, `fidelity`, `masked-lm`, `classification`, `tagging`, one of GLUE's, or `mteb`.
        data: a glob of files, or `package:DISTRIBUTION/GLOB`, for the tasks that bring no data.
        columns: of texts, second texts, and labels or scores; those that are not named are the task's own.
        data_dir: GLUE's files, a folder a task; without it the hub is asked.
        teacher: what the others are compared with, for fidelity, classification and tagging.
        documents: whose vectors are searched, for search and fidelity; by default each model searches its own.
        dimensions: widths that vectors are cut to, for sts, search and fidelity; each is judged beside the whole.
        probe: judge a linear classifier on frozen vectors, trained on the train split of a task of GLUE.
        train: files that a probe for `classification` is trained on.
        names: tasks of MTEB.
        runtime: what packages run in; by default what each was the fastest in where it was exported.
        seed: of samples, masks and intervals.
        output: a folder that keeps the figures as an artifact.

    Raises:
        UserError: an argument that makes no difference to the task, or one that is missing.
        TextError: data that cannot be read.
        PackageError, TeacherError: not a model, or one that cannot do the task.
        OutputError: `output` exists (unless `force`), or cannot be written.
    """
    asked = _Asked(
        task=task,
        data=data,
        columns=columns or Columns(),
        data_dir=data_dir,
        teacher=teacher,
        documents=documents,
        dimensions=dimensions,
        probe=probe,
        train=train,
        names=names,
        seed=seed,
        threads=threads,
        runtime=runtime,
    )
    asked.check()
    for source in filter(is_package, models):
        asked.check_package(source)
    if output is not None:
        refuse_existing(output, force=force, kind="evaluation", inputs=[*models, *filter(None, (data, train))])
    with nullcontext() if output is None else staged(output, force=force) as folder:
        evaluation = asked.on_benchmark(models, progress) if task == "mteb" else asked.on_examples(models, progress)
        if folder is not None:
            write_document(folder / EVALUATION_FILE, evaluation)
            write_evaluation_report(folder, evaluation)
            write_manifest(folder, "evaluation")
    return evaluation


@dataclass(frozen=True)
class _Asked:
    """What models are to be judged on, see `evaluate`."""

    task: AskedTask
    data: str | None
    columns: Columns
    data_dir: Path | None
    teacher: str | None
    documents: str | None
    dimensions: Sequence[int]
    probe: bool
    train: str | None
    names: Sequence[str]
    seed: int
    threads: int
    runtime: RuntimeChoice

    def check(self) -> None:
        """Refuse flags that would make no difference, and miss those that are needed."""
        flags = {
            "--data": self.data,
            "--text-column": self.columns.text,
            "--pair-column": self.columns.pair,
            "--label-column": self.columns.label,
            "--train": self.train,
            "--data-dir": self.data_dir,
            "--probe": self.probe or None,
            "--name": self.names or None,
            "--teacher": self.teacher,
            "--documents": self.documents,
            "--dimensions": self.dimensions or None,
        }
        given = {flag for flag, value in flags.items() if value is not None}
        taken = frozenset({"--name"}) if self.task == "mteb" else flags_of_task(self.task)
        for needed, hint in (("--data", "name files with --data"), ("--name", "name tasks of MTEB with --name")):
            if needed in taken - given:
                raise UserError("has no data to judge on", where=f"--task {self.task}", hint=hint)
        if wrong := sorted(given - taken):
            where = f"{wrong[0]} with --task {self.task}"
            raise UserError("makes no difference here", where=where, hint="leave it out")

    def check_package(self, folder: str) -> None:
        """Refuse a package that is not for the task before data are looked for that are not for it either."""
        if self.task != "mteb" and not self.probe and self.train is None:
            details = read_manifest(Path(folder), PackageManifest).details
            refuse_unfit(folder, details.task, labels=len(details.labels or ()), task=judged_task(self.task))

    def on_benchmark(self, models: Sequence[str], progress: Progress) -> Evaluation:
        """The models on tasks of MTEB."""
        results = evaluate_on_mteb(
            models, self.names, threads=self.threads, runtime=self.runtime, on_stage=progress.on_stage
        )
        return Evaluation(task=self.task, seed=self.seed, data=BenchmarkData(tasks=tuple(self.names)), results=results)

    def on_examples(self, models: Sequence[str], progress: Progress) -> Evaluation:
        """The models on GLUE's files or the user's."""
        assert self.task != "mteb"
        examples, judged_as, metrics = read_judged(
            self.task, data=self.data, columns=self.columns, data_dir=self.data_dir
        )
        trained_on = None
        if self.train is not None or self.probe:
            with read_for("--train") if self.train is not None else nullcontext():
                trained_on = read_judged(
                    self.task, data=self.train, columns=self.columns, data_dir=self.data_dir, split="train"
                ).examples
        results = evaluate_models(
            models,
            examples,
            task=judged_as,
            teacher=self.teacher,
            documents=self.documents,
            dimensions=self.dimensions,
            train=trained_on,
            metrics=metrics,
            seed=self.seed,
            threads=self.threads,
            runtime=self.runtime,
            on_stage=progress.on_stage,
        )
        return Evaluation(
            task=self.task,
            teacher=self.teacher,
            teacher_digest=None if self.teacher is None else digest_of_source(self.teacher),
            documents=self.documents,
            documents_digest=None if self.documents is None else digest_of_source(self.documents),
            seed=self.seed,
            columns=columns_of_task(self.task, self.columns),
            data=_data_of(examples, TASKS[judged_as].max_texts),
            train=None if trained_on is None else _data_of(trained_on, MAX_TRAIN),
            results=results,
        )


def _data_of(examples: Examples, limit: int | None) -> JudgedData:
    count = len(examples.texts)
    drawn = count if limit is None else min(limit, count)
    return JudgedData(source=examples.source, examples=count, digest=examples.digest, drawn=drawn)
