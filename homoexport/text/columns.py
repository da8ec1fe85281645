"""What the columns of a stranger's file are for, guessed by their names and by what is in them."""

from __future__ import annotations

from collections.abc import Sequence

from homoexport.text.sources import Row

_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("query", "document"),
    ("query", "passage"),
    ("query", "positive"),
    ("query", "answer"),
    ("question", "answer"),
    ("question", "passage"),
    ("question", "document"),
    ("question", "context"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("anchor", "positive"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
)
_TEXTS = (
    *("text", "sentence", "content", "body", "review", "passage", "document", "query", "question", "abstract"),
    *("tokens", "words"),
)
_LABELS = (
    *("label", "labels", "score", "similarity", "relevance", "rating", "stars", "sentiment", "category", "class"),
    *("target", "intent", "ner_tags", "tags"),
)
_FEWEST, _SHOWN = 10, 60  # characters of a text on average, and of a cell that is shown


def guess_columns(rows: Sequence[Row]) -> dict[str, str]:
    """The columns of texts, of second texts and of labels, where there seem to be any: `text`, `pair`, `label`."""
    names = {str(name).lower(): str(name) for name in (rows[0] if rows else {})}
    texts = {name: column for name, column in names.items() if any(_is_text(row.get(column)) for row in rows)}
    found: dict[str, str] = {}
    pair = next((pair for pair in _PAIRS if texts.keys() >= set(pair)), None)
    if pair is not None:
        found = {"text": texts[pair[0]], "pair": texts[pair[1]]}
    elif (named := next((name for name in _TEXTS if name in texts), None)) is not None:
        found = {"text": texts[named]}
    else:
        lengths = {name: _mean_length(rows, name) for name in texts.values()}
        longest = max(lengths, key=lambda name: lengths[name], default=None)
        if longest is not None and lengths[longest] >= _FEWEST:
            found = {"text": longest}
    if (label := next((name for name in _LABELS if name in names), None)) is not None:
        found["label"] = names[label]
    return found


def are_scores(rows: Sequence[Row], column: str) -> bool:
    """Whether the labels of a column are figures, such as 3.8, and no classes."""
    try:
        numbers = [float(row[column]) for row in rows if row.get(column) not in (None, "")]
    except (TypeError, ValueError):
        return False
    return any(not number.is_integer() for number in numbers)


def _is_text(cell: object) -> bool:
    """Whether a cell holds a text, or its words."""
    return isinstance(cell, str) or (isinstance(cell, list) and all(isinstance(word, str) for word in cell))


def _mean_length(rows: Sequence[Row], name: str) -> float:
    """Characters of a column's texts."""
    cells = [row.get(name) for row in rows]
    return sum(len(cell) for cell in cells if isinstance(cell, str)) / max(1, len(cells))


def shown(cell: object) -> str:
    """A cell in one line, cut where it is long."""
    words = cell if isinstance(cell, list) else str("" if cell is None else cell).split()
    line = " ".join(map(str, words))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
