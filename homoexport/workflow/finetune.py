"""Fine-tuning on tasks, and what comes out of it judged: one student, or many tasks and seeds that can be resumed."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from homoexport.distill import HELD_OUT
from homoexport.documents.artifact import (
    MANIFEST,
    RUN_MARK,
    FinetunedManifest,
    make_folder,
    output_errors,
    refuse_existing,
    staged,
    verify,
    write_manifest,
    write_run_mark,
)
from homoexport.documents.document import digest_of, read_json, to_json, write_text
from homoexport.documents.recipe import FinetuneRecipe, FinetuneSettings
from homoexport.documents.student import ExamplesOrigin, FinetunedDetails, FinetunedFigures, JudgedMetric
from homoexport.encoder import load_encoder
from homoexport.errors import OutputError, PackageError, RecipeError, TextError
from homoexport.evaluate import (
    GLUE,
    Examples,
    check_whole,
    digest_of_source,
    drawn_rows,
    evaluate_models,
    label_indices,
    label_places,
    names_of,
    open_model,
    read_examples,
    read_for,
    read_glue,
)
from homoexport.finetune import FinetuneProgress, finetune
from homoexport.runtime.inference import Text

KIND = "finetuning"
SUMMARY = "summary.json"
_HELD_OUT_TEXTS = 1000  # that a student carries for the checks of its export


@dataclass(frozen=True)
class LabelledTask:
    """What to train on, and what to judge on by the name of the split.

    `names` are the labels', none where texts have scores; `metrics` those to give, None for all.
    """

    name: str
    train: Examples
    judged: Mapping[str, Examples]
    names: tuple[str, ...]
    metrics: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Listener:
    """What a fine-tuning tells while it works; by default to nobody."""

    on_stage: Callable[[str], None] = lambda _title: None
    on_progress: Callable[[FinetuneProgress], None] = lambda _progress: None


def glue_task(name: str, data_dir: Path | None) -> LabelledTask:
    """A GLUE task with its dev sets; MNLI has two, of which the mismatched one may be missing.

    Raises:
        TextError: no such files, or a hub that does not give them.
    """
    task = GLUE[name]
    judged = {name: read_glue(name, data_dir=data_dir)}
    if name == "mnli" and (data_dir is None or (data_dir / GLUE["mnli-mm"].folder / GLUE["mnli-mm"].dev).is_file()):
        judged["mnli-mm"] = read_glue("mnli-mm", data_dir=data_dir)
    train = read_glue(name, data_dir=data_dir, split="train")
    return LabelledTask(name, train, judged, task.names or (), task.metrics)


def own_task(
    kind: Literal["classification", "scores"],
    train: str,
    dev: str,
    *,
    text_column: str,
    pair_column: str | None,
    label_column: str,
) -> LabelledTask:
    """A task of the user's own, out of files as `homoexport eval` reads them.

    Raises:
        TextError: no text, no such column, labels that are no numbers where there should be scores, one label alone,
            fewer than three scores to be judged, or a label to be judged that is none of those to train on.
    """
    columns: dict[str, Any] = {"column": text_column, "pair_column": pair_column, "label_column": label_column}
    names: tuple[str, ...] = ()
    with read_for("--train"):
        learned = read_examples(train, **columns)
        if kind == "scores":
            learned.scores()
        else:
            names = _two_labels_or_more(learned)
    with read_for("--dev"):
        judged = read_examples(dev, **columns)
        assert judged.labels is not None
        if kind == "classification":
            label_indices(judged.labels, names, where=dev)
        elif len(judged.scores()) < 3:
            raise TextError(
                f"holds {len(judged.labels)} texts", where=dev, hint="give 3 or more, for scores to compare"
            )
    return LabelledTask(kind, learned, {"dev": judged}, names)


def _two_labels_or_more(examples: Examples) -> tuple[str, ...]:
    assert examples.labels is not None
    names = names_of(examples.labels)
    if len(names) < 2:
        hint = "name files with two labels or more, or another --label-column"
        raise TextError(f"has the label '{names[0]}' alone", where=examples.source, hint=hint)
    return names


def finetune_student(
    source: str,
    task: LabelledTask,
    out_dir: Path,
    *,
    settings: FinetuneSettings,
    seed: int,
    teacher: str | None = None,
    force: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on a task, judge it, and write it as a student's folder.

    Args:
        source: a student's folder, or any supported model.
        task: what it shall learn.
        out_dir: becomes the folder.
        settings: how to train.
        seed: of the new head, dropout, the order of examples, and of those that are drawn where they are limited.
        teacher: a classifier of the same labels, a package or a torch model, whose logits teach, too.
        force: replace `out_dir` where it is a student's.
        listener: is told what happens.

    Returns:
        What the manifest keeps of it: `task`, `seed`, how many `examples`, and `judged`: by split the metrics as
        `evaluate_models` gives them.

    Raises:
        TeacherError, PackageError: a source or a teacher that cannot be used.
        OutputError: `out_dir` exists, or cannot be written.
        TrainingError: a loss that is no number.
    """
    listener = listener or Listener()
    refuse_existing(out_dir, force=force, kind="student", inputs=[source, *([teacher] if teacher else [])])
    check_whole(source)
    load_encoder(source)  # what cannot be fine-tuned is told before a teacher is asked
    train = drawn(task.train, settings.max_examples, seed)
    assert train.labels is not None
    labels: NDArray[Any] = (
        label_indices(train.labels, task.names, where=train.source)
        if task.names
        else np.array(train.scores(), np.float32)
    )
    logits = None
    if teacher is not None:
        listener.on_stage(f"asking {teacher}")
        logits = _answers(teacher, train, task.names, threads=settings.threads or 1)
    with staged(out_dir, force=force) as folder:
        listener.on_stage(f"fine-tuning {source} on {task.name}, seed {seed}")
        made = finetune(
            source,
            train.texts,
            labels,
            names=task.names,
            settings=settings,
            seed=seed,
            folder=folder,
            teacher_logits=logits,
            on_progress=listener.on_progress,
        )
        listener.on_stage("judging")
        judged = {name: _judged(folder, examples, task, seed=seed) for name, examples in task.judged.items()}
        held_out = [" ".join(_one(text).split()) for text in next(iter(task.judged.values())).texts]
        (folder / HELD_OUT).write_text("\n".join(held_out[:_HELD_OUT_TEXTS]) + "\n", encoding="utf-8")
        result = FinetunedFigures(
            task=task.name,
            seed=seed,
            examples=len(train.texts),
            of_examples=len(task.train.texts),
            trained_on=ExamplesOrigin(source=train.source, digest=train.digest),
            judged_on={name: ExamplesOrigin(source=dev.source, digest=dev.digest) for name, dev in task.judged.items()},
            teacher=teacher,
            teacher_digest=None if teacher is None else digest_of_source(teacher),
            judged=judged,
        )
        details = FinetunedDetails(
            task="text-classification",
            teacher=source,
            family=made["family"],
            parameters=made["parameters"],
            labels=task.names,
            steps=made["steps"],
            taught=made["taught"],
            finetune=settings,
            seconds=made["seconds"],
            finetuned=result,
        )
        write_manifest(folder, "student", parent=made["parent"], details=details)
    return result.model_dump(mode="json")


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
    listener: Listener | None = None,
) -> dict[str, Any]:
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
        listener: is told what happens.

    Returns:
        The summary, as in `summary.json`: `runs`, and for each judged split and metric the median over seeds with the
        lowest and the highest.

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
    _start(out_dir, digest_of(work), inputs=[source, *teachers.values()], force=force, resume=resume)
    runs = []
    for task in tasks:
        for seed in recipe.seeds:
            folder = out_dir / task.name / f"seed-{seed}"
            if not (folder / MANIFEST).is_file():
                settings, teacher = recipe.settings_of(task.name), teachers.get(task.name)
                finetune_student(source, task, folder, settings=settings, seed=seed, teacher=teacher, listener=listener)
            runs.append(verify(folder, FinetunedManifest, strict=False).details.finetuned.model_dump(mode="json"))
    summary = {"model": source, "runs": runs, "summary": over_seeds(runs), "skipped": dict(skipped or {})}
    with output_errors(out_dir):
        write_text(out_dir / SUMMARY, to_json(summary))
    return summary


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


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each judged split and metric of fine-tuned students: median, lowest and highest over the seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for split, metrics in run["judged"].items():
            for each in metrics:
                values.setdefault((_split_name(run["task"], split), each["metric"]), []).append(each["value"])
    return [
        {"task": task, "metric": metric, "median": statistics.median(found), "low": min(found), "high": max(found)}
        | {"seeds": len(found)}
        for (task, metric), found in values.items()
    ]


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


def _judged(folder: Path, examples: Examples, task: LabelledTask, *, seed: int) -> tuple[JudgedMetric, ...]:
    (found,) = evaluate_models([str(folder)], examples, task="classification", metrics=task.metrics, seed=seed)
    return tuple(JudgedMetric(**{**each, "interval": tuple(each["interval"])}) for each in found["metrics"])


def _one(text: Text) -> str:
    return text if isinstance(text, str) else text[0]


def _start(out_dir: Path, digest: str, *, inputs: Sequence[str], force: bool, resume: bool) -> None:
    if resume and force:
        raise RecipeError("--force starts anew and --resume goes on", where=str(out_dir), hint="give one of them")
    if not resume:
        refuse_existing(out_dir, force=force, kind=KIND, inputs=inputs)
        with output_errors(out_dir):
            shutil.rmtree(out_dir, ignore_errors=True)
            make_folder(out_dir)
            write_run_mark(out_dir, KIND, {"work": digest})
        return
    if not (out_dir / RUN_MARK).is_file():
        raise OutputError("holds no run to resume", where=str(out_dir), hint="leave --resume out to start one")
    if read_json(out_dir / RUN_MARK).get("work") != digest:
        raise RecipeError(
            "the run to resume was started with other settings, data or models",
            where=str(out_dir),
            hint="give the same ones, or another folder",
        )
