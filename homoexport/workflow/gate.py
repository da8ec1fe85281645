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

from homoexport.choices import EvaluationTask
from homoexport.data import sample_text
from homoexport.documents.budget import QUALITY_LINE, BudgetVerdict
from homoexport.documents.recipe import QualitySettings
from homoexport.errors import RecipeError, TextError
from homoexport.evaluate.data import judged_data
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import Examples
from homoexport.evaluate.tasks import Evaluation, check_labels
from homoexport.runtime.inference import Package

_LESS_IS_BETTER = ("loss", "perplexity", "calibration_error")
_FEW = 30  # examples that show whether a gate can be judged at all, and that a verdict needs
_KEYS = {
    f"--{name.replace('_', '-')}": f"quality.{name}"
    for name in ("data", "data_dir", "text_column", "pair_column", "label_column")
}


class Gate:
    """A floor that models are held against.

    Args:
        settings: task, data, metric and floor.
        teacher: its package's folder, or any supported model.
        texts: held-out text, for a task that names no data.
        seed: of samples and resamples.
        threads: threads of one inference.

    Raises:
        TextError: data that cannot be read, or none.
        RecipeError: a metric that the task does not have, or of which less is better.
        TeacherError, PackageError: a teacher that cannot be used.
    """

    def __init__(
        self, settings: QualitySettings, *, teacher: str, texts: Sequence[str], seed: int, threads: int
    ) -> None:
        self._settings = settings
        examples, task, metrics = _data_of(settings, texts)
        faithful = task == "fidelity"
        self._evaluation = Evaluation(
            examples, task=task, teacher=teacher if faithful else None, metrics=metrics, seed=seed, threads=threads
        )
        # A teacher is faithful to itself: a share of its fidelity is a figure.
        relative = settings.relative and not faithful
        self._teacher = self._figure(self._evaluation.open(teacher)) if relative else None

    def judge(self, model: Package) -> BudgetVerdict:
        """Hold a model against the floor."""
        found, level, theirs = self._figure(model), self._settings.level, self._teacher
        if theirs is None:
            limit, (low, high) = level, (end - level for end in found.interval)
        else:
            limit = level * theirs.value
            low, high = np.percentile(found.draws - level * theirs.draws, (2.5, 97.5))
        few = len(self._evaluation.examples.texts) < _FEW
        kept = None if few or low < 0 <= high else bool(low >= 0)
        return BudgetVerdict(
            line=f"{QUALITY_LINE}{found.metric}",
            limit=limit,
            measured=found.value,
            interval=found.interval,
            kept=kept,
        )

    def _figure(self, model: Package) -> Quality:
        return _chosen(self._evaluation.qualities(model), self._settings)


def check_gate(settings: QualitySettings, *, teacher: str, hidden_size: int | None = None) -> None:
    """Find what would stop a gate half-way: its data, its metric, a teacher that cannot do the task.

    Args:
        settings: task, data, metric and floor.
        teacher: its package's folder, or any supported model.
        hidden_size: the student's; None: the teacher's.

    Raises:
        As `Gate`.
    """
    examples, task, metrics = _data_of(settings, sample_text())
    few = _spread(examples)
    evaluation = Evaluation(few, task=task, teacher=teacher if task == "fidelity" else None, metrics=metrics)
    model = evaluation.open(teacher)
    if settings.metric == "mean_cosine" and hidden_size not in (None, model.embed(sample_text()[:1]).shape[1]):
        raise RecipeError(
            f"there is no cosine of vectors of {hidden_size} and of the teacher's width",
            where="quality.metric",
            hint="name another, such as overlap@10",
        )
    try:
        check_labels(model, examples, task)
        figures = evaluation.qualities(model)
    except TextError as error:
        if settings.data is None and task in ("fidelity", "masked-lm"):
            return  # the model has no words for our sample; those of the held-out text will be its own
        raise error.renamed(_KEYS) from None
    _chosen(figures, settings)


def _spread(examples: Examples) -> Examples:
    """A few of the examples, from one end of their labels to the other."""
    labels, count = examples.labels, len(examples.texts)
    order = list(range(count)) if labels is None else sorted(range(count), key=lambda row: labels[row])
    places = np.linspace(0, count - 1, min(count, _FEW)).round().astype(int)
    return examples.taken([order[place] for place in places])


def _data_of(
    settings: QualitySettings, texts: Sequence[str]
) -> tuple[Examples, EvaluationTask, tuple[str, ...] | None]:
    task = settings.task
    if settings.data is None and (task == "fidelity" or task == "masked-lm"):
        if not texts:
            raise TextError("no held-out text to judge on", where="quality", hint="name files with quality.data")
        return Examples("held-out text", tuple(texts), None), task, None
    try:
        return judged_data(
            task,
            data=settings.data,
            data_dir=Path(settings.data_dir).expanduser() if settings.data_dir else None,
            text_column=settings.text_column,
            pair_column=settings.pair_column,
            label_column=settings.label_column,
        )
    except TextError as error:
        raise error.renamed(_KEYS) from None


def _chosen(figures: Sequence[Quality], settings: QualitySettings) -> Quality:
    wanted = settings.metric or next(each.metric for each in figures if each.metric not in _LESS_IS_BETTER)
    found = next((each for each in figures if each.metric == wanted), None)
    if found is None or wanted in _LESS_IS_BETTER:
        what = f"there is no '{wanted}'" if found is None else f"of '{wanted}' less is better, so it has no floor"
        names = [each.metric for each in figures if each.metric not in _LESS_IS_BETTER]
        raise RecipeError(f"{what} ({settings.task})", where="quality.metric", hint=f"name one of: {', '.join(names)}")
    return found
