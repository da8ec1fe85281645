"""What a training sequence is, for each objective: from rows of text to rows of tokens.

masked-lm                blocks of max_length, cut from the joined rows
sentence-embedding       one sentence; or a row's query and document, where there are pairs
classification           one row: a text, or a pair of texts encoded together
token-classification     one row: a text, or a list of words
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import datasets
from transformers import PreTrainedTokenizerBase

from homoexport.choices import Objective
from homoexport.documents.document import digest_of
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError
from homoexport.text.example import IGNORED
from homoexport.text.sentences import count_words, split_sentences

Columns = dict[str, list[Any]]

_IDS = datasets.Sequence(datasets.Value("int32"))
_OWN_COLUMNS: dict[Objective, dict[str, Any]] = {
    "masked-lm": {},
    "sentence-embedding": {"pair_ids": _IDS},
    "classification": {"token_type_ids": datasets.Sequence(datasets.Value("int8")), "labels": datasets.Value("int64")},
    "token-classification": {"labels": datasets.Sequence(datasets.Value("int64"))},
}


class Sequencer(Protocol):
    """Turns rows of `text`, `pair` and `label` into rows of an `Example`'s fields, `text` and `key`."""

    def __call__(self, rows: Columns) -> Columns: ...


def features_of(objective: Objective) -> datasets.Features:
    shared = {"input_ids": _IDS, "text": datasets.Value("string"), "key": datasets.Value("int64")}
    return datasets.Features(shared | _OWN_COLUMNS[objective])


def name_of(source: TextSource) -> str:
    return source.files or "/".join(filter(None, (source.dataset, source.config, source.split)))


def make_sequencer(
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    settings: TextSettings,
    source: TextSource,
    label2id: Mapping[str, int] | None,
) -> Sequencer:
    """The sequencer of one source; it refuses (TextError) labels that are not known or belong to no word."""
    where = name_of(source)
    labels_at = f"{where}, column '{source.label_column}'"
    if objective == "masked-lm":
        return _blocks(tokenizer, settings.max_length, where)
    if objective == "classification":
        return _classes(tokenizer, settings.max_length, label2id, where, labels_at)
    if objective == "token-classification":
        return _token_classes(tokenizer, settings.max_length, label2id, where, labels_at)
    if source.pair_column is not None:
        return _query_documents(tokenizer, settings.max_length, where)
    return _sentences(tokenizer, settings.max_length, settings.min_words, where)


def sequence_key(input_ids: Sequence[int], pair_ids: Sequence[int] | None = None) -> int:
    """64-bit hash of a sequence or a pair of them: equal ones are duplicates, whatever their labels."""
    ids = array("i", input_ids if pair_ids is None else [*input_ids, -1, *pair_ids])
    digest = hashlib.blake2b(ids.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def class_id(label: Any, label2id: Mapping[str, int] | None, *, where: str) -> int:
    """A label as class id: a name of `label2id`, or a whole number. -100 for None, "" and negative numbers.

    Raises:
        TextError: the label is neither, or not one of `label2id`'s.
    """
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


def _text(value: Any, where: str) -> str:
    """A cell as text, "" where there is none."""
    if value is not None and not isinstance(value, str):
        raise TextError(f"holds {type(value).__name__}, not text", where=where, hint="name another 'column'")
    return value if value and not value.isspace() else ""


def _sentences(tokenizer: PreTrainedTokenizerBase, max_length: int, min_words: int, where: str) -> Sequencer:
    def sequences(rows: Columns) -> Columns:
        texts = [s for row in rows["text"] for s in split_sentences(_text(row, where)) if count_words(s) >= min_words]
        ids = _tokenize(tokenizer, texts, truncation=True, max_length=max_length)
        return {"input_ids": ids, "pair_ids": [None] * len(ids), "text": texts, "key": list(map(sequence_key, ids))}

    return sequences


def _query_documents(tokenizer: PreTrainedTokenizerBase, max_length: int, where: str) -> Sequencer:
    def sequences(rows: Columns) -> Columns:
        pairs = [(_text(a, where), _text(b, where)) for a, b in zip(rows["text"], rows["pair"], strict=True)]
        pairs = [pair for pair in pairs if all(pair)]
        queries, documents = (
            _tokenize(tokenizer, [pair[half] for pair in pairs], truncation=True, max_length=max_length)
            for half in range(2)
        )
        return {
            "input_ids": queries,
            "pair_ids": documents,
            "text": [query for query, _ in pairs],
            "key": list(map(sequence_key, queries, documents)),
        }

    return sequences


def _blocks(tokenizer: PreTrainedTokenizerBase, max_length: int, where: str) -> Sequencer:
    before, after = special_tokens_around(tokenizer)
    room = max_length - len(before) - len(after)

    def sequences(rows: Columns) -> Columns:
        texts = [text.strip() for row in rows["text"] if (text := _text(row, where))]
        stream = [token for ids in _tokenize(tokenizer, texts, add_special_tokens=False) for token in ids]
        # The last block of the rows may be shorter: nothing is thrown away.
        ids = [before + stream[start : start + room] + after for start in range(0, len(stream), room)]
        return {"input_ids": ids, "text": [""] * len(ids), "key": list(map(sequence_key, ids))}

    return sequences


def _classes(
    tokenizer: PreTrainedTokenizerBase, max_length: int, label2id: Mapping[str, int] | None, where: str, labels_at: str
) -> Sequencer:
    def sequences(rows: Columns) -> Columns:
        count, paired = len(rows["text"]), "pair" in rows
        halves = [[_text(cell, where) for cell in rows[name]] for name in ("text", "pair") if name in rows]
        kept = [row for row in range(count) if all(half[row] for half in halves)]
        texts = [[half[row] for row in kept] for half in halves]
        typed = paired and "token_type_ids" in tokenizer.model_input_names
        encoded = _encode(tokenizer, *texts, truncation=True, max_length=max_length, return_token_type_ids=typed)
        labels = [class_id(label, label2id, where=labels_at) for label in rows.get("label", [None] * count)]
        return {
            "input_ids": encoded["input_ids"],
            "token_type_ids": encoded["token_type_ids"] if typed else [None] * len(kept),
            "labels": [None if labels[row] == IGNORED else labels[row] for row in kept],
            "text": [" ".join(halves) for halves in zip(*texts, strict=True)],
            "key": list(map(sequence_key, encoded["input_ids"])),
        }

    return sequences


def _token_classes(
    tokenizer: PreTrainedTokenizerBase, max_length: int, label2id: Mapping[str, int] | None, where: str, labels_at: str
) -> Sequencer:
    def sequences(rows: Columns) -> Columns:
        # Words are joined by spaces, as a served model sees them, and found again by their characters.
        texts = [_text(" ".join(row) if isinstance(row, list) else row, where) for row in rows["text"]]
        kept = [row for row, text in enumerate(texts) if text]
        labelled = "label" in rows
        if labelled and not tokenizer.is_fast:
            raise TextError("labels of words need a fast tokenizer", where=labels_at, hint="leave 'label_column' out")
        encoded = _encode(
            tokenizer,
            [texts[row] for row in kept],
            truncation=True,
            max_length=max_length,
            return_token_type_ids=False,
            return_offsets_mapping=labelled,
        )
        labels: list[list[int] | None] = [None] * len(kept)
        if labelled:
            for place, row in enumerate(kept):
                words, given = rows["text"][row], rows["label"][row]
                labels[place] = _labels_of_tokens(words, given, encoded["offset_mapping"][place], label2id, labels_at)
        return {
            "input_ids": encoded["input_ids"],
            "labels": labels,
            "text": [texts[row] for row in kept],
            "key": list(map(sequence_key, encoded["input_ids"])),
        }

    return sequences


def _labels_of_tokens(
    words: Any, given: Any, offsets: list[tuple[int, int]], label2id: Mapping[str, int] | None, where: str
) -> list[int] | None:
    """A label for each token: its word's on a word's first token, -100 elsewhere; None without any label."""
    if given is None:
        return None
    if not isinstance(words, list) or not isinstance(given, list) or len(words) != len(given):
        raise TextError(
            "labels do not match the text's words", where=where, hint="give a list of words and one label for each"
        )
    ids = [class_id(label, label2id, where=where) for label in given]
    ends, end = [], -1
    for word in words:
        end += 1 + len(word)
        ends.append(end)
    labels, word, labelled_word = [], 0, -1
    for start, stop in offsets:
        while start < stop and word < len(words) and ends[word] <= start:
            word += 1
        inside = start < stop and word < len(words) and stop > ends[word] - len(words[word])
        labels.append(ids[word] if inside and word != labelled_word else IGNORED)
        labelled_word = word if inside else labelled_word
    return labels


def _encode(tokenizer: PreTrainedTokenizerBase, *texts: list[str], **how: Any) -> Mapping[str, Any]:
    if not texts[0]:
        return {"input_ids": [], "token_type_ids": [], "offset_mapping": []}
    encoded: Mapping[str, Any] = tokenizer(*texts, return_attention_mask=False, verbose=False, **how)
    return encoded


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], **how: Any) -> list[list[int]]:
    ids: list[list[int]] = _encode(tokenizer, texts, return_token_type_ids=False, **how)["input_ids"]
    return ids


def special_tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after one sequence."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex sha256 of what a tokenizer does, independent of how it was last called."""
    if not tokenizer.is_fast:
        return digest_of([type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest_of(state | {"truncation": None, "padding": None})
