"""What a tokenizer.json's pieces are, which of them it cannot do without, and the file with fewer of them.

The file is that of Hugging Face's `tokenizers` (its Rust sources are the format's specification): WordPiece, BPE (of
bytes, or with bytes to fall back on) and Unigram. Ids are counted anew, in the order that they had.

Letters: V pieces before, W pieces after.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from string import punctuation
from typing import Any

from pydantic import JsonValue
from tokenizers import Tokenizer

from homoexport.errors import TeacherError

_KINDS = ("WordPiece", "BPE", "Unigram")
_File = dict[str, Any]  # a tokenizer.json


@dataclass(frozen=True)
class Pieces:
    """The pieces of a tokenizer.json.

    Raises:
        TeacherError: its model is none of WordPiece, BPE and Unigram.
    """

    file: _File
    source: str

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            what = f"its tokenizer is a {self.kind}, whose vocabulary cannot be trimmed"
            raise TeacherError(what, where=self.source, hint=f"known are {', '.join(_KINDS)}")

    @property
    def kind(self) -> str:
        model = self.file["model"]
        return str(model.get("type") or ("BPE" if "merges" in model else "WordPiece"))

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Of every piece of the model."""
        vocab = self.file["model"]["vocab"]
        if self.kind != "Unigram":
            return dict(vocab)
        return {piece: index for index, (piece, _) in enumerate(vocab)}

    @cached_property
    def added(self) -> Mapping[str, int]:
        """The tokens that are cut out of a text before the model sees it."""
        return {token["content"]: token["id"] for token in self.file.get("added_tokens") or ()}

    @property
    def all_ids(self) -> frozenset[int]:
        """Of the model's pieces and the added tokens."""
        return frozenset(self.names) | frozenset(self.added.values())

    @cached_property
    def essential(self) -> frozenset[int]:
        """What no text can do without: added tokens, those that are put around it, the unknown one, what stands for
        bytes, and single characters.
        """
        unknown = self.file["model"].get("unk_token")
        named = {self.ids[unknown]} if unknown in self.ids else set()
        if self.kind == "Unigram" and self.file["model"].get("unk_id") is not None:
            named.add(self.file["model"]["unk_id"])
        single = {index for piece, index in self.ids.items() if len(self._bare(piece)) == 1 or _is_byte(piece)}
        around = _ids_in([self.file.get("post_processor"), self.file.get("padding")])
        return frozenset(named | single | around | set(self.added.values()))

    def expected(self) -> Mapping[int, float]:
        """Share of each piece in what the tokenizer was made of, as far as the file tells.

        A Unigram's scores are logarithms of it; other files have pieces in the order in which they were found, which
        is about that of their frequency: Zipf's law as Mandelbrot has it, 1 / (rank + 2.7).
        """
        if self.kind == "Unigram":
            vocab = enumerate(self.file["model"]["vocab"])
            shares = {index: math.exp(score) for index, (_, score) in vocab if score < 0}  # 0: put there by hand
        else:
            ranked = sorted(index for index in set(self.names) - self.essential if not self.is_reserved(index))
            shares = {index: 1 / (rank + 2.7) for rank, index in enumerate(ranked, start=1)}
        shares = {index: share for index, share in shares.items() if index not in self.essential}
        total = sum(shares.values()) or 1.0
        return {index: share / total for index, share in shares.items()}

    def is_reserved(self, index: int) -> bool:
        """Whether no text has it, as BERT's [unused5]: punctuation stands alone where words are cut out."""
        piece = self.names[index]
        return self.kind == "WordPiece" and not set(self._bare(piece)).isdisjoint(punctuation)

    def with_what_makes(self, index: int) -> frozenset[int]:
        """A piece and, of BPE, those that are merged on the way to it."""
        if self.kind != "BPE" or index not in self.names:
            return frozenset([index])
        symbols, made = self._symbols(self.names[index]), {index}
        while len(symbols) > 1:
            pairs = [(self._ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
            if not pairs:
                break
            (_, whole), place = min(pairs)
            symbols[place : place + 2] = [self.names[whole]]
            made.add(whole)
        return frozenset(made)

    def _symbols(self, piece: str) -> list[str]:
        """The single characters that BPE begins with, with the marks of their place in a word."""
        model = self.file["model"]
        prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        goes_on, ends = bool(prefix) and piece.startswith(prefix), bool(suffix) and piece.endswith(suffix)
        bare = list(self._bare(piece))
        symbols = [prefix * (place > 0 or goes_on) + letter for place, letter in enumerate(bare)]
        return [*symbols[:-1], symbols[-1] + suffix * ends] if symbols else []

    @cached_property
    def _ranks(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Of each pair that is merged its rank, the lowest goes first, and the id of what comes of it."""
        names = self.names
        return {(names[left], names[right]): (rank, whole) for rank, (left, right, whole) in enumerate(self._merges())}

    def _merges(self) -> Iterator[tuple[int, int, int]]:
        prefix = self.file["model"].get("continuing_subword_prefix") or ""
        for left, right in map(_pair, self.file["model"].get("merges") or ()):
            yield self.ids[left], self.ids[right], self.ids[left + right.removeprefix(prefix)]

    def _bare(self, piece: str) -> str:
        """Without what marks its place in a word."""
        model = self.file["model"]
        suffix = model.get("end_of_word_suffix") or ""
        return piece.removeprefix(model.get("continuing_subword_prefix") or "").removesuffix(suffix)

    def parts(self, kept: Collection[int], pieces: Collection[int]) -> dict[int, list[int]]:
        """What the model makes of each piece with the kept ones alone, by the ids before; nothing where it cannot."""
        new = self.keeping(kept)
        back = sorted(kept)
        if self.kind == "WordPiece":
            return {index: [back[part] for part in _longest_first(self.names[index], new)] for index in pieces}
        model = Tokenizer.from_str(json.dumps(new.file)).model

        def split(piece: str) -> list[int]:
            try:
                tokens = model.tokenize(piece)
            except Exception:  # tokenizers has no other kind, of a Unigram without an unknown piece
                return []
            # Without an unknown piece BPE leaves out what it cannot tell.
            is_whole = self.unknown is not None or "".join(self.names[back[token.id]] for token in tokens) == piece
            return [back[token.id] for token in tokens] if is_whole else []

        return {index: split(self.names[index]) for index in pieces}

    @cached_property
    def names(self) -> Mapping[int, str]:
        """The piece of each id of the model's."""
        if self.kind == "Unigram":
            return {index: piece for index, (piece, _) in enumerate(self.file["model"]["vocab"])}
        return {index: piece for piece, index in self.ids.items()}

    @cached_property
    def unknown(self) -> int | None:
        """The id of what stands for what cannot be told."""
        model = self.file["model"]
        found = model.get("unk_id") if self.kind == "Unigram" else self.ids.get(model.get("unk_token"))
        return None if found is None else int(found)

    def keeping(self, kept: Collection[int]) -> Pieces:
        """The file with these ids alone, which have all of `essential` and of BPE what makes each."""
        number = {old: new for new, old in enumerate(sorted(kept))}
        file = copy.copy(self.file)
        model = file["model"] = copy.copy(self.file["model"])
        if self.kind == "Unigram":
            model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in number]
            if model.get("unk_id") is not None:
                model["unk_id"] = number[model["unk_id"]]
        else:
            in_order = sorted(self.ids.items(), key=lambda item: item[1])
            model["vocab"] = {piece: number[index] for piece, index in in_order if index in number}
        if "merges" in model:
            merges = zip(model["merges"], self._merges(), strict=True)
            model["merges"] = [merge for merge, ids in merges if number.keys() >= set(ids)]
        for name in ("post_processor", "padding", "added_tokens"):
            file[name] = _renumbered(file.get(name), number)
        return Pieces(file, self.source)


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    """Older files have both in one line."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _ids_in(value: Any) -> set[int]:
    """All ids in a part of the file; see `_renumbered`."""
    found: set[int] = set()

    class Seen(dict[int, int]):
        def __missing__(self, index: int) -> int:
            found.add(index)
            return index

    _renumbered(value, Seen())
    return found


def _is_byte(piece: str) -> bool:
    """Such as <0x0A>."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _longest_first(piece: str, pieces: Pieces) -> list[int]:
    """WordPiece's way with one that may go on a word; the unknown piece where there is no way."""
    ids, prefix = pieces.ids, pieces.file["model"]["continuing_subword_prefix"]
    begun = piece.startswith(prefix) and piece != prefix
    rest, parts = piece.removeprefix(prefix) if begun else piece, []
    while rest:
        mark = prefix if begun else ""
        length = next((length for length in range(len(rest), 0, -1) if mark + rest[:length] in ids), 0)
        if not length:
            return [] if pieces.unknown is None else [pieces.unknown]
        parts.append(ids[mark + rest[:length]])
        rest, begun = rest[length:], True
    return parts


def _renumbered(value: Any, number: Mapping[int, int]) -> Any:
    """A part of the file, with the ids in it counted anew."""
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int:  # BertProcessing's (token, id)
            return [value[0], number[value[1]]]
        return [_renumbered(part, number) for part in value]
    if not isinstance(value, dict):
        return value
    new: dict[str, JsonValue] = {}
    for name, part in value.items():
        if name in ("id", "pad_id") and type(part) is int:
            new[name] = number[part]
        elif name == "ids":
            new[name] = [number[index] for index in part]
        else:
            new[name] = _renumbered(part, number)
    return new
