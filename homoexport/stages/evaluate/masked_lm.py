"""How well a fill-mask package restores masked tokens of held-out text.

The measure is BERT's own (Devlin et al. 2019, section 3.1): cross-entropy and accuracy at the
masked positions. Every chosen token is replaced by the mask token, since nothing is trained here,
and which ones are chosen follows from the seed alone, so that two packages see the same gaps.

B batch, S sequence, M masked positions, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from homoexport.errors import PackageError, TextError, refusing
from homoexport.runtime.inference import Package
from homoexport.runtime.worker.inputs import padded_tokens
from homoexport.stages.evaluate.estimate import Quality, estimate, ratio
from homoexport.stages.evaluate.examples import Examples

_BATCH = 8  # the logits of 8 × 128 tokens over 30,522 words are 125 MB


def judge_masked_lm(model: Package, examples: Examples, *, seed: int) -> list[Quality]:
    """Figures of a fill-mask package on texts; see `masked_lm_qualities`."""
    sequences = [encoding.ids for encoding in model.tokenizer.encode_batch(list(examples.texts))]
    return masked_lm_qualities(model, sequences, seed=seed)


def masked_lm_qualities(
    package: Package, sequences: Sequence[Sequence[int]], *, seed: int, mlm_probability: float = 0.15
) -> list[Quality]:
    """Mean cross-entropy (nats) at masked positions (`loss`); `perplexity`, which is its exponential; `top1` and
    `top5`, how many of the masked tokens are the likeliest one, and among the five likeliest.

    Sequences are token ids with their special tokens, each at most the package's `max_length` long; of each that share
    of the ordinary tokens is masked, and one at the least. The bootstrap is over sequences.
    """
    folder = str(package.details.folder)
    if package.details.task != "fill-mask":
        raise PackageError(f"is a {package.details.task} model", where=folder, hint="name a fill-mask model")
    mask_token_id, special = _mask_token_id(package), _special_ids(package)
    rng = np.random.default_rng(seed)
    chosen = [_choose(np.asarray(ids, dtype=np.int64), special, mlm_probability, rng) for ids in sequences]
    kept = [row for row, positions in enumerate(chosen) if len(positions)]
    if not kept:
        raise TextError("no token to mask", hint="give some text")
    order = sorted(kept, key=lambda row: len(sequences[row]))
    sums: list[tuple[float, ...]] = []  # of each sequence: cross-entropy, likeliest, among the five, masked
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        sums += _score(package, [sequences[row] for row in rows], [chosen[row] for row in rows], mask_token_id)
    *columns, masked = np.array(sums).T  # [sequences] each
    taken = {"sequences": len(sums), "masked_tokens": int(masked.sum())}
    loss, top1, top5 = (
        estimate(name, ratio(column, masked), len(sums), seed=seed, counts=taken, less_is_better=name == "loss")
        for name, column in zip(("loss", "top1", "top5"), columns, strict=True)
    )
    perplexity = Quality("perplexity", float(np.exp(loss.value)), np.exp(loss.draws), taken, less_is_better=True)
    return [loss, perplexity, top1, top5]


def _score(
    package: Package, sequences: Sequence[Sequence[int]], chosen: Sequence[NDArray[np.intp]], mask_token_id: int
) -> list[tuple[float, ...]]:
    """Cross-entropy, tokens that are the likeliest and among the five likeliest, and masked ones, of B sequences."""
    masked = [np.array(ids, dtype=np.int64) for ids in sequences]
    for masked_ids, positions in zip(masked, chosen, strict=True):
        masked_ids[positions] = mask_token_id
    tokens = padded_tokens(masked, package.details.pad_token_id)
    (logits,) = package.run(tokens, ["logits"])  # [B, S, V]
    scores: list[tuple[float, ...]] = []
    for answer, ids, positions in zip(logits, sequences, chosen, strict=True):
        at = answer[positions].astype(np.float64)  # [M, V]
        labels = np.asarray(ids)[positions][:, None]  # [M, 1]
        own = np.take_along_axis(at, labels, axis=1)
        likelier = (at >= own).sum(axis=1) - 1  # [M], or as likely: a model that knows nothing restores none
        first, five = (float((likelier < count).sum()) for count in (1, 5))
        log_likelihood = np.take_along_axis(log_softmax(at, axis=1), labels, axis=1).sum()
        scores.append((-float(log_likelihood), first, five, float(len(labels))))
    return scores


def _choose(
    ids: NDArray[np.int64], special: NDArray[np.int64], share: float, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Positions to mask, sorted."""
    ordinary = np.flatnonzero(~np.isin(ids, special))
    count = min(len(ordinary), max(1, round(share * len(ordinary))))
    return np.sort(rng.choice(ordinary, count, replace=False)) if count else ordinary


def _special_ids(package: Package) -> NDArray[np.int64]:
    added = package.tokenizer.get_added_tokens_decoder()
    return np.array([number for number, token in added.items() if token.special], dtype=np.int64)


def _mask_token_id(package: Package) -> int:
    path = package.details.folder / "tokenizer_config.json"
    with refusing(PackageError, "cannot be read", where=str(path), hint="export the package again"):
        token = json.loads(path.read_text(encoding="utf-8")).get("mask_token")
        content = token["content"] if isinstance(token, dict) else token
        number = package.tokenizer.token_to_id(content) if content else None
    if number is None:
        raise PackageError("the tokenizer has no mask token", where=str(path), hint="name a package with one")
    return int(number)
