"""What a model keeps of its teacher: search results and similarities of an encoder, decisions of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homoexport.choices import Side
from homoexport.documents.evaluation import PackageQuality, RunQuality
from homoexport.errors import TextError
from homoexport.runtime.inference import Package, Text
from homoexport.stages.evaluate.agreement import check_comparable, decision_logits, label_agreement
from homoexport.stages.evaluate.estimate import Quality
from homoexport.stages.evaluate.examples import MAX_COMPARED, Examples
from homoexport.stages.evaluate.masked_lm import judge_masked_lm
from homoexport.stages.evaluate.retrieval import FEWEST_SEARCHED, check_widths, retrieval_qualities
from homoexport.stages.evaluate.similarity import similarity_quality


class Reference:
    """A teacher's answers to some texts, which are asked for once.

    The models' vectors search those that `documents` gives of the same texts; by default each searches its own.
    """

    def __init__(self, teacher: Package, texts: Sequence[Text], *, documents: Package | None = None) -> None:
        self._teacher, self._texts = teacher, texts
        self._documents = None if documents is None else documents.embed(texts)
        self._decides = bool(teacher.details.labels)
        self._answers = decision_logits(teacher, texts) if self._decides else list(teacher.embed(texts))

    def qualities(self, model: Package, *, seed: int) -> list[Quality]:
        """All figures of a model against the teacher."""
        if self._decides:
            return [self.main_quality(model, seed=seed)]
        vectors = model.embed(self._texts)
        reference = np.asarray(self._answers)
        if self._documents is not None:
            check_widths(model, vectors, self._documents)
            return retrieval_qualities(reference, vectors, seed=seed, documents=self._documents)
        return [
            *retrieval_qualities(reference, vectors, seed=seed),
            similarity_quality(reference, vectors, seed=seed),
        ]

    def main_quality(self, model: Package, *, seed: int, documents: Side = "student") -> Quality:
        """`label_agreement` (`score_spearman` where there is one label) of a classifier.

        Of a sentence encoder `overlap@10`, among its own vectors or the teacher's; where there are too few texts to
        search among, `similarity_spearman`.
        """
        if self._decides:
            check_comparable(model, self._teacher)
            return label_agreement(self._answers, decision_logits(model, self._texts), seed=seed)
        reference, vectors = np.asarray(self._answers), model.embed(self._texts)
        if len(self._texts) < FEWEST_SEARCHED:
            return similarity_quality(reference, vectors, seed=seed)
        searched = reference if documents == "teacher" else None
        return retrieval_qualities(reference, vectors, seed=seed, documents=searched)[0]


def quality_of_run(
    teacher: Package,
    student: Package,
    texts: Sequence[str],
    *,
    seed: int,
    second: Package | None = None,
    output: Side = "student",
) -> RunQuality:
    """One figure of a run's two packages on the same held-out texts, without labels.

    Fill-mask packages get `loss` on the same masked tokens; others what they keep of the teacher's decisions or
    similarities, of which the teacher itself keeps 1. Where a `second` model taught the vectors, both are held against
    that one. A student whose `output` is the teacher's space searches the vectors that it was taught by. Of more than
    1,000 texts a sample drawn by `seed` is taken.

    Raises:
        PackageError: a teacher that gives no vectors, or not the same labels, to compare with.
        TextError: too little text.
    """
    if not texts:
        raise TextError("no text to evaluate on", hint="give some held-out texts")
    examples = Examples("held-out text", tuple(texts), None).drawn(MAX_COMPARED, seed)
    documents = output if len(examples.texts) >= FEWEST_SEARCHED else "student"
    if student.details.task == "fill-mask":
        own, kept = (judge_masked_lm(package, examples, seed=seed)[0] for package in (teacher, student))
    else:
        reference = Reference(second or teacher, examples.texts)
        kept = reference.main_quality(student, seed=seed, documents=documents)
        own = Quality(kept.metric, 1.0, np.ones(1), kept.counts)
        if second is not None:
            own = reference.main_quality(teacher, seed=seed)
    return RunQuality(teacher=_of_package(teacher, own), student=_of_package(student, kept), documents=documents)


def _of_package(package: Package, quality: Quality) -> PackageQuality:
    return PackageQuality(package=str(package.details.folder), **dict(quality.figure))
