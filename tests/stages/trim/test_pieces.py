"""Tokenizers of each kind, trimmed: ids, merges, added tokens, what becomes of texts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from homoexport.data import sample_text
from homoexport.errors import RecipeError, TeacherError
from homoexport.stages.trim.choice import choose
from homoexport.stages.trim.pieces import Pieces
from homoexport.text.awkward import awkward_texts
from tests.trimmed import KINDS, TEXTS, trained


def _trimmed(tokenizer, texts, size=None, **how):
    """The pieces before, the ids that stay, and the tokenizer after."""
    pieces = Pieces(json.loads(tokenizer.to_str()), "a tokenizer")
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for encoding in tokenizer.encode_batch(texts):
        np.add.at(counts, encoding.ids, 1)
    kept = choose(pieces, counts, size=size, **how)
    return pieces, kept, Tokenizer.from_str(json.dumps(pieces.keeping(kept).file))


def _letters(tokenizer, ids):
    """A text without its spaces and the marks of words that go on."""
    return tokenizer.decode(ids).replace(" ", "").replace("##", "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_text_has_is_split_as_before(kind):
    tokenizer = trained(kind)
    texts = [f"{text} <query>" for text in sample_text()[:4]]
    _, kept, smaller = _trimmed(tokenizer, texts)
    assert smaller.get_vocab_size() == len(kept) < tokenizer.get_vocab_size()
    for before, after in zip(tokenizer.encode_batch(texts), smaller.encode_batch(texts), strict=True):
        assert [kept[index] for index in after.ids] == before.ids
        assert after.tokens == before.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_becomes_unknown_that_was_known(kind):
    tokenizer = trained(kind)
    least = len(Pieces(json.loads(tokenizer.to_str()), "").essential)
    _, kept, smaller = _trimmed(tokenizer, sample_text()[:1], size=least + 20)
    assert len(kept) <= least + 20
    unknown = tokenizer.token_to_id("[UNK]")
    for texts in awkward_texts(["[MASK]", "<query>"]).values():
        for before, after in zip(tokenizer.encode_batch(texts), smaller.encode_batch(texts), strict=True):
            assert [kept[index] for index in after.ids].count(unknown) <= before.ids.count(unknown)
            if unknown not in before.ids:
                assert _letters(smaller, after.ids) == _letters(tokenizer, before.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_more_pieces_are_never_more_tokens(kind):
    tokenizer = trained(kind)
    pieces = Pieces(json.loads(tokenizer.to_str()), "")
    lengths = []
    for share in (0.0, 0.3, 0.6, 1.0):
        size = len(pieces.essential) + round(share * (tokenizer.get_vocab_size() - len(pieces.essential)))
        smaller = _trimmed(tokenizer, TEXTS, size=size)[2]
        lengths.append(sum(len(encoding.ids) for encoding in smaller.encode_batch(TEXTS)))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == sum(len(encoding.ids) for encoding in tokenizer.encode_batch(TEXTS))


def test_merges_are_kept_with_what_they_are_made_of():
    tokenizer = trained("BPE of bytes")
    pieces, kept, _ = _trimmed(tokenizer, TEXTS, size=300)
    file = pieces.keeping(kept).file
    left = [tuple(merge) for merge in file["model"]["merges"]]
    assert left
    for one, other in left:
        assert {one, other, one + other} <= file["model"]["vocab"].keys()
    order = [tuple(merge) for merge in pieces.file["model"]["merges"]]
    assert left == [merge for merge in order if merge in set(left)]


def test_what_must_stay_stays():
    tokenizer = trained("WordPiece")
    known = next(index for piece, index in tokenizer.get_vocab().items() if len(piece) > 5 and piece.isalpha())
    least = len(Pieces(json.loads(tokenizer.to_str()), "").essential)
    assert known not in _trimmed(tokenizer, ["a"], size=least)[1]
    assert known in _trimmed(tokenizer, ["a"], size=least + 1, always=[known])[1]
    assert known not in _trimmed(tokenizer, ["a"])[1]


def test_rare_pieces_go():
    tokenizer = trained("WordPiece")
    text = sample_text()[:3]
    often, once = _trimmed(tokenizer, text, min_count=2)[1], _trimmed(tokenizer, text)[1]
    assert set(often) < set(once)


def test_too_few_are_refused():
    tokenizer = trained("WordPiece")
    with pytest.raises(
        RecipeError, match=r"'vocab_size': 20 pieces are fewer than the \d+ that no text can do without"
    ):
        _trimmed(tokenizer, TEXTS, size=20)


def test_other_kinds_are_refused():
    with pytest.raises(TeacherError, match="is a WordLevel, whose vocabulary cannot be trimmed"):
        Pieces(json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str()), "some/model")


def test_reserved_pieces_take_no_room():
    file = json.loads(trained("WordPiece").to_str())
    vocab = file["model"]["vocab"]
    vocab |= {f"[unused{number}]": len(vocab) + number for number in range(300)}
    tokenizer = Tokenizer.from_str(json.dumps(file))
    pieces, kept, _ = _trimmed(tokenizer, TEXTS[:2], size=200)
    assert len(kept) <= 200
    assert not any(pieces.names.get(index, "").startswith("[unused") for index in kept)


def test_pieces_that_were_put_there_by_hand_have_no_share():
    file = json.loads(trained("Unigram").to_str())
    file["model"]["vocab"] += [[f"by hand {number}", 0.0] for number in range(50)]
    pieces = Pieces(file, "")
    by_hand = {index for index, name in pieces.names.items() if name.startswith("by hand")}
    assert by_hand.isdisjoint(pieces.expected())
    assert sum(pieces.expected().values()) == pytest.approx(1)


def test_what_is_put_around_a_text_stays():
    file = json.loads(trained("WordPiece").to_str())
    around = next(index for piece, index in file["model"]["vocab"].items() if len(piece) > 5 and piece.isalpha())
    file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [around]
    assert around in _trimmed(Tokenizer.from_str(json.dumps(file)), ["a"])[1]


@pytest.mark.parametrize("kind", ["Unigram", "BPE of bytes"])
def test_without_an_unknown_piece_nothing_is_lost(kind):
    file = json.loads(trained(kind).to_str())
    model = file["model"]
    if kind == "Unigram":
        model["unk_id"] = None
        model["vocab"].append(["¤¤", -3.0])  # its character is no piece
        odd = len(model["vocab"]) - 1
        file["added_tokens"][-1]["id"] = odd + 1
    else:
        odd = model["vocab"]["東東"] = len(model["vocab"])
        file["added_tokens"][-1]["id"] = odd + 1
    pieces = Pieces(file, "")
    assert odd in choose(pieces, np.zeros(odd + 2, np.int64))
