"""What columns are for, by their names and by what is in them."""

from __future__ import annotations

import pytest

from homoexport.text.columns import are_scores, guess_columns, shown

LONG = "words of a text that somebody wrote"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"text": LONG}, {"text": "text"}),
        ({"id": 1, "Review": LONG, "Label": 0}, {"text": "Review", "label": "Label"}),
        (
            {"sentence1": LONG, "sentence2": LONG, "score": 3.5},
            {"text": "sentence1", "pair": "sentence2", "label": "score"},
        ),
        ({"query": LONG, "passage": LONG}, {"text": "query", "pair": "passage"}),
        ({"id": "a7", "what_they_said": LONG, "when": "today"}, {"text": "what_they_said"}),
        ({"id": "a7", "n": 3}, {}),
        ({"words": 7, "tokens": LONG.split(), "ner_tags": [0] * 7}, {"text": "tokens", "label": "ner_tags"}),
        ({"query": 17, "passage": LONG}, {"text": "passage"}),
    ],
)
def test_guesses(row, found):
    assert guess_columns([row, row]) == found


def test_of_no_rows_nothing_is_guessed():
    assert guess_columns([]) == {}


@pytest.mark.parametrize(
    ("labels", "scores"), [(["0", "1"], False), (["0", "2.5"], True), (["good", "bad"], False), ([None, 0.25], True)]
)
def test_scores_are_no_classes(labels, scores):
    assert are_scores([{"y": label} for label in labels], "y") is scores


def test_a_long_cell_is_cut():
    assert shown("a\n b") == "a b"
    assert shown(["a", "b"]) == "a b"
    assert shown(None) == ""
    assert (len(shown("word " * 40)), shown("word " * 40)[-3:]) == (60, "...")
