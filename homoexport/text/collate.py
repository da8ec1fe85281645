"""Batches as tensors, and BERT's masking.

B batch (rows), S sequence (longest row, rounded up).

Masking is that of BERT (Devlin et al., 2019, section 3.1): of the chosen tokens 80 % become the
mask token, 10 % a random token, 10 % stay.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from homoexport.text.example import IGNORED, Example


def collate(
    examples: Sequence[Example], *, pad_token_id: int, pad_to_multiple: int = 8, limit: int | None = None
) -> dict[str, torch.Tensor]:
    """Right-padded int64 tensors of examples; documents of pairs (`pair_ids`) are collated by a call of their own.

    S is the longest row, rounded up to a multiple of `pad_to_multiple`, but not beyond `limit`, the model's positions.

    Returns:
        `input_ids` [B, S] and `attention_mask` [B, S]; `token_type_ids` [B, S] where any example has
        them; `labels` where any example has them, [B] for classes and [B, S] for tokens, -100 where
        there is none; of scores float32 [B], NaN where there is none; `vectors` [B, D] where examples have them.
    """
    longest = max(len(example.input_ids) for example in examples)
    width = -(-longest // pad_to_multiple) * pad_to_multiple
    if limit is not None:
        width = max(longest, min(width, limit))
    ids = [example.input_ids for example in examples]
    batch = {"input_ids": _padded(ids, width, pad_token_id)}
    batch["attention_mask"] = _padded([[1] * len(row) for row in ids], width, 0)
    if any(example.token_type_ids is not None for example in examples):
        batch["token_type_ids"] = _padded([example.token_type_ids or [] for example in examples], width, 0)
    labels = [example.labels for example in examples]
    if any(isinstance(label, list) for label in labels):
        batch["labels"] = _padded([label if isinstance(label, list) else [] for label in labels], width, IGNORED)
    elif any(isinstance(label, float) for label in labels):
        batch["labels"] = np.array(labels, dtype=np.float32)  # None is NaN there
    elif any(label is not None for label in labels):
        batch["labels"] = np.array([IGNORED if label is None else label for label in labels], dtype=np.int64)
    vectors = [example.vector for example in examples if example.vector is not None]
    if vectors:
        batch["vectors"] = np.stack(vectors)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def mask_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    mask_token_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    probability: float,
    seed: int,
    positions: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask tokens for the masked-LM loss, each row by its own random stream.

    A row's masks depend on (seed, its position) and its tokens alone: not on its padding, nor on the rows that it
    shares a batch with. Special tokens are never chosen; at least one other token of a row is.

    Args:
        input_ids: [B, S] int64, right-padded.
        attention_mask: [B, S], 1 on tokens.
        positions: B global indices, one for each row (step * batch size + index in the batch).

    Returns:
        Masked input_ids [B, S], and labels [B, S]: the original token where one was chosen, -100 elsewhere.
    """
    original = input_ids.cpu().numpy()
    lengths = attention_mask.sum(dim=1).tolist()
    special = np.array(sorted(special_ids), dtype=np.int64)
    masked = original.copy()
    labels = np.full_like(original, IGNORED)
    for row, (position, length) in enumerate(zip(positions, lengths, strict=True)):
        generator = np.random.default_rng([seed, position])
        draws, kinds = generator.random((2, length))
        random_tokens = generator.integers(vocab_size, size=length)
        tokens = original[row, :length]
        draws[np.isin(tokens, special)] = np.inf
        chosen = draws < probability
        if length and not chosen.any() and np.isfinite(draws.min()):
            chosen[draws.argmin()] = True
        labels[row, :length][chosen] = tokens[chosen]
        masked[row, :length][chosen & (kinds < 0.8)] = mask_token_id
        swapped = chosen & (kinds >= 0.9)
        masked[row, :length][swapped] = random_tokens[swapped]
    return (
        torch.from_numpy(masked).to(input_ids.device),
        torch.from_numpy(labels).to(input_ids.device),
    )
