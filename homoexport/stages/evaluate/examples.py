"""What models are judged on: texts, or pairs of them, with or without labels, out of a user's files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from homoexport.documents.document import digest_of
from homoexport.documents.evaluation import Columns
from homoexport.documents.recipe import TextSource
from homoexport.errors import TextError
from homoexport.runtime.inference import Text

if TYPE_CHECKING:
    from homoexport.text.sources import Row

MAX_COMPARED = 1000  # texts, each with every other: half a million pairs; more would cost their square

_SCORES = "name the column of scores with --label-column"


@dataclass(frozen=True)
class Examples:
    """N texts or pairs; of labelled ones their labels, as the files have them.

    `names` are the labels there can be, in the order that models number them in, where it is known. Of texts whose
    words are labelled, which are joined by spaces, `words` and `word_labels` have them one by one. `places` say where
    in the files each stands, where that is known.

    A pair whose first text is empty is a document that no query asks for.
    """

    source: str
    texts: tuple[Text, ...]
    labels: tuple[str, ...] | None
    names: tuple[str, ...] | None = None
    words: tuple[tuple[str, ...], ...] | None = None
    word_labels: tuple[tuple[str, ...], ...] | None = None
    places: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Hex sha256 of texts and labels."""
        return digest_of([self.texts, self.labels, *([self.words, self.word_labels] if self.words else [])])

    @property
    def queries(self) -> NDArray[np.intp] | None:
        """The number of each pair's first text, [N], where these are queries: with two or more second texts on average,
        their documents.
        """
        firsts = [text[0] for text in self.texts if not isinstance(text, str)]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(firsts))}
        return np.array([numbers[text] for text in firsts]) if firsts and 2 * len(numbers) <= len(firsts) else None

    def taken(self, rows: Sequence[int]) -> Examples:
        """The examples of some rows."""
        return replace(
            self,
            texts=tuple(self.texts[row] for row in rows),
            labels=None if self.labels is None else tuple(self.labels[row] for row in rows),
            words=None if self.words is None else tuple(self.words[row] for row in rows),
            word_labels=None if self.word_labels is None else tuple(self.word_labels[row] for row in rows),
            places=None if self.places is None else tuple(self.places[row] for row in rows),
        )

    def drawn(self, limit: int | None, seed: int) -> Examples:
        """At most `limit` of the examples, drawn by the seed, in their order."""
        count = len(self.texts)
        return self if limit is None or limit >= count else self.taken(drawn_rows(count, limit, seed))

    def numbers(self) -> list[float]:
        """The labels as numbers; TextError where one is none."""
        assert self.labels is not None
        numbers: list[float] = []
        for row, label in enumerate(self.labels):
            try:
                numbers.append(float(label))
            except ValueError:
                numbers.append(math.nan)
            if not math.isfinite(numbers[-1]):
                where = f"{self.source}, example {row + 1}" if self.places is None else self.places[row]
                raise TextError(f"the label '{label}' is no number", where=where, hint=_SCORES)
        return numbers

    def scores(self) -> list[float]:
        """The labels as numbers; TextError where one is none, or all are the same, which says nothing of order."""
        numbers = self.numbers()
        if len(set(numbers)) == 1:
            raise TextError(f"has the score {numbers[0]:g} alone", where=self.source, hint=_SCORES)
        return numbers


_FLAGS = {"'column'": "--text-column", "'pair_column'": "--pair-column", "'label_column'": "--label-column"}


@contextmanager
def _as_flags() -> Iterator[None]:
    """Call a source's keys in errors what the command line calls them."""
    try:
        yield
    except TextError as error:
        raise error.renamed(_FLAGS) from None


@contextmanager
def read_for(flag: str) -> Iterator[None]:
    """Say in errors which flag named the files."""
    try:
        yield
    except TextError as error:
        raise TextError(error.what, where=f"{flag} {error.where}", hint=error.hint) from None


def drawn_rows(count: int, limit: int | None, seed: int) -> list[int]:
    """At most `limit` of so many rows, drawn by the seed, in their order."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())


def read_examples(files: str, columns: Columns, *, has_words: bool = False, is_search: bool = False) -> Examples:
    """The rows of txt, jsonl, csv, tsv or parquet files (a glob, or `package:DISTRIBUTION/GLOB`) that hold text.

    Args:
        has_words: texts are lists of words.
        is_search: pairs are queries and documents; a document without a query is kept, and needs no label.

    Raises:
        TextError: no file, no such column, no text, a row without a label, or not a label for each word; of search a
            query without a document.
    """
    # Imported here: `datasets` takes a second.
    from homoexport.text.sources import columns_of, find_files, placed_rows

    source = TextSource(
        files=files, column=columns.text or "text", pair_column=columns.pair, label_column=columns.label
    )
    named = columns_of(source)
    if named["text"] == named.get("pair"):
        what, hint = f"would be paired with itself: column '{columns.pair}'", "name another --pair-column"
        raise TextError(what, where=files, hint=hint)
    with _as_flags():
        placed = list(placed_rows(find_files(files), named, words=has_words, halves=is_search))
    if not placed:
        raise TextError("holds no text", where=files, hint="name other files or another column")
    places, rows = zip(*placed, strict=True)
    if has_words:
        return _tagged(files, rows, places)
    if is_search:
        _fill_halves(rows, places)
    bare = [place for place, row in placed if columns.label is not None and row["label"] in (None, "")]
    if bare:
        what = f"has no label, and {len(bare) - 1} of {len(rows)} rows more" if bare[1:] else "has no label"
        raise TextError(what, where=bare[0], hint="name another --label-column, or add what is missing")
    return Examples(
        files,
        tuple((row["text"], row["pair"]) if columns.pair else row["text"] for row in rows),
        _whole([row["label"] for row in rows]) if columns.label else None,
        places=places,
    )


def _fill_halves(rows: Sequence[Row], places: Sequence[str]) -> None:
    """Have an empty query, worth nothing, where there is none, and refuse queries without a document."""
    bare = [number for number, row in enumerate(rows) if not (row["pair"] or "").strip()]
    if bare:
        what = f"has a query and no document ({len(bare)} of {len(rows)} rows)"
        raise TextError(what, where=places[bare[0]], hint="add its document, or remove the row")
    for row in rows:
        if not (row["text"] or "").strip():
            row["text"] = ""
            if "label" in row:
                row["label"] = "0"


def _tagged(files: str, rows: Sequence[Row], places: Sequence[str]) -> Examples:
    for place, row in zip(places, rows, strict=True):
        if row["label"] is None or None in row["label"] or len(row["label"]) != len(row["text"]):
            what = f"has {len(row['text'])} words and {len(row['label'] or ())} labels"
            raise TextError(what, where=place, hint="give one label for each word")
    words = tuple(tuple(row["text"]) for row in rows)
    labels = tuple(tuple(row["label"]) for row in rows)
    joined = tuple(map(" ".join, words))
    return Examples(files, joined, None, words=words, word_labels=labels, places=tuple(places))


def _whole(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels; where all are numbers, whole ones without a point, for 1 and 1.0 are one label."""
    if not all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", label, re.IGNORECASE) for label in labels):
        return tuple(labels)
    return tuple(re.sub(r"(?<=\d)\.0*$", "", label) for label in labels)
