"""Models judged side by side on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homoexport.choices import EvaluationTask, RuntimeChoice
from homoexport.documents.evaluation import JudgedModel, QualityFigure
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.estimate import Quality
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.fidelity import Reference
from homoexport.stages.evaluate.models import CutVectors, EmbeddedOnce, digest_of_source, is_package, open_model
from homoexport.stages.evaluate.retrieval import check_enough, check_widths
from homoexport.stages.evaluate.search import Search
from homoexport.stages.evaluate.tasks import TASKS, check_asked, refuse_unfit


class Judge:
    """What models are judged by: examples, a task, and a teacher, who is asked once.

    Args:
        examples: texts, pairs or lists of words, with labels where the task needs them.
        teacher: an open model, for the tasks that take one.
        documents: an open model of the vectors that are searched, in place of each model's own.
        train: labelled examples for a probe on the vectors of encoders.
        metrics: those to give of the task's own; by default all.
        seed: of samples, masks and the bootstrap.

    Raises:
        UserError: a task without the teacher that it needs.
        TextError: examples that are not for the task, or too few.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        task: EvaluationTask,
        teacher: Package | None = None,
        documents: Package | None = None,
        train: Examples | None = None,
        metrics: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        check_asked(task, examples, has_teacher=teacher is not None)
        self.examples = examples
        self._task, self._train, self._metrics, self._seed = TASKS[task], train, metrics, seed
        self._reference: Reference | Search | None = None
        if self._task.is_search:
            self._reference = Search(examples, documents=documents)
        elif teacher is not None:
            texts = examples.drawn(self._task.max_texts, seed).texts
            if not teacher.details.labels:
                check_enough(len(texts), where=examples.source)
            self._reference = Reference(teacher, texts, documents=documents)

    def qualities(self, model: Package) -> list[Quality]:
        """An open model's figures.

        Raises:
            PackageError: a model that cannot do the task.
            TextError: labels that are not the model's, or too little text.
        """
        found: list[Quality] = []
        if self._train is not None:
            assert self._task.probe is not None
            found += self._task.probe(model, self.examples, self._train, seed=self._seed)
        elif self._task.qualities is not None:
            found += self._task.qualities(model, self.examples, seed=self._seed)
        if self._metrics is not None:
            found = [quality for quality in found if quality.metric in self._metrics]
        if self._reference is not None:
            found += self._reference.qualities(model, seed=self._seed)
        return found


def evaluate_models(
    models: Sequence[str],
    examples: Examples,
    *,
    task: EvaluationTask,
    teacher: str | None = None,
    documents: str | None = None,
    dimensions: Sequence[int] = (),
    train: Examples | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    threads: int = 1,
    runtime: RuntimeChoice = "auto",
    on_stage: Callable[[str], None] = lambda _title: None,
) -> tuple[JudgedModel, ...]:
    """Judge packages and torch models, named as `open_model` takes them, on the same examples; see `Judge`.

    Models run in `runtime`; what they are held against may lack a file for that, and then is its fastest. Of each of
    `dimensions` there are figures of the vectors cut to so many numbers, too, also of the documents'.
    """
    check_asked(task, examples, has_teacher=teacher is not None)
    model_task = TASKS[task].model_task
    beside: RuntimeChoice = "onnxruntime" if runtime == "onnxruntime" else "auto"
    judging, searched = (
        None if source is None else open_model(source, threads=threads, task=model_task, runtime=beside)
        for source in (teacher, documents)
    )
    if dimensions:
        judging, searched = (each and EmbeddedOnce(each) for each in (judging, searched))
    # All are opened first, so that a bad one does not cost the others their figures.
    asked = None if train else model_task
    opened = [open_model(source, threads=threads, task=asked, runtime=runtime) for source in models]
    for source, model in zip(models, opened, strict=True):
        if train is None:
            refuse_unfit(source, model.details.task, labels=len(model.details.labels), task=task)
    of_models: list[list[QualityFigure]] = [[] for _ in models]
    if searched is not None:
        for model in opened:
            check_widths(model, model.embed([""]), searched.embed([""]))
    if dimensions:
        opened = [EmbeddedOnce(model) for model in opened]
    cut = {size: [_cut(model, size) for model in opened] for size in (None, *dimensions)}
    for size, models_cut in cut.items():
        of_size = None if searched is None else _cut(searched, size)
        judge = Judge(examples, task=task, teacher=judging, documents=of_size, train=train, metrics=metrics, seed=seed)
        for source, model, figures in zip(models, models_cut, of_models, strict=True):
            on_stage(f"judging {source}" if size is None else f"judging {size} numbers of {source}")
            found = (quality.figure for quality in judge.qualities(model))
            figures += [each.model_copy(update={"dimensions": size}) for each in found]
    return tuple(map(described, models, opened, of_models))


def _cut(model: Package, size: int | None) -> Package:
    return model if size is None else CutVectors(model, size)


def described(source: str, model: Package, metrics: Sequence[QualityFigure]) -> JudgedModel:
    """A model's figures, with what it is."""
    return JudgedModel(
        model=source,
        runtime=model.details.runtime if is_package(source) else "torch",
        precision=model.details.precision,
        digest=digest_of_source(source),
        metrics=tuple(metrics),
    )
