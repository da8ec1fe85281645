"""A floor under a model's quality, absolute or as a share of the teacher's.

The interval counts: a floor is kept where the whole 95 % interval lies on or above it, missed where it lies below, and
too close to call between, or on fewer than 30 examples, of which resamples know too little. Against a teacher it is the
interval of the difference on the same examples, draw by draw (the paired bootstrap, Efron & Tibshirani 1993, section
8.3), which is much narrower than the two apart.

T resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from homoexport.choices import GLUE_TASKS, UNLABELLED_TASKS, Side
from homoexport.data import sample_text
from homoexport.documents.budget import QUALITY_LINE, BudgetVerdict
from homoexport.documents.evaluation import FEWEST_JUDGED, Columns
from homoexport.documents.recipe import QualitySettings
from homoexport.errors import RecipeError, TextError
from homoexport.globs import at_home
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate import (
    TASKS,
    Examples,
    Judge,
    JudgedExamples,
    Quality,
    judged_task,
    read_judged,
)

_FEW = 30  # examples that show whether a gate can be judged at all
_FAITHFUL = 1.0  # what a teacher's fidelity to itself is
_KEYS = {
    f"--{name.replace('_', '-')}": f"quality.{name}"
    for name in ("data", "data_dir", "text_column", "pair_column", "label_column")
}


class Gate:
    """A floor that models are held against; `texts` are held-out text, for a task that names no data.

    `output` says in whose space the models answer: in the teacher's, search is judged among the teacher's documents.

    Raises:
        TextError: data that cannot be read, or none.
        RecipeError: a metric that the task does not have, or of which less is better.
        PackageError: a teacher that cannot do the task.
    """

    def __init__(
        self, settings: QualitySettings, *, teacher: Package, texts: Sequence[str], seed: int, output: Side = "student"
    ) -> None:
        self._settings = settings
        judged = gate_data(settings, texts)
        faithful = TASKS[judged.task].teacher == "needed"
        self._documents = f", documents by the {output}" if TASKS[judged.task].is_search else ""
        self._data = _called(settings, judged.examples)
        self._judge = _judge_of(judged, judged.examples, teacher=teacher, seed=seed, output=output)
        # A teacher is faithful to itself: a share of its fidelity is a figure.
        self._teacher = None if faithful else self._figure(teacher)

    def judge(self, model: Package) -> BudgetVerdict:
        """Hold a model against the floor."""
        found, level, theirs = self._figure(model), self._settings.level, self._teacher
        shares, relative = None, self._settings.relative
        if theirs is None or not relative:
            limit, (low, high) = level, (end - level for end in found.interval)
        else:
            limit = level * theirs.value
            low, high = np.percentile(found.draws - level * theirs.draws, (2.5, 97.5))
            if theirs.draws.min() > 0:  # where a share means something
                shares = tuple(np.percentile(found.draws / theirs.draws, (2.5, 97.5)).tolist())
        few = found.counts.get("queries", len(self._judge.examples.texts)) < FEWEST_JUDGED
        kept = None if few or low < 0 <= high else bool(low >= 0)
        return BudgetVerdict(
            line=f"{QUALITY_LINE}{found.metric}{self._documents}",
            limit=limit,
            measured=found.value,
            interval=found.interval,
            kept=kept,
            teacher=_FAITHFUL if theirs is None else theirs.value,
            share_interval=shares,
            asked=self._settings.floor if relative else None,
            data=self._data,
        )

    def _figure(self, model: Package) -> Quality:
        return _chosen(self._judge.qualities(model), self._settings)


def _called(settings: QualitySettings, examples: Examples) -> str:
    """What the floor is judged on, in a word or two: a task of GLUE's, or the files."""
    if settings.task in GLUE_TASKS:
        return f"{settings.task} dev"
    return examples.source if settings.data is None else Path(settings.data).name


def check_gate(
    settings: QualitySettings,
    judged: JudgedExamples,
    *,
    teacher: Package,
    hidden_size: int | None = None,
    output: Side = "student",
) -> None:
    """Find what would stop a gate half-way: a metric, a teacher that cannot do the task, labels that are not its own.

    `judged` is `gate_data`; `hidden_size` is the student's, by default the teacher's. Raises as `Gate`.
    """
    if settings.metric == "mean_cosine" and hidden_size not in (None, teacher.embed(sample_text()[:1]).shape[1]):
        raise RecipeError(
            f"there is no cosine of vectors of {hidden_size} and of the teacher's width",
            where="quality.metric",
            hint="name another, such as overlap@10",
        )
    try:
        TASKS[judged.task].check(teacher, judged.examples)
        few = _few_of(judged, settings.metric)
        figures = _judge_of(judged, few, teacher=teacher, seed=0, output=output).qualities(teacher)
    except TextError as error:
        if settings.data is None and settings.task in UNLABELLED_TASKS:
            return  # the model has no words for our sample; those of the held-out text will be its own
        raise error.renamed(_KEYS) from None
    _chosen(figures, settings)


def _few_of(judged: JudgedExamples, metric: str | None) -> Examples:
    """A few of the examples, from one end of their labels to the other; of a ranking the first whole queries."""
    examples = judged.examples
    labels, count, queries = examples.labels, len(examples.texts), examples.queries
    if queries is not None and metric == "ndcg@10" and judged.task == "classification":
        several = np.flatnonzero(np.bincount(queries)[queries] > 1)
        return examples.taken(several[queries[several] <= queries[several[:_FEW]].max()].tolist())
    asked = [row for row in range(count) if examples.texts[row][0]]  # not documents that no query asks for
    order = asked if labels is None else sorted(asked, key=lambda row: labels[row])
    places = np.linspace(0, len(order) - 1, min(len(order), _FEW)).round().astype(int)
    return examples.taken([order[place] for place in places])


def _judge_of(judged: JudgedExamples, examples: Examples, *, teacher: Package, seed: int, output: Side) -> Judge:
    """A judge of some of the examples; a floor is under the task's own figures, or under fidelity's."""
    against = teacher if TASKS[judged.task].teacher == "needed" else None
    searched = teacher if TASKS[judged.task].is_search and output == "teacher" else None
    return Judge(examples, task=judged.task, teacher=against, documents=searched, metrics=judged.metrics, seed=seed)


def gate_data(settings: QualitySettings, texts: Sequence[str] | None = None) -> JudgedExamples:
    """What a gate judges on: `texts`, by default sentences of the project's own, for a task that names no data.

    Raises:
        TextError: data that cannot be read, or none.
    """
    task, texts = settings.task, sample_text() if texts is None else texts
    if settings.data is None and task in UNLABELLED_TASKS:
        if not texts:
            raise TextError("no held-out text to judge on", where="quality", hint="name files with quality.data")
        return JudgedExamples(Examples("held-out text", tuple(texts), None), judged_task(task))
    columns = Columns(text=settings.text_column, pair=settings.pair_column, label=settings.label_column)
    data_dir = at_home(settings.data_dir) if settings.data_dir else None
    try:
        return read_judged(task, data=settings.data, data_dir=data_dir, columns=columns)
    except TextError as error:
        raise error.renamed(_KEYS) from None


def _chosen(figures: Sequence[Quality], settings: QualitySettings) -> Quality:
    judged = {each.metric: each for each in figures if not each.less_is_better}
    wanted = settings.metric or next(iter(judged))
    if wanted in judged:
        return judged[wanted]
    is_less_better = any(each.metric == wanted for each in figures)
    what = f"of '{wanted}' less is better, so it has no floor" if is_less_better else f"there is no '{wanted}'"
    raise RecipeError(f"{what} ({settings.task})", where="quality.metric", hint=f"name one of: {', '.join(judged)}")
