from __future__ import annotations

import random

import torch
from transformers import PreTrainedTokenizerFast

from homoexport.text.collate import collate, mask_tokens
from homoexport.text.example import Example

FACTS = {"mask_token_id": 4, "vocab_size": 1000, "special_ids": {0, 1, 2, 3, 4}, "probability": 0.15}


def _examples(count: int, longest: int = 40) -> list[Example]:
    draw = random.Random(1)
    return [Example([2, *draw.choices(range(5, 1000), k=draw.randint(1, longest)), 3]) for _ in range(count)]


def test_collate_is_the_tokenizers_own_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = _examples(7)
    ours = collate(examples, pad_token_id=0, pad_to_multiple=8)
    theirs = tokenizer.pad(
        {"input_ids": [example.input_ids for example in examples]}, pad_to_multiple_of=8, return_tensors="pt"
    )
    assert ours.keys() == {"input_ids", "attention_mask"}
    for name, tensor in ours.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, theirs[name])


def test_collate_pads_what_goes_with_the_tokens() -> None:
    examples = [
        Example([2, 7, 3, 8, 3], token_type_ids=[0, 0, 0, 1, 1], labels=4, pair_ids=[2, 3]),
        Example([2, 7, 3]),
    ]
    batch = collate(examples, pad_token_id=9, pad_to_multiple=2)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[2, 7, 3, 8, 3, 9], [2, 7, 3, 9, 9, 9]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]],
        "token_type_ids": [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
        "labels": [4, -100],
    }
    tokens = collate([Example([2, 7, 3], labels=[-100, 5, -100]), Example([2, 3])], pad_token_id=0, pad_to_multiple=4)
    assert tokens["labels"].tolist() == [[-100, 5, -100, -100], [-100] * 4]
    assert {tensor.dtype for tensor in (batch | tokens).values()} == {torch.int64}


def test_masking_has_berts_shares() -> None:
    batch = collate(_examples(3000), pad_token_id=0)
    masked, labels = mask_tokens(**batch, **FACTS, seed=0, positions=range(3000))
    ids = batch["input_ids"]
    chosen = labels != -100
    maskable = ids > 4
    assert not chosen[~maskable].any()
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert chosen.any(dim=1).all()
    # About 61,500 maskable tokens. The one token that each row has at the least adds to the share of short rows.
    long_rows = maskable.sum(dim=1) > 30
    share = chosen[long_rows].sum() / maskable[long_rows].sum()
    assert abs(share - 0.15) < 0.01
    became_mask = (masked[chosen] == 4).float().mean()
    stayed = (masked[chosen] == ids[chosen]).float().mean()
    assert abs(became_mask - 0.8) < 0.015
    assert abs(stayed - 0.1) < 0.015


def test_a_rows_masks_are_its_own() -> None:
    examples = _examples(8)
    whole = collate(examples, pad_token_id=0)
    masked, labels = mask_tokens(**whole, **FACTS, seed=3, positions=range(100, 108))
    for row, example in enumerate(examples):
        alone = collate([example], pad_token_id=0, pad_to_multiple=64)
        alone_masked, alone_labels = mask_tokens(**alone, **FACTS, seed=3, positions=[100 + row])
        length = len(example.input_ids)
        assert torch.equal(alone_masked[0, :length], masked[row, :length])
        assert torch.equal(alone_labels[0, :length], labels[row, :length])
    _, elsewhere = mask_tokens(**whole, **FACTS, seed=3, positions=range(200, 208))
    _, otherwise = mask_tokens(**whole, **FACTS, seed=4, positions=range(100, 108))
    assert not torch.equal(elsewhere, labels)
    assert not torch.equal(otherwise, labels)


def test_a_row_of_special_tokens_stays() -> None:
    batch = collate([Example([2, 3]), Example([2, 7, 3])], pad_token_id=0)
    masked, labels = mask_tokens(**batch, **FACTS, seed=0, positions=[0, 1])
    assert (labels[0] == -100).all()
    assert torch.equal(masked[0], batch["input_ids"][0])
    assert labels[1, 1] == 7
