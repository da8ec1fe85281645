"""A floor under a model's quality, absolute or as a share of the teacher's.

The interval counts: a floor is kept where the whole 95 % interval lies on or above it, missed where it lies below, and
too close to call between. Against a teacher it is the interval of the difference on the same examples, draw by draw
(the paired bootstrap, Efron & Tibshirani 1993, section 8.3), which is much narrower than the two apart.

T resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from homoexport.budget import QUALITY_LINE, Verdict
from homoexport.errors import RecipeError, TextError
from homoexport.evaluate.data import EvalTask, judged_data
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import Examples
from homoexport.evaluate.tasks import Evaluation
from homoexport.inference import Package
from homoexport.recipe import QualitySettings
from homoexport.sample_text import SAMPLE_TEXT

_LESS_IS_BETTER = ("loss", "perplexity", "calibration_error")
_FEW = 30  # examples that show whether a gate can be judged at all


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

    def judge(self, model: Package) -> Verdict:
        """Hold a model against the floor."""
        found, level, theirs = self._figure(model), self._settings.level, self._teacher
        if theirs is None:
            limit, (low, high) = level, (end - level for end in found.interval)
        else:
            limit = level * theirs.value
            low, high = np.percentile(found.draws - level * theirs.draws, (2.5, 97.5))
        kept = True if low >= 0 else False if high < 0 else None
        return Verdict(f"{QUALITY_LINE}{found.metric}", limit, found.value, found.interval, kept)

    def _figure(self, model: Package) -> Quality:
        return _chosen(self._evaluation.qualities(model), self._settings)


def check_gate(settings: QualitySettings, *, teacher: str) -> None:
    """Find what would stop a gate half-way: its data, its metric, a teacher that cannot do the task.

    Raises:
        As `Gate`.
    """
    examples, task, metrics = _data_of(settings, SAMPLE_TEXT)
    few = Examples(examples.source, examples.texts[:_FEW], examples.labels and examples.labels[:_FEW], examples.names)
    evaluation = Evaluation(few, task=task, teacher=teacher if task == "fidelity" else None, metrics=metrics)
    try:
        figures = evaluation.qualities(evaluation.open(teacher))
    except TextError:
        if settings.data is None and task in ("fidelity", "masked-lm"):
            return  # the model has no words for our sample; those of the held-out text will be its own
        raise
    _chosen(figures, settings)


def _data_of(settings: QualitySettings, texts: Sequence[str]) -> tuple[Examples, EvalTask, tuple[str, ...] | None]:
    task = settings.task
    if settings.data is None and (task == "fidelity" or task == "masked-lm"):
        if not texts:
            raise TextError("no held-out text to judge on", where="quality", mend="name files with quality.data")
        return Examples("held-out text", tuple(texts), None), task, None
    return judged_data(
        task,
        data=settings.data,
        data_dir=Path(settings.data_dir).expanduser() if settings.data_dir else None,
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        label_column=settings.label_column,
    )


def _chosen(figures: Sequence[Quality], settings: QualitySettings) -> Quality:
    wanted = settings.metric or next(each.metric for each in figures if each.metric not in _LESS_IS_BETTER)
    found = next((each for each in figures if each.metric == wanted), None)
    if found is None or wanted in _LESS_IS_BETTER:
        what = f"there is no '{wanted}'" if found is None else f"of '{wanted}' less is better, so it has no floor"
        names = [each.metric for each in figures if each.metric not in _LESS_IS_BETTER]
        raise RecipeError(f"{what} ({settings.task})", where="quality.metric", mend=f"name one of: {', '.join(names)}")
    return found
