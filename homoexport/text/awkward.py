"""Strings of our own, in kinds, on which tokenizers are known to disagree; the same ones each time.

Some are written down (`homoexport/data/awkward_text.json`), some are made of a kind's characters by chance.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator

from homoexport.data import FOLDER, sample_text
from homoexport.documents.document import Figures

PLAIN_ENGLISH = "plain English"
_PER_KIND = 50  # strings that are made of characters by chance, in each kind
_LINE = 10_000  # characters of a long line


class _Kind(Figures):
    """Strings of one kind, and its characters: code points in hex, from the first to before the second."""

    phrases: tuple[str, ...]
    ranges: tuple[tuple[str, str], ...]


class _AwkwardText(Figures):
    """The data file. Long words are repeated so many times; what is repeated fills a long line."""

    kinds: dict[str, _Kind]
    long_words: tuple[tuple[str, int], ...]
    repeated: tuple[str, ...]


def awkward_texts(tokens: Iterable[str]) -> dict[str, list[str]]:
    """More than 1,000 strings by their kind; the tokenizer's added tokens may stand in a text, too."""
    written = _AwkwardText.model_validate_json((FOLDER / "awkward_text.json").read_bytes())
    chance = random.Random(20261123)
    kinds = {PLAIN_ENGLISH: list(_english())}
    for name, kind in written.kinds.items():
        kinds[name] = [*kind.phrases, *_by_chance(chance, kind)]
    kinds["accents, decomposed"] = [
        unicodedata.normalize("NFD", text) for kind in ("accents, composed", "Greek case") for text in kinds[kind]
    ]
    kinds["long words"] = [
        start + part * count + end
        for part, count in written.long_words
        for start, end in [("", ""), ("so ", " it is"), ("-", "!"), ("a\u0301", "")]
    ]
    repeated = [" ".join(sample_text()), *written.repeated]
    kinds["long lines"] = [(text * (_LINE // len(text) + 1))[:_LINE] for text in repeated]
    kinds["special tokens"] = list(_around(tokens))
    apart = ("NUL", "reordered marks", "long lines", "blank")  # short ones, and those that some tokenizers differ on
    mixed = [text for kind, texts in kinds.items() if kind not in apart for text in texts]
    kinds["mixed"] = [" ".join(chance.sample(mixed, 3)) for _ in range(2 * _PER_KIND)]
    return kinds


def _english() -> Iterator[str]:
    yield from sample_text()
    for text in sample_text():
        yield text.upper()
        yield text.title()
        yield text.rstrip(".").replace(" ", "-")


def _by_chance(chance: random.Random, kind: _Kind) -> Iterator[str]:
    ranges = [(int(first, 16), int(end, 16)) for first, end in kind.ranges]
    for _ in range(_PER_KIND if ranges else 0):
        characters = [chr(chance.randrange(*chance.choice(ranges))) for _ in range(chance.randint(1, 30))]
        yield "".join(character + " " * (chance.random() < 0.2) for character in characters)


def _around(tokens: Iterable[str]) -> Iterator[str]:
    for token in tokens:
        yield from (token, f"a{token}b", f"a {token} b", f"{token}{token}", f" {token}.", token.lower(), token.upper())
        yield from (token[:-1], f"{token[0]}{token}", f"é{token}É", f"中{token}", f"{token}##s")
        yield f"{token[0]} {token[1:]}"
