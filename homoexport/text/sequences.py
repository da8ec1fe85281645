"""What a training sequence is, for each objective: from rows of text to rows of tokens.

masked-lm                blocks of max_length, cut from the joined rows
sentence-embedding       one sentence, or a row; or a row's query and document, where there are pairs
classification           one row: a text, or a pair of texts encoded together
token-classification     one row: a text, or a list of words
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from homoexport.choices import Objective
from homoexport.documents.document import digest_of
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError, refusing
from homoexport.text.example import IGNORED
from homoexport.text.lines import longest_text, too_long
from homoexport.text.sentences import count_words, units_of
from homoexport.text.sources import name_of

Columns = dict[str, list[Any]]

_LARGEST_SCORE = 1e30  # float32 has room for its neighbours, not for its square
_CHARACTERS_AT_ONCE = 500_000  # a tokenizer holds some 200 bytes for each until it is done

_IDS = datasets.Sequence(datasets.Value("int32"))
_OWN_COLUMNS: Mapping[Objective, Mapping[str, datasets.Value | datasets.Sequence]] = {
    "masked-lm": {},
    "sentence-embedding": {"pair_ids": _IDS},
    "classification": {"token_type_ids": datasets.Sequence(datasets.Value("int8")), "labels": datasets.Value("int64")},
    "token-classification": {"labels": datasets.Sequence(datasets.Value("int64"))},
}


VECTOR: Mapping[str, datasets.Sequence] = {"vector": datasets.Sequence(datasets.Value("float32"))}


def features_of(objective: Objective, *, of_scores: bool, with_vectors: bool = False) -> datasets.Features:
    shared = {"input_ids": _IDS, "text": datasets.Value("string"), "key": datasets.Value("int64")}
    scores = {"labels": datasets.Value("float32")} if of_scores else {}
    return datasets.Features({**shared, **_OWN_COLUMNS[objective], **scores, **(VECTOR if with_vectors else {})})


def sequence_key(input_ids: Sequence[int], pair_ids: Sequence[int] | None = None) -> int:
    """64-bit hash of a sequence or a pair of them: equal ones are duplicates, whatever their labels."""
    ids = array("i", input_ids if pair_ids is None else [*input_ids, -1, *pair_ids])
    digest = hashlib.blake2b(ids.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def class_id(label: Any, label2id: Mapping[str, int] | None, *, where: str) -> int:
    """A label as class id: a name of `label2id` or a whole number (else TextError); -100 for None, "" and negatives."""
    if label is None or label == "":
        return IGNORED
    if label2id and label in label2id:
        return label2id[label]
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = float("nan")
    if number < 0:
        return IGNORED
    if number.is_integer() and (not label2id or int(number) in label2id.values()):
        return int(number)
    known = ", ".join(f"{name} ({index})" for name, index in label2id.items()) if label2id else "whole numbers"
    raise TextError(f"label {label!r} is not known", where=where, hint=f"known labels: {known}")


def score(label: Any, *, where: str) -> float | None:
    """A label as a number (else TextError), None for None and ""."""
    if label is None or label == "":
        return None
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < _LARGEST_SCORE:
        hint = "the teacher has one output, a score; name another 'label_column', or leave it out"
        raise TextError(f"label {label!r} is no number", where=where, hint=hint)
    return number


@dataclass(frozen=True)
class Sequencer:
    """Turns columns of one source's `text`, `pair` and `label` into columns of an `Example`'s fields, `text` and `key`.

    Raises:
        TextError: (when called) a label that is not known, or that has no word to belong to.
    """

    objective: Objective
    tokenizer: PreTrainedTokenizerBase
    settings: TextSettings
    source: TextSource
    label2id: Mapping[str, int] | None = None
    of_scores: bool = False

    def __call__(self, rows: Columns) -> Columns:
        """Columns of equal length; their number of rows is its own."""
        if self.objective == "masked-lm":
            return self._blocks(rows)
        if self.objective == "classification":
            return self._classes(rows)
        if self.objective == "token-classification":
            return self._token_classes(rows)
        return self._query_documents(rows) if self.source.pair_column else self._sentences(rows)

    def _sentences(self, rows: Columns) -> Columns:
        least = self.settings.min_words
        found = [
            (row, text)
            for row, cell in enumerate(rows["text"])
            for text in units_of(self._text(cell), self.source.unit)
            if count_words(text) >= least
        ]
        texts = [text for _, text in found]
        ids = self._truncated(texts)["input_ids"]
        keys = list(map(sequence_key, ids))
        columns = {"input_ids": ids, "pair_ids": [None] * len(ids), "text": texts, "key": keys}
        return columns | ({"vector": [rows["vector"][row] for row, _ in found]} if "vector" in rows else {})

    def _query_documents(self, rows: Columns) -> Columns:
        pairs = [(self._text(a), self._text(b)) for a, b in zip(rows["text"], rows["pair"], strict=True)]
        pairs = [pair for pair in pairs if all(pair)]
        queries, documents = (self._truncated([pair[half] for pair in pairs])["input_ids"] for half in range(2))
        return {
            "input_ids": queries,
            "pair_ids": documents,
            "text": [query for query, _ in pairs],
            "key": list(map(sequence_key, queries, documents)),
        }

    def _blocks(self, rows: Columns) -> Columns:
        before, after = self._special_tokens_around
        room = self.settings.max_length - len(before) - len(after)
        texts = [text.strip() for row in rows["text"] if (text := self._text(row))]
        stream = list(chain.from_iterable(self._bare(texts)))
        # The last block of the rows may be shorter: nothing is thrown away.
        ids = [before + stream[start : start + room] + after for start in range(0, len(stream), room)]
        return {"input_ids": ids, "text": [""] * len(ids), "key": list(map(sequence_key, ids))}

    def _classes(self, rows: Columns) -> Columns:
        count, paired = len(rows["text"]), "pair" in rows
        halves = [[self._text(cell) for cell in rows[name]] for name in ("text", "pair") if name in rows]
        kept = [row for row in range(count) if all(half[row] for half in halves)]
        texts = [[half[row] for row in kept] for half in halves]
        typed = paired and "token_type_ids" in self.tokenizer.model_input_names
        encoded = self._truncated(*texts, return_token_type_ids=typed)
        labels = [self._class_or_score(label) for label in rows.get("label", [None] * count)]
        return {
            "input_ids": encoded["input_ids"],
            "token_type_ids": encoded["token_type_ids"] if typed else [None] * len(kept),
            "labels": [labels[row] for row in kept],
            "text": [" ".join(halves) for halves in zip(*texts, strict=True)],
            "key": list(map(sequence_key, encoded["input_ids"])),
        }

    def _token_classes(self, rows: Columns) -> Columns:
        # Words are joined by spaces, as a served model sees them, and found again by their characters.
        texts = [self._text(" ".join(row) if isinstance(row, list) else row) for row in rows["text"]]
        kept = [row for row, text in enumerate(texts) if text]
        labelled = "label" in rows
        if labelled and not self.tokenizer.is_fast:
            hint = "leave 'label_column' out"
            raise TextError("labels of words need a fast tokenizer", where=self._labels_at, hint=hint)
        encoded = self._truncated([texts[row] for row in kept], return_offsets_mapping=labelled)
        labels: list[list[int] | None] = [None] * len(kept)
        if labelled:
            for place, row in enumerate(kept):
                words, given = rows["text"][row], rows["label"][row]
                labels[place] = self._labels_of_tokens(words, given, encoded["offset_mapping"][place])
        return {
            "input_ids": encoded["input_ids"],
            "labels": labels,
            "text": [texts[row] for row in kept],
            "key": list(map(sequence_key, encoded["input_ids"])),
        }

    def _labels_of_tokens(self, words: Any, given: Any, offsets: list[tuple[int, int]]) -> list[int] | None:
        """A label for each token: its word's on a word's first token, -100 elsewhere; None without any label."""
        if given is None:
            return None
        if not isinstance(words, list) or not isinstance(given, list) or len(words) != len(given):
            hint = "give a list of words and one label for each"
            raise TextError("labels do not match the text's words", where=self._labels_at, hint=hint)
        ids = [self._class_id(label) for label in given]
        ends = list(accumulate((1 + len(word) for word in words), initial=-1))[1:]
        labels, word, labelled_word = [], 0, -1
        for start, stop in offsets:
            while start < stop and word < len(words) and ends[word] <= start:
                word += 1
            inside = start < stop and word < len(words) and stop > ends[word] - len(words[word])
            labels.append(ids[word] if inside and word != labelled_word else IGNORED)
            labelled_word = word if inside else labelled_word
        return labels

    @property
    def _labels_at(self) -> str:
        return f"{name_of(self.source)}, column '{self.source.label_column}'"

    def _class_or_score(self, label: Any) -> float | None:
        if self.of_scores:
            return score(label, where=self._labels_at)
        number = self._class_id(label)
        return None if number == IGNORED else number

    def _class_id(self, label: Any) -> int:
        return class_id(label, self.label2id, where=self._labels_at)

    def _text(self, value: Any) -> str:
        """A cell as text, "" where there is none."""
        if value is not None and not isinstance(value, str):
            what = f"holds {type(value).__name__}, not text"
            raise TextError(what, where=name_of(self.source), hint="name another 'column'")
        if value and len(value) > longest_text():
            raise too_long(name_of(self.source))
        return value if value and not value.isspace() else ""

    def _truncated(self, *texts: list[str], **how: Any) -> Columns:
        return self._encoded(*texts, truncation=True, max_length=self.settings.max_length, **how)

    def _bare(self, texts: list[str]) -> Iterator[list[int]]:
        """Each text's tokens, without special ones."""
        if not self.tokenizer.is_fast:
            yield from self._encoded(texts, add_special_tokens=False)["input_ids"]
            return
        backend = self.tokenizer.backend_tokenizer  # asked itself, for it need not say where each token stands
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        with refusing(TextError, "the tokenizer cannot read it", where=name_of(self.source)):
            for part in _parts(texts):
                for encoding in backend.encode_batch_fast(texts[part], add_special_tokens=False):
                    yield encoding.ids

    def _encoded(self, *texts: list[str], return_token_type_ids: bool = False, **how: Any) -> Columns:
        columns: Columns = {"input_ids": [], "token_type_ids": [], "offset_mapping": []}
        for part in _parts(*texts):
            with refusing(TextError, "the tokenizer cannot read it", where=name_of(self.source)):
                encoded = self.tokenizer(
                    *(half[part] for half in texts),
                    return_attention_mask=False,
                    return_token_type_ids=return_token_type_ids,
                    verbose=False,
                    **how,
                )
            for name in columns.keys() & encoded.keys():
                columns[name] += encoded[name]
        return columns

    @cached_property
    def _special_tokens_around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after one sequence."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]


def _parts(*texts: list[str]) -> Iterator[slice]:
    """Rows that are tokenized together."""
    start = size = 0
    for row in range(len(texts[0])):
        size += sum(len(half[row]) for half in texts)
        if size >= _CHARACTERS_AT_ONCE or row == len(texts[0]) - 1:
            yield slice(start, row + 1)
            start, size = row + 1, 0


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex sha256 of what a tokenizer does, independent of how it was last called."""
    if not tokenizer.is_fast:
        return digest_of([type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest_of(state | {"truncation": None, "padding": None})
