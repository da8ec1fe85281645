"""How well a classifier keeps its teacher's decisions, without labels.

A text's or token's decision is its likeliest label. A classifier of one label (a regressor, a
reranker) decides nothing: there Spearman's correlation of its scores with the teacher's stands.

N texts, S tokens of one text, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import FloatArray as Logits
from homoexport.runtime.inference import Package, Text
from homoexport.stages.evaluate.estimate import Quality, estimate, ratio, spearman


def label_agreement(reference: Sequence[Logits], logits: Sequence[Logits], *, seed: int) -> Quality:
    """Share of the texts or tokens whose likeliest label is the teacher's, by the bootstrap over texts.

    The teacher's logits and the student's are of the same N texts, [C] or [S, C] each. Where C is 1 it is
    `score_spearman`, which needs three texts.
    """
    assert [theirs.shape for theirs in reference] == [ours.shape for ours in logits]
    pairs = [(theirs, ours) for theirs, ours in zip(reference, logits, strict=True) if ours.size]
    if not pairs:
        raise TextError("no text to compare decisions on", hint="give some held-out texts")
    if pairs[0][0].shape[-1] == 1:
        return _score_agreement(pairs, seed=seed)
    same = [theirs.argmax(axis=-1) == ours.argmax(axis=-1) for theirs, ours in pairs]
    agreeing, decisions = np.array([row.sum() for row in same]), np.array([row.size for row in same])  # [N] each
    counts = {"texts": len(same), "decisions": int(decisions.sum())}
    return estimate("label_agreement", ratio(agreeing, decisions), len(same), seed=seed, counts=counts)


def _score_agreement(pairs: Sequence[tuple[Logits, Logits]], *, seed: int) -> Quality:
    if len(pairs) < 3:
        raise TextError(f"{len(pairs)} texts", hint="give 3 or more, for scores to compare")
    # Of a token-classification model of one label the tokens' mean stands for the text.
    theirs, ours = (np.array([rows.mean() for rows in side]) for side in zip(*pairs, strict=True))
    return estimate("score_spearman", spearman(theirs, ours), len(ours), seed=seed, counts={"texts": len(ours)})


def decision_logits(package: Package, texts: Sequence[Text]) -> list[Logits]:
    """A classifier's logits, [C] of each text or [S, C] of each text's tokens without the special ones."""
    logits = package.logits(texts)
    if package.details.task == "text-classification":
        return logits
    special = [np.array(item.special_tokens_mask, dtype=bool) for item in package.tokenizer.encode_batch(list(texts))]
    # A text without any token has one of padding in the logits.
    return [rows[: len(mask)][~mask] for rows, mask in zip(logits, special, strict=True)]


def check_comparable(package: Package, teacher: Package) -> None:
    """Refuse a package whose logits are not of the teacher's labels, or not of the teacher's tokens."""
    whats = ["task", "labels", *(["max_length"] if package.details.task == "token-classification" else [])]
    for what in whats:
        ours, theirs = getattr(package.details, what), getattr(teacher.details, what)
        if ours != theirs:
            raise PackageError(
                f"its {what} {ours} is not the teacher's {theirs}",
                where=str(package.details.folder),
                hint="compare a student with the teacher that it was distilled from",
            )
