"""The quality of several packages on the same held-out text, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homoexport.errors import TextError
from homoexport.evaluate.agreement import check_comparable, decision_logits, label_agreement
from homoexport.evaluate.estimate import Quality
from homoexport.evaluate.examples import MAX_COMPARED, drawn_rows
from homoexport.evaluate.masked_lm import masked_lm_qualities
from homoexport.evaluate.similarity import similarity_quality
from homoexport.runtime.inference import FloatArray, Package, open_package


def evaluate_packages(
    packages: Sequence[Path], texts: Sequence[str], *, teacher: Path, seed: int, threads: int
) -> list[dict[str, Any]]:
    """Judge shipped packages on held-out texts.

    Fill-mask packages get `loss` on the same masked tokens. Classifiers get
    `label_agreement`, the share of the teacher's decisions that they keep (`score_spearman` where
    there is one label). The others get `similarity_spearman`, the agreement of their similarities
    with the teacher's. The teacher's own agreement is 1.

    Args:
        packages: package folders.
        texts: held-out texts; of more than 1,000 a sample drawn by `seed` is taken.
        teacher: the teacher's package folder.
        seed: of the sample, the masks and the bootstrap.
        threads: threads of one inference.

    Returns:
        For each package a JSON-ready dict with `package`, `metric`, `value`, `interval` (95 %) and
        how much text it was taken from.

    Raises:
        PackageError: not a package, or a teacher that gives no vectors, or not the same labels, to compare with.
        TextError: too little text.
    """
    if not texts:
        raise TextError("no text to evaluate on", hint="give some held-out texts")
    texts = [texts[row] for row in drawn_rows(len(texts), MAX_COMPARED, seed)]
    reference: FloatArray | None = None
    decisions: list[FloatArray] | None = None
    results = []
    for folder in packages:
        package = open_package(folder, threads=threads)
        if package.details.task == "fill-mask":
            quality = masked_lm_qualities(package, _token_ids(package, texts), seed=seed)[0]
        elif package.details.labels:
            judge = open_package(teacher, threads=threads)
            check_comparable(package, judge)
            if decisions is None:
                decisions = decision_logits(judge, texts)
            quality = label_agreement(decisions, decision_logits(package, texts), seed=seed)
        else:
            if reference is None:
                reference = open_package(teacher, threads=threads).embed(texts)
            if folder.resolve() == teacher.resolve():
                quality = Quality("similarity_spearman", 1.0, np.ones(1), {"texts": len(texts)})
            else:
                quality = similarity_quality(reference, package.embed(texts), seed=seed)
        results.append({"package": str(folder), **quality.as_json()})
    return results


def _token_ids(package: Package, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, truncated to the package's `max_length`, without padding."""
    return [encoding.ids for encoding in package.tokenizer.encode_batch(list(texts))]
