"""The data of a task to be judged, by the task's name: GLUE's own files, or the user's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from homoexport.choices import EvaluationTask, JudgedTask, Split
from homoexport.documents.evaluation import Columns
from homoexport.errors import UserError
from homoexport.stages.evaluate.examples import Examples, read_examples
from homoexport.stages.evaluate.glue import GLUE, read_glue
from homoexport.stages.evaluate.search import check_searched
from homoexport.stages.evaluate.tasks import TASKS


class JudgedExamples(NamedTuple):
    """Examples, how they are judged, and by which of the task's own metrics (None: all)."""

    examples: Examples
    task: EvaluationTask
    metrics: tuple[str, ...] | None = None


def read_judged(
    task: JudgedTask,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    columns: Columns | None = None,
    split: Split = "dev",
) -> JudgedExamples:
    """The examples of a task: those of GLUE out of `data_dir` or from the hub, others out of the files in `data`.

    Raises:
        TextError: data that cannot be read.
        UserError: no files are named where there must be some.
    """
    judged_as = judged_task(task)
    if task in GLUE:
        # Cosines and scores have other names for the same two metrics, so that all of them are taken.
        metrics = None if judged_as == "sts" else GLUE[task].metrics
        return JudgedExamples(read_glue(task, data_dir=data_dir, split=split), judged_as, metrics)
    if data is None:
        raise UserError("has no data to judge on", where=f"--task {task}", hint="name files with --data")
    named = columns_of_task(task, columns or Columns())
    asked = TASKS[judged_as]
    examples = read_examples(data, named, has_words=asked.has_words, is_search=asked.is_search)
    if asked.is_search:
        check_searched(examples)
    return JudgedExamples(examples, judged_as)


def judged_task(task: JudgedTask) -> EvaluationTask:
    """How a task is judged: GLUE's as texts with labels or pairs with scores."""
    if task in GLUE:
        return "sts" if GLUE[task].labels is None else "classification"
    return task  # type: ignore[return-value]


def columns_of_task(task: JudgedTask, named: Columns) -> Columns:
    """The columns that are named, else the task's own; GLUE's files have theirs."""
    if task in GLUE:
        return Columns()
    own = TASKS[judged_task(task)].columns
    return Columns(text=named.text or own.text, pair=named.pair or own.pair, label=named.label or own.label)


def flags_of_task(task: JudgedTask) -> frozenset[str]:
    """The flags of `homoexport eval` that make a difference to a task."""
    asked, of_glue = TASKS[judged_task(task)], task in GLUE
    flags = {
        "--data-dir": of_glue,
        "--data": not of_glue,
        "--text-column": not of_glue,
        "--pair-column": not of_glue and asked.pairs != "none",
        "--label-column": not of_glue and (asked.columns.label is not None or asked.is_search),
        "--train": not of_glue and asked.probe is not None,
        "--probe": of_glue and asked.probe is not None,
        "--teacher": asked.teacher != "none",
        "--documents": asked.teacher == "needed" or asked.is_search,
        "--dimensions": not of_glue and asked.probe is None and asked.model_task is None,
    }
    return frozenset(flag for flag, is_taken in flags.items() if is_taken)
