"""A look at a recipe's sources, without reading all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import ceil

from homoexport.choices import Objective
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import RecipeError, TextError
from homoexport.text.sentences import count_words, units_of
from homoexport.text.sources import Row, check_files, columns_of, load_files, load_hub, name_of, read_on

_ROWS, _OF_A_ROW = 500, 2  # of a source, and sentences of one row: of long documents, not the first alone


def check_sources(settings: TextSettings, objective: Objective) -> None:
    """Find what is wrong with columns (RecipeError) and files (TextError) before anything is loaded; hubs are later."""
    check_columns(settings.sources, objective)
    for source in settings.sources:
        if source.files:
            check_files(source)


def check_columns(sources: tuple[TextSource, ...], objective: Objective) -> None:
    """Refuse (RecipeError) columns that the objective cannot use."""
    paired = objective in ("sentence-embedding", "classification")
    labelled = objective in ("classification", "token-classification")
    for place, source in enumerate(sources):
        where = f"text.sources.{place}"
        keys: dict[str, str] = {}
        for role, named in columns_of(source).items():
            own = "column" if role == "text" else f"{role}_column"
            if named in keys:
                what = f"'{keys[named]}' and '{own}' are the same, '{named}'"
                raise RecipeError(what, where=where, hint="name another column for one of them")
            keys[named] = own
        for key, column, useful in (
            ("pair_column", source.pair_column, paired),
            ("label_column", source.label_column, labelled),
        ):
            if column is not None and not useful:
                raise RecipeError(f"'{key}' has no use with {objective}", where=where, hint="leave it out")
    if objective == "sentence-embedding" and len({source.pair_column is None for source in sources}) > 1:
        raise RecipeError(
            "some sources have a 'pair_column' and some have none", where="text.sources", hint="give all of them one"
        )


def rows_of(source: TextSource, *, words: bool) -> Iterator[Row]:
    """A source's rows as they are read, the hub's as a stream; with `words` a text may be a list of words.

    What cannot be found or read is a TextError.
    """
    if source.files:
        rows = load_files(source, words=words, streaming=True, cache_dir=None)
    else:
        rows = load_hub(source.model_copy(update={"streaming": True}), cache_dir=None)
    return read_on(rows, name_of(source))


def first_texts(settings: TextSettings, count: int) -> list[str]:
    """Up to `count` sentences from the beginning of all sources; none in any of them is a TextError."""
    found = []
    for source in settings.sources:
        mine: list[str] = []
        for row in islice(rows_of(source, words=True), _ROWS):
            words = row["text"] or ""
            if not isinstance(words, str | list):
                what = f"column '{source.column}' holds {type(words).__name__}, not text"
                raise TextError(what, where=name_of(source), hint="name another 'column'")
            text = words if isinstance(words, str) else " ".join(map(str, words))
            long_enough = (each for each in units_of(text, source.unit) if count_words(each) >= settings.min_words)
            mine += islice(long_enough, _OF_A_ROW)
            if len(mine) >= ceil(count / len(settings.sources)):
                break
        found += mine
    if not found:
        raise TextError("holds no text", where="text.sources", hint="name other files or another column")
    return found[:count]
