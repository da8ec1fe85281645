"""The tasks that models are judged on: one row of a table each.

How to add one is told in docs/adding-an-evaluation-task.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from homoexport.choices import CLASSIFYING, OUTPUT_NAMES, EvaluationTask, ModelTask
from homoexport.documents.evaluation import Columns
from homoexport.errors import PackageError, TextError, UserError
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.classification import check_labels, labelled_qualities
from homoexport.stages.evaluate.estimate import Quality
from homoexport.stages.evaluate.examples import MAX_COMPARED, Examples
from homoexport.stages.evaluate.masked_lm import judge_masked_lm
from homoexport.stages.evaluate.probe import probe_qualities
from homoexport.stages.evaluate.similarity import check_scores, judge_sts
from homoexport.stages.evaluate.tagging import check_word_labels, tagging_qualities

Use = Literal["none", "optional", "needed"]
_TEXT = Columns(text="text")


class QualityFunction(Protocol):
    """Gives a model's figures on examples."""

    def __call__(self, model: Package, examples: Examples, *, seed: int) -> Sequence[Quality]: ...


class ProbeFunction(Protocol):
    """Gives the figures of a small classifier that is trained on a model's vectors."""

    def __call__(self, model: Package, examples: Examples, train: Examples, *, seed: int) -> Sequence[Quality]: ...


@dataclass(frozen=True)
class Task:
    """How models are judged on one kind of data; docs/adding-an-evaluation-task.md says what the fields mean."""

    columns: Columns = _TEXT
    pairs: Use = "none"
    has_words: bool = False
    model_task: ModelTask | None = None
    teacher: Use = "none"
    max_texts: int | None = None
    is_search: bool = False
    qualities: QualityFunction | None = None
    probe: ProbeFunction | None = None
    check: Callable[[Package, Examples], None] = lambda _model, _examples: None


TASKS: Mapping[EvaluationTask, Task] = {
    "sts": Task(
        columns=Columns(text="sentence1", pair="sentence2", label="score"),
        pairs="needed",
        qualities=judge_sts,
        check=check_scores,
    ),
    "search": Task(columns=Columns(text="query", pair="document"), pairs="needed", is_search=True),
    "fidelity": Task(teacher="needed", max_texts=MAX_COMPARED),
    "masked-lm": Task(model_task="fill-mask", qualities=judge_masked_lm),
    "classification": Task(
        columns=Columns(text="text", label="label"),
        pairs="optional",
        model_task="text-classification",
        teacher="optional",
        qualities=labelled_qualities,
        probe=probe_qualities,
        check=check_labels,
    ),
    "tagging": Task(
        columns=Columns(text="tokens", label="ner_tags"),
        has_words=True,
        model_task="token-classification",
        teacher="optional",
        qualities=tagging_qualities,
        check=check_word_labels,
    ),
}


def refuse_unfit(model: str, kind: ModelTask, *, labels: int, task: EvaluationTask) -> None:
    """Refuse (PackageError) a model that is for something else than a task, and say which tasks can judge it."""
    fitting = [name for name in TASKS if _fits(name, kind, labels)]
    if task in fitting:
        return
    asked = TASKS[task]
    of_labels = f" of {labels} label{'s' * (labels != 1)}" if kind in CLASSIFYING else ""
    hint = f"judge it with --task {' or '.join(fitting)}, or name a {asked.model_task or 'sentence-similarity'} model"
    if asked.probe is not None:
        hint += ", or train a probe on its vectors (--train, of GLUE --probe)"
    raise PackageError(f"is a {kind} model{of_labels}, which --task {task} cannot judge", where=model, hint=hint)


def _fits(task: EvaluationTask, kind: ModelTask, labels: int) -> bool:
    """Whether a task can judge a model of a kind; a reranker has one label, its score."""
    gives_vectors = OUTPUT_NAMES[kind][0] != "logits"
    if task == "fidelity":
        return gives_vectors or kind in CLASSIFYING
    if (wanted := TASKS[task].model_task) is not None:
        return kind == wanted
    return gives_vectors or (task == "sts" and kind == "text-classification" and labels == 1)


def check_asked(task: EvaluationTask, examples: Examples, *, has_teacher: bool) -> None:
    """Refuse examples, or a teacher, that are not for a task."""
    asked, where = TASKS[task], f"--task {task}"
    if asked.teacher == "needed" and not has_teacher:
        raise UserError("has no teacher to compare with", where=where, hint="name the teacher with --teacher")
    if asked.teacher == "none" and has_teacher:
        raise UserError("needs no teacher", where=where, hint="leave --teacher out")
    paired = not isinstance(examples.texts[0], str)
    if asked.pairs == "needed" and not paired:
        hint = "name their column with --pair-column"
        raise TextError("gives no second texts", where=examples.source, hint=hint)
    if asked.pairs == "none" and paired:
        raise TextError("gives pairs of texts", where=examples.source, hint="leave --pair-column out")
