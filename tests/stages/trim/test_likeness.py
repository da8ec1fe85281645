"""Which pieces look like a text's: held against the formulas letter by letter, and what a choice makes of it."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from homoexport.stages.trim.choice import choose
from homoexport.stages.trim.likeness import likeness
from homoexport.stages.trim.pieces import Pieces

GERMAN = ["▁der", "▁die", "▁und", "▁nicht", "schaft", "lich", "keit", "▁Straße", "▁schön", "ung", "isch", "▁auch"]
GERMAN_TOO = ["▁nich", "▁isch", "▁Schaft", "▁und", "ischung", "▁dich"]
POLISH = ["▁się", "▁nie", "▁że", "ość", "▁który", "ów", "▁będzie", "▁przy", "ych", "▁właś", "ści", "▁łą", "wić", "zyć"]
GREEK = ["▁και", "▁του", "ους", "ικά", "▁στο", "ται", "▁από", "▁για"]


def _by_loops(names, in_text, order=6):
    """As the module's docstring has it, with dictionaries."""

    alphabet = len({letter for name in names for letter in name} | {"behind"})

    def model(words):
        counts = [Counter() for _ in range(order)]
        for word in words:
            row = ["before", *word, "behind"]
            for place in range(1, len(row)):
                for behind in range(order):
                    counts[behind][tuple(row[max(0, place - behind) : place + 1])] += 1
        return counts

    def told(counts, row, place):
        probability = 1 / alphabet
        for behind in range(order):
            context = tuple(row[max(0, place - behind) : place])
            follow = [n for gram, n in counts[behind].items() if gram[:-1] == context]
            if follow:
                here = counts[behind][(*context, row[place])]
                probability = (here + len(follow) * probability) / (sum(follow) + len(follow))
        return probability

    of_text, of_all = model([name for name, has in zip(names, in_text, strict=True) if has]), model(names)
    found = []
    for name in names:
        row = ["before", *name, "behind"]
        places = range(1, len(row))
        found.append(sum(math.log(told(of_text, row, at)) - math.log(told(of_all, row, at)) for at in places))
    return found


def test_it_is_the_difference_of_two_models_of_letters():
    names = [*GERMAN, *POLISH, *GREEK, "𐍈", "a"]
    in_text = np.array([name in GERMAN for name in names])
    assert likeness(names, in_text) == pytest.approx(_by_loops(names, in_text))


def test_nothing_is_told_by_a_text_that_has_everything():
    names = [*GERMAN, *POLISH]
    assert likeness(names, np.ones(len(names), bool)) == pytest.approx(np.zeros(len(names)), abs=1e-12)


def _two_languages():
    """A Unigram tokenizer, with the other languages' pieces the likelier ones."""
    names = [*GREEK, *POLISH, *dict.fromkeys(GERMAN + GERMAN_TOO)]
    letters = sorted({letter for name in names for letter in name})
    vocab = [("<unk>", 0.0), *((name, -3.0 - index / 10) for index, name in enumerate(names))]
    vocab += [(letter, -20.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def test_room_goes_to_the_texts_own_language():
    tokenizer = _two_languages()
    pieces = Pieces(json.loads(tokenizer.to_str()), "")
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    counts[[pieces.ids[name] for name in GERMAN]] = 5
    others = set(GERMAN_TOO) - set(GERMAN)
    kept = choose(pieces, counts, size=len(pieces.essential) + len(GERMAN) + len(others))
    names = {pieces.names[index] for index in kept}
    assert names >= set(GERMAN)
    assert names.isdisjoint(GREEK)
    assert len(names & others) > len(names & set(POLISH))


def test_what_no_text_is_like_stays_where_there_is_room():
    tokenizer = _two_languages()
    file = json.loads(tokenizer.to_str())
    file["model"]["vocab"].append(["▁" + "ω" * 300, -4.0])
    pieces = Pieces(file, "")
    counts = np.zeros(len(pieces.names), np.int64)
    counts[[pieces.ids[name] for name in GERMAN]] = 5
    assert choose(pieces, counts, size=len(pieces.names)) == list(range(len(pieces.names)))


def test_without_any_text_the_tokenizer_says():
    tokenizer = _two_languages()
    pieces = Pieces(json.loads(tokenizer.to_str()), "")
    kept = choose(pieces, np.zeros(len(pieces.names), np.int64), size=len(pieces.essential) + len(GREEK))
    assert {pieces.names[index] for index in kept} >= set(GREEK)
