"""Models judged side by side on a user's own data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from homoexport.choices import EvaluationTask
from homoexport.documents.artifact import staged, write_manifest
from homoexport.documents.document import to_json, write_text
from homoexport.errors import PackageError, TextError, UserError
from homoexport.evaluate.agreement import check_comparable, decision_logits, label_agreement
from homoexport.evaluate.classification import classification_qualities, label_indices, names_of, score_qualities
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import MAX_COMPARED, Examples, drawn_rows
from homoexport.evaluate.masked_lm import masked_lm_qualities
from homoexport.evaluate.models import digest_of_model, is_package, open_model
from homoexport.evaluate.probe import probe_logits
from homoexport.evaluate.retrieval import retrieval_qualities
from homoexport.evaluate.similarity import similarity_quality, sts_qualities
from homoexport.evaluate.tagging import tagging_qualities
from homoexport.runtime.inference import Package

EVALUATION_FILE = "evaluation.json"

_MODEL_TASKS = {
    "masked-lm": "fill-mask",
    "classification": "text-classification",
    "tagging": "token-classification",
}


def evaluate_models(
    models: Sequence[str],
    examples: Examples,
    *,
    task: EvaluationTask,
    teacher: str | None = None,
    train: Examples | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Judge packages and torch models on the same examples.

    `sts`: correlation of cosine similarities with people's scores. `fidelity`: how far a model keeps what its teacher
    does on any text: search results and similarities of sentence encoders, decisions of classifiers; of more than
    1,000 texts a sample drawn by `seed` is taken. `masked-lm`: masked tokens restored. `classification`: labels that
    people gave, or, of a model with one output, scores; `tagging`: labels of words and entities; with a teacher
    both also say how often the model decides as it does.

    Args:
        models: packages' folders, students' folders, hub names, or `package:DISTRIBUTION/PATH`.
        examples: pairs with scores for `sts`, texts or pairs with labels for `classification`, texts for the others.
        task: what to judge.
        teacher: a model, too; for `fidelity`, and for `classification` and `tagging` if there is one.
        train: labelled examples for a linear classifier on the vectors of encoders, for `classification`.
        metrics: those to give of `classification`; by default all.
        seed: of samples, masks and the bootstrap.
        threads: threads of one inference.
        progress: is told which model's turn it is.

    Returns:
        For each model a JSON-ready dict: `model`, `runtime` (torch or onnxruntime), `precision`, `digest`, and
        `metrics`, each with `metric`, `value`, `interval` (95 %) and what it was taken from.

    Raises:
        UserError: `fidelity` without a teacher, or pairs where texts are judged, or the other way round.
        TextError: too little text.
        PackageError, TeacherError: not a model, or one that cannot do the task.
    """
    evaluation = Evaluation(
        examples, task=task, teacher=teacher, train=train, metrics=metrics, seed=seed, threads=threads
    )
    opened = [evaluation.open(source) for source in models]  # so that a bad one does not cost the others their figures
    results = []
    for source, model in zip(models, opened, strict=True):
        if progress is not None:
            progress(f"judging {source}")
        results.append(described(source, model, [quality.as_json() for quality in evaluation.qualities(model)]))
    return results


def described(source: str, model: Package, metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A model's figures, with what it is."""
    return {
        "model": source,
        "runtime": "onnxruntime" if is_package(source) else "torch",
        "precision": model.details.precision,
        "digest": digest_of_model(model.details.folder),
        "metrics": list(metrics),
    }


@dataclass
class Evaluation:
    """What models are judged by; for the arguments see `evaluate_models`. The teacher is asked once."""

    examples: Examples
    task: EvaluationTask
    teacher: str | None = None
    train: Examples | None = None
    metrics: Sequence[str] | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        _check_task(self.task, self.examples, self.teacher)
        self._judge = None
        if self.teacher is not None:
            opened = open_model(self.teacher, threads=self.threads, task=_MODEL_TASKS.get(self.task))
            limit = MAX_COMPARED if self.task == "fidelity" else None
            self._judge = _Judge(opened, self.examples, limit=limit, seed=self.seed)

    def open(self, source: str) -> Package:
        """A model to be judged."""
        return open_model(source, threads=self.threads, task=None if self.train else _MODEL_TASKS.get(self.task))

    def qualities(self, model: Package) -> list[Quality]:
        """A model's figures."""
        return list(_qualities(model, self.examples, self.task, self._judge, self.train, self.metrics, seed=self.seed))


def write_evaluation(out_dir: Path, document: Mapping[str, Any], *, force: bool = False) -> None:
    """Keep what models were judged to be as an `evaluation` artifact.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
    """
    with staged(out_dir, force=force) as folder:
        write_text(folder / EVALUATION_FILE, to_json(document))
        write_manifest(folder, "evaluation")


class _Judge:
    """A teacher's answers to the texts, which are asked for once; to a sample of them where there are too many."""

    def __init__(self, teacher: Package, examples: Examples, *, limit: int | None, seed: int) -> None:
        self.texts = [examples.texts[row] for row in drawn_rows(len(examples.texts), limit, seed)]
        self.teacher = teacher
        self.decides = bool(teacher.details.labels)
        self.answers: Any = decision_logits(teacher, self.texts) if self.decides else teacher.embed(self.texts)

    def qualities(self, model: Package, *, seed: int) -> list[Quality]:
        if self.decides:
            check_comparable(model, self.teacher)
            return [label_agreement(self.answers, decision_logits(model, self.texts), seed=seed)]
        vectors = model.embed(self.texts)
        return [
            *retrieval_qualities(self.answers, vectors, seed=seed),
            similarity_quality(self.answers, vectors, seed=seed),
        ]


def _qualities(
    model: Package,
    examples: Examples,
    task: EvaluationTask,
    judge: _Judge | None,
    train: Examples | None,
    metrics: Sequence[str] | None,
    *,
    seed: int,
) -> Iterator[Quality]:
    if task == "classification":
        found = _labelled(model, examples, train, seed=seed)
        yield from (quality for quality in found if metrics is None or quality.metric in metrics)
    if task == "tagging":
        yield from tagging_qualities(model, examples, seed=seed)
    if judge is not None:
        yield from judge.qualities(model, seed=seed)
    elif task == "sts":
        pairs = [text for text in examples.texts if not isinstance(text, str)]
        if model.details.task == "text-classification":  # a cross-encoder
            yield from _labelled(model, examples, None, seed=seed)
        else:
            yield from sts_qualities(model, pairs, examples.scores(), seed=seed)
    elif task == "masked-lm":
        texts = [text for text in examples.texts if isinstance(text, str)]
        sequences = [one.ids for one in model.tokenizer.encode_batch(texts)]
        yield from masked_lm_qualities(model, sequences, seed=seed)


def _labelled(model: Package, examples: Examples, train: Examples | None, *, seed: int) -> list[Quality]:
    assert examples.labels is not None
    if train is not None:
        names = train.names or names_of(train.labels or ())
        right = label_indices(examples.labels, names, where=examples.source)
        logits, trained_on = probe_logits(model, train, examples, names=names, seed=seed)
        found = classification_qualities(logits, right, seed=seed)
        return [replace(each, details={**each.details, "probe_trained_on": trained_on}) for each in found]
    if model.details.task != "text-classification":
        raise PackageError(
            f"is for {model.details.task}",
            where=str(model.details.folder),
            hint="name a text-classification model, or give --probe",
        )
    logits = np.stack(model.logits(examples.texts))  # [N, C]
    if logits.shape[1] == 1:
        if examples.names is not None:
            raise PackageError(
                f"has one output where the examples have the labels {', '.join(examples.names)}",
                where=str(model.details.folder),
                hint="name a model with those labels",
            )
        return score_qualities(logits[:, 0], examples.scores(), seed=seed)
    return classification_qualities(
        logits,
        label_indices(
            examples.labels, model.details.labels, where=examples.source, order=examples.names, numbered=True
        ),
        seed=seed,
    )


def check_labels(model: Package, examples: Examples, task: EvaluationTask) -> None:
    """Refuse labels or scores that the model cannot be held against, all of them, before it is asked.

    Raises:
        TextError: a label that it does not have, or a score that is no number.
    """
    given: dict[str, Any] = {"where": examples.source, "order": examples.names, "numbered": True}
    if task == "tagging":
        flat = [label for labels in examples.word_labels or () for label in labels]
        label_indices(flat, model.details.labels, **given)
    elif task == "sts" or (task == "classification" and len(model.details.labels) == 1):
        examples.scores()
    elif task == "classification" and model.details.task == "text-classification" and examples.labels is not None:
        label_indices(examples.labels, model.details.labels, **given)


def _check_task(task: EvaluationTask, examples: Examples, teacher: str | None) -> None:
    if task == "fidelity" and teacher is None:
        raise UserError("fidelity to whom?", where="--task fidelity", hint="name the teacher with --teacher")
    if task in ("sts", "masked-lm") and teacher is not None:
        raise UserError("needs no teacher", where=f"--task {task}", hint="leave --teacher out")
    paired = not isinstance(examples.texts[0], str)
    if task == "sts" and not paired:
        hint = "name their column with --pair-column"
        raise TextError("gives no second texts", where=examples.source, hint=hint)
    if task in ("fidelity", "masked-lm") and paired:
        raise TextError("gives pairs of texts", where=examples.source, hint="leave --pair-column out")
