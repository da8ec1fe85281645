"""What a trimmed tokenizer makes of texts, held against what the whole one made of them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from homoexport.documents.vocabulary import SplitTexts


def compare(
    whole: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase, kept: Sequence[int], texts: Sequence[str]
) -> SplitTexts:
    """How many of the texts keep their ids (those before, by the trimmed ones' places in `kept`), and their tokens."""
    before = [encoding.ids for encoding in whole.backend_tokenizer.encode_batch(list(texts))]
    after = [encoding.ids for encoding in trimmed.backend_tokenizer.encode_batch(list(texts))]
    same = sum([kept[index] for index in new] == old for old, new in zip(before, after, strict=True))
    unknown = _unknown(trimmed, after) - _unknown(whole, before)
    count = max(1, len(texts))
    return SplitTexts(
        texts=len(texts),
        same=same / count,
        tokens_before=sum(map(len, before)) / count,
        tokens_after=sum(map(len, after)) / count,
        unknown_more=unknown,
    )


def coverage(whole: PreTrainedTokenizerBase, kept: Sequence[int], texts: Sequence[str]) -> float:
    """The share of the texts' own tokens, as the whole tokenizer makes them, whose pieces stay; 1 of no tokens."""
    stays = set(kept)
    encodings = whole.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    found = [index in stays for encoding in encodings for index in encoding.ids]
    return sum(found) / len(found) if found else 1.0


def _unknown(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> int:
    return sum(row.count(tokenizer.unk_token_id) for row in rows) if tokenizer.unk_token_id is not None else 0
