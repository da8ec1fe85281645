"""The data of a task to be judged, by the task's name: GLUE's own files, or the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from homoexport.errors import UserError
from homoexport.evaluate.examples import Examples, read_examples, read_tagged
from homoexport.evaluate.glue import GLUE, read_glue
from homoexport.recipe import JudgedTask

EvalTask = Literal["sts", "fidelity", "masked-lm", "classification", "tagging"]
Split = Literal["train", "dev"]


def judged_data(
    task: JudgedTask,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    split: Split = "dev",
) -> tuple[Examples, EvalTask, tuple[str, ...] | None]:
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
        raise UserError("judged on what?", where=f"--task {task}", mend="name files with --data")
    if task == "tagging":
        return read_tagged(data, column=text_column or "tokens", label_column=label_column or "ner_tags"), task, None
    sts = task == "sts"
    examples = read_examples(
        data,
        column=text_column or ("sentence1" if sts else "text"),
        pair_column=pair_column or ("sentence2" if sts else None),
        label_column=label_column or ("score" if sts else "label" if task == "classification" else None),
    )
    return examples, task, None  # type: ignore[return-value]
