"""The data of a task to be judged, by the task's name: GLUE's own files, or the user's."""

from __future__ import annotations

from pathlib import Path

from homoexport.choices import EvaluationTask, JudgedTask, Split
from homoexport.errors import UserError
from homoexport.evaluate.examples import Examples, read_examples, read_tagged
from homoexport.evaluate.glue import GLUE, read_glue


def judged_data(
    task: JudgedTask,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    split: Split = "dev",
) -> tuple[Examples, EvaluationTask, tuple[str, ...] | None]:
    """The examples of a task, how they are judged, and by which metrics (None: all).

    Args:
        task: its name.
        data: the files of a task that is not GLUE's.
        data_dir: of GLUE's files; without it the hub is asked.
        text_column: by default `text`, of sts `sentence1`, of tagging `tokens`.
        pair_column: of sts by default `sentence2`.
        label_column: of sts by default `score`, of classification `label`, of tagging `ner_tags`.
        split: of GLUE.

    Raises:
        TextError: data that cannot be read.
        UserError: no files are named where there must be some.
    """
    glue = GLUE.get(task)
    if glue is not None:
        examples = read_glue(task, data_dir=data_dir, split=split)
        return examples, "sts" if glue.labels is None else "classification", glue.metrics
    if data is None:
        raise UserError("judged on what?", where=f"--task {task}", hint="name files with --data")
    text, pair, label = columns_of_task(task, text_column, pair_column, label_column)
    assert text is not None
    if task == "tagging":
        assert label is not None
        return read_tagged(data, column=text, label_column=label), task, None
    return read_examples(data, column=text, pair_column=pair, label_column=label), task, None  # type: ignore[return-value]


def columns_of_task(
    task: JudgedTask, text: str | None, pair: str | None, label: str | None
) -> tuple[str | None, str | None, str | None]:
    """The columns of texts, second texts and labels: those that are named, else the task's own; GLUE's files have
    theirs."""
    if task in GLUE:
        return None, None, None
    own = {
        "sts": ("sentence1", "sentence2", "score"),
        "tagging": ("tokens", None, "ner_tags"),
        "classification": ("text", None, "label"),
    }.get(task, ("text", None, None))
    return text or own[0], pair or own[1], label or own[2]
