"""What the parity ladder is climbed with: real text in right-padded batches, each answered by torch.

B batch, S sequence, D hidden, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from homoexport.encoder import Encoder, input_names, torch_answers

MAX_TEXTS = 64  # a few seconds for a small encoder
SINGLE_TEXTS = 8
LONG_TOKENS = 512  # beyond every local window in use
MASKED = 0.15  # share of the tokens that a masked-language model is asked for, as when it was trained
MAX_UNKNOWN = 0.3

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Tokens of one call, by input name, each [B, S], and torch's answer by output name.

    `counted` [B, S] are the positions whose answers count: where a model answers each token, those that are no padding;
    of a masked-language model the masked ones. `multi_label`: each label is a decision of its own.
    """

    tokens: dict[str, NDArray[np.int64]]
    expected: dict[str, NDArray[np.float32]]
    counted: NDArray[np.bool_]
    multi_label: bool = False


@dataclass(frozen=True)
class Batches:
    """Right-padded batches: of one text, of eight in the texts' order, and of very unlike lengths.

    The first of `eights` holds the texts of `singles`, in the same order. The last of `mixed` is the text of
    `short_one` and a far longer one.
    """

    singles: tuple[Batch, ...]
    eights: tuple[Batch, ...]
    mixed: tuple[Batch, ...]
    short_one: Batch

    @property
    def all(self) -> tuple[Batch, ...]:
        return self.singles + self.eights + self.mixed

    @property
    def few(self) -> tuple[Batch, ...]:
        """One of each kind and the longest text: enough to see that a graph is wrong."""
        return self.singles[:1] + self.eights[:1] + self.mixed

    @property
    def short(self) -> tuple[Batch, ...]:
        """Some that even an emulator answers in time."""
        return self.singles[:1] + self.eights[:1] + self.mixed[:1]


def make_batches(encoder: Encoder, texts: Sequence[str], *, max_length: int) -> Batches:
    """Real text in batches, each answered by torch.

    The longest text is many of them together, so that local attention and the last positions (up to 512) are seen, too.
    Classifiers that tell two texts of an input apart are given pairs besides. Masked-language models find masks. Of
    more than 64 texts, 64 from all over are taken.
    """
    chosen = spread(texts, MAX_TEXTS)
    by_length = sorted(chosen, key=len)
    words = " ".join(chosen).split() or [""]
    endless = " ".join(words * (LONG_TOKENS // len(words) + 1))

    def answered(group: Sequence[str], others: Sequence[str] | None = None, longest: int = max_length) -> Batch:
        return _answer(encoder, group, others, longest)

    mixed = [answered([by_length[0], by_length[-1], by_length[len(by_length) // 2]])]
    if takes_pairs(encoder):
        mixed.append(answered(chosen[:8], chosen[::-1][:8]))
    mixed.append(answered([by_length[0], endless], longest=min(max_length, LONG_TOKENS)))
    return Batches(
        singles=tuple(answered([text]) for text in chosen[:SINGLE_TEXTS]),
        eights=tuple(answered(chosen[start : start + 8]) for start in range(0, len(chosen), 8)),
        mixed=tuple(mixed),
        short_one=answered([by_length[0]]),
    )


def takes_pairs(encoder: Encoder) -> bool:
    """Whether an input may be two texts, as of cross-encoders: a classifier that knows types of tokens."""
    return encoder.task == "text-classification" and "token_type_ids" in input_names(encoder)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of the items, evenly from all over; all, if there are no more."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def known_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """The texts; of a tokenizer to which too many of their tokens are unknown, as many rows of its own words.

    A graph cannot be judged by text of which the model sees unknown tokens alone.
    """
    unknown = tokenizer.unk_token_id
    ids = [one for row in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] for one in row]
    if unknown is None or ids.count(unknown) <= MAX_UNKNOWN * len(ids):
        return list(texts)
    words = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    rng = np.random.default_rng(0)
    rows = [rng.choice(words, rng.integers(2, 60)).tolist() for _ in texts]
    return [tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(row)) for row in rows]


def _answer(encoder: Encoder, texts: Sequence[str], others: Sequence[str] | None, max_length: int) -> Batch:
    encoded = encoder.tokenizer(
        list(texts),
        None if others is None else list(others),
        padding=True,
        truncation=True,
        max_length=max_length,
        padding_side="right",
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    tokens = {name: encoded[name] for name in input_names(encoder)}
    counted = encoded["attention_mask"].bool()
    if encoder.task == "fill-mask":
        counted = _masked(tokens["input_ids"], encoded["special_tokens_mask"].bool())
        tokens["input_ids"] = tokens["input_ids"].masked_fill(counted, encoder.tokenizer.mask_token_id)
    answers = torch_answers(encoder, tokens)
    return Batch(
        {name: value.numpy() for name, value in tokens.items()},
        {name: value.numpy() for name, value in answers.items()},
        counted.numpy(),
        getattr(encoder.model.config, "problem_type", None) == "multi_label_classification",
    )


def _masked(ids: torch.Tensor, special: torch.Tensor) -> torch.Tensor:
    """Which positions [B, S] to mask: of each text the same ones in any batch, and one at the least."""
    masked = torch.zeros_like(special)
    for row, (tokens, fixed) in enumerate(zip(ids.tolist(), special.tolist(), strict=True)):
        free = [position for position, one in enumerate(fixed) if not one]
        rng = np.random.default_rng([tokens[position] for position in free])
        count = min(len(free), max(1, round(MASKED * len(free))))
        masked[row, rng.choice(free, count, replace=False).astype(int) if free else []] = True
    return masked
