"""From a recipe's text settings to a corpus, tokenized once and cached by `datasets`.

What is cached is named by a fingerprint of the files, the tokenizer and the settings, so that any
change of these tokenizes again. The tokenizer's own hash would not do: it changes with every call,
because truncation is part of a fast tokenizer's state.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from homoexport.artifact import digest_of
from homoexport.errors import TextError
from homoexport.recipe import Objective, TextSettings, TextSource
from homoexport.text.corpus import Corpus, MapCorpus, StreamCorpus
from homoexport.text.sentences import count_words, split_sentences
from homoexport.text.sources import load_files, load_hub

_VERSION = 1  # raised whenever the same text would be made into other sequences
_ROWS_AT_ONCE = 1000
_FEATURES = datasets.Features(
    {
        "input_ids": datasets.Sequence(datasets.Value("int32")),
        "text": datasets.Value("string"),
        "key": datasets.Value("int64"),
    }
)


class _Sequencer(Protocol):
    """Turns a batch of rows into rows of `input_ids`, `text` and `key`."""

    def __call__(self, rows: dict[str, list[str]]) -> dict[str, list[Any]]: ...


def sequence_key(input_ids: list[int]) -> int:
    """64-bit hash of a sequence: equal sequences are duplicates."""
    digest = hashlib.blake2b(array("i", input_ids).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _sentences(tokenizer: PreTrainedTokenizerBase, max_length: int, min_words: int) -> _Sequencer:
    def sequences(rows: dict[str, list[str]]) -> dict[str, list[Any]]:
        texts = [s for row in rows["text"] if row for s in split_sentences(row) if count_words(s) >= min_words]
        ids = _tokenize(tokenizer, texts, truncation=True, max_length=max_length)
        return {"input_ids": ids, "text": texts, "key": [sequence_key(sequence) for sequence in ids]}

    return sequences


def _blocks(tokenizer: PreTrainedTokenizerBase, max_length: int) -> _Sequencer:
    before, after = special_tokens_around(tokenizer)
    room = max_length - len(before) - len(after)

    def sequences(rows: dict[str, list[str]]) -> dict[str, list[Any]]:
        texts = [row.strip() for row in rows["text"] if row and not row.isspace()]
        stream = [token for ids in _tokenize(tokenizer, texts, add_special_tokens=False) for token in ids]
        # The last block of a thousand rows may be shorter: nothing is thrown away.
        ids = [before + stream[start : start + room] + after for start in range(0, len(stream), room)]
        return {"input_ids": ids, "text": [""] * len(ids), "key": [sequence_key(block) for block in ids]}

    return sequences


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], **how: Any) -> list[list[int]]:
    if not texts:
        return []
    encoded = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, verbose=False, **how)
    ids: list[list[int]] = encoded["input_ids"]
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


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _name(source: TextSource) -> str:
    return source.files or "/".join(filter(None, (source.dataset, source.config, source.split)))


def _nothing(settings: TextSettings) -> TextError:
    names = ", ".join(_name(source) for source in settings.sources)
    return TextError("holds no text", where=names, mend="name other files or another column, or lower text.min_words")


def _too_little(count: int, settings: TextSettings) -> TextError:
    return TextError(
        f"{count} different sequences, and text.held_out keeps {settings.held_out} of them from training",
        where=", ".join(_name(source) for source in settings.sources),
        mend="give more text or lower text.held_out",
    )


def prepare_text(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    objective: Objective,
    seed: int,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Corpus:
    """Read, split, tokenize and cache the text of a recipe.

    For `sentence-embedding` a sequence is one sentence, truncated to `settings.max_length`; for
    `masked-lm` it is a block of that length, cut from the joined rows. Special tokens are included.
    Duplicates are dropped, and none of a held-out sequence is left in training. If any source is
    streamed, all are.

    Args:
        settings: sources, lengths, held-out count.
        tokenizer: the teacher's tokenizer.
        objective: what a sequence is.
        seed: of the held-out choice and of the order of the batches.
        cache_dir: where the tokenized text is kept; by default where `datasets` keeps its own.
        progress: show the progress bars of `datasets`.

    Raises:
        TextError: text that cannot be found, read or reached, that is empty, or that is not more
            than what is held out.
    """
    streamed = any(source.streaming for source in settings.sources)
    if objective == "sentence-embedding":
        sequencer = _sentences(tokenizer, settings.max_length, settings.min_words)
    else:
        sequencer = _blocks(tokenizer, settings.max_length)
    identity = [_VERSION, objective, settings.max_length, settings.min_words, tokenizer_digest(tokenizer)]
    with _progress_bars(progress):
        rows = [
            load_hub(source, cache_dir=cache_dir)
            if source.dataset
            else load_files(source, streaming=streamed, cache_dir=cache_dir)
            for source in settings.sources
        ]
        build = _stream_corpus if streamed else _map_corpus
        corpus = build(rows, sequencer, settings, identity, seed)
    if objective == "masked-lm":
        corpus.held_out_texts = tokenizer.batch_decode(corpus.held_out, skip_special_tokens=True)
    return corpus


def _map_corpus(
    rows: list[Any], sequencer: _Sequencer, settings: TextSettings, identity: list[Any], seed: int
) -> MapCorpus:
    tokenized = [
        source.map(
            sequencer,
            batched=True,
            batch_size=_ROWS_AT_ONCE,
            remove_columns=["text"],
            features=_FEATURES,
            new_fingerprint=digest_of([source._fingerprint, *identity])[:32],
            desc="Tokenizing",
        )
        for source in rows
    ]
    sequences = datasets.concatenate_datasets(tokenized)
    if not len(sequences):
        raise _nothing(settings)
    keys = sequences.data.column("key").to_numpy()
    unique = np.sort(np.unique(keys, return_index=True)[1])
    if len(unique) <= settings.held_out:
        raise _too_little(len(unique), settings)
    chosen = np.random.default_rng([seed, 0]).choice(len(unique), settings.held_out, replace=False)
    held_out_rows = unique[chosen]
    training = np.delete(unique, chosen)
    ends = np.cumsum([len(source) for source in tokenized])
    of_source = np.searchsorted(ends, training, side="right")
    parts = [training[of_source == number] for number in range(len(tokenized))]
    for source, part in zip(settings.sources, parts, strict=True):
        if not len(part):
            raise TextError("holds no text for training", where=_name(source), mend="leave this source out")
    held_out = sequences[held_out_rows]
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in sequences.data.column("input_ids").chunks])
    return MapCorpus(
        sequences=sequences,
        parts=parts,
        weights=[source.weight for source in settings.sources],
        seed=seed,
        held_out=held_out["input_ids"],
        held_out_texts=held_out["text"],
        description={
            "streamed": False,
            "sources": [
                {"source": _name(source), "weight": source.weight, "rows": len(read), "sequences": len(part)}
                for source, read, part in zip(settings.sources, rows, parts, strict=True)
            ],
            "max_length": settings.max_length,
            "sequences": len(training),
            "tokens": int(lengths[training].sum()),
            "held_out": settings.held_out,
            "digest": hashlib.sha256(keys[training].tobytes() + keys[held_out_rows].tobytes()).hexdigest(),
        },
    )


def _stream_corpus(
    rows: list[Any], sequencer: _Sequencer, settings: TextSettings, identity: list[Any], seed: int
) -> StreamCorpus:
    streams = [
        (source.to_iterable_dataset() if isinstance(source, datasets.Dataset) else source).map(
            sequencer, batched=True, batch_size=_ROWS_AT_ONCE, remove_columns=["text"], features=_FEATURES
        )
        for source in rows
    ]
    weights = np.array([source.weight for source in settings.sources])
    stream = (
        streams[0]
        if len(streams) == 1
        else datasets.interleave_datasets(
            streams, probabilities=list(weights / weights.sum()), seed=seed, stopping_strategy="all_exhausted"
        )
    )
    # The held-out part is chosen from the head of the stream; whatever equals it is left out later.
    looked_at = settings.held_out + StreamCorpus.buffer_size
    read = list(islice(stream, looked_at))
    head = {row["key"]: row for row in read}
    if not head:
        raise _nothing(settings)
    if len(head) <= settings.held_out:
        raise _too_little(len(head), settings)
    chosen = np.random.default_rng([seed, 0]).choice(len(head), settings.held_out, replace=False)
    unique = list(head.values())
    held_out = [unique[index] for index in chosen]
    keys = np.array([row["key"] for row in held_out])
    return StreamCorpus(
        stream=stream,
        held_out_keys=frozenset(keys.tolist()),
        seed=seed,
        held_out=[row["input_ids"] for row in held_out],
        held_out_texts=[row["text"] for row in held_out],
        size=len(head) - settings.held_out if len(read) < looked_at else None,
        description={
            "streamed": True,
            "sources": [{"source": _name(source), "weight": source.weight} for source in settings.sources],
            "max_length": settings.max_length,
            "sequences": None,
            "tokens": None,
            "held_out": settings.held_out,
            "digest": digest_of([hashlib.sha256(keys.tobytes()).hexdigest(), *identity]),
        },
    )
