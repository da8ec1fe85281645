"""From a recipe's text settings to a corpus, tokenized once and cached by `datasets`.

What is cached is named by a fingerprint of the files, the tokenizer and the settings, so that any
change of these tokenizes again. The tokenizer's own hash would not do: it changes with every call,
because truncation is part of a fast tokenizer's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from homoexport.choices import Objective
from homoexport.documents.artifact import sha256_file
from homoexport.documents.document import digest_of
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.documents.student import CorpusDescription, SourceDescription
from homoexport.errors import TextError
from homoexport.globs import at_home
from homoexport.text.corpus import Corpus, MapCorpus, lengths_of, refuse_held_out
from homoexport.text.example import IGNORED, examples_from
from homoexport.text.peek import check_columns
from homoexport.text.sequences import VECTOR, Columns, Sequencer, features_of, tokenizer_digest
from homoexport.text.shards import VIRTUAL_SHARDS, StreamSource, read_chunk, sequences_of
from homoexport.text.sources import cache_errors, entry_of, load_files, load_hub, name_of, read_on
from homoexport.text.stream import StreamCorpus
from homoexport.text.vectors import AskedVectors, VectorsOrigin, describe, open_vectors, unit

_VERSION = 2  # raised whenever the same text would be made into other sequences
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 10**8  # tokenized together


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _split(keys: np.ndarray, settings: TextSettings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to hold out, and rows to train on, out of the first row of each key."""
    unique = np.sort(np.unique(keys, return_index=True)[1])
    refuse_held_out(len(unique), settings)
    chosen = np.random.default_rng([seed, 0]).choice(len(unique), settings.held_out, replace=False)
    return unique[chosen], np.delete(unique, chosen)


def _refuse_one_label(labels: Any, settings: TextSettings) -> None:
    """Refuse a column of labels, of sequences or of their tokens, that are all the same but for those ignored."""
    cells = labels.combine_chunks()
    found = set((cells.flatten() if "list" in str(cells.type) else cells).unique().to_pylist()) - {None, IGNORED}
    if len(found) == 1:
        names = ", ".join(f"{name_of(source)}, column '{source.label_column}'" for source in settings.sources)
        hint = "name another 'label_column', or leave it out: the teacher's logits teach alone"
        raise TextError(f"every label is the same ({found.pop()})", where=names, hint=hint)


def prepare_text(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    *,
    objective: Objective,
    seed: int,
    cache_dir: Path | None = None,
    label2id: Mapping[str, int] | None = None,
    of_scores: bool = False,
    vectors: AskedVectors | str | None = None,
    process: int = 0,
    processes: int = 1,
) -> Corpus:
    """Read, tokenize and cache the text of a recipe.

    What a sequence is depends on the objective (see `sequences.py`); each has `settings.max_length` tokens at the most.
    Nothing that equals a held-out sequence is left in training, whatever its labels, and duplicates are dropped (but
    for streams, which do not remember what they gave). If any source is streamed, all are.

    Args:
        seed: of the held-out choice and of the order of the batches.
        cache_dir: where the tokenized text is kept; by default where `datasets` keeps its own.
        label2id: class ids of label names; without it labels are class ids themselves.
        of_scores: whether the labels of classification are numbers, for a teacher with one output.
        vectors: what gives each text of `sentence-embedding` its vector, where no column does: a model, or an npy file
            with a row for each of the one source's.
        process: whose slice of the batches will be asked for; matters to streams alone.

    Raises:
        TextError: text that cannot be found, read or reached, that is empty, or that is not more
            than what is held out; a label that is not known; vectors that are none, or as many as there are rows.
        RecipeError: columns of pairs or labels that the objective has no use for, or pairs in some
            sources of `sentence-embedding` only.
    """
    check_columns(settings.sources, objective)
    streamed = any(source.streaming for source in settings.sources)
    sequencers = [Sequencer(objective, tokenizer, settings, source, label2id, of_scores) for source in settings.sources]
    known = "scores" if of_scores else dict(label2id or {})
    names = (known or None) if any(source.label_column for source in settings.sources) else None
    identity = [_VERSION, objective, settings.max_length, settings.min_words, tokenizer_digest(tokenizer), names]
    beside = None
    if isinstance(vectors, str):
        open_vectors(vectors)  # it may be gone by now
        beside = entry_of(at_home(vectors))
    with _no_progress_bars(), cache_errors():
        rows = [
            load_hub(source, cache_dir=cache_dir)
            if source.dataset
            else load_files(
                source,
                words=objective == "token-classification",
                streaming=streamed,
                cache_dir=cache_dir,
                vectors=beside,
            )
            for source in settings.sources
        ]
        corpus: Corpus
        if streamed:
            corpus = _stream_corpus(rows, sequencers, settings, identity, seed)
            corpus.process, corpus.processes = process, processes
        else:
            corpus = _map_corpus(rows, sequencers, settings, identity, seed, vectors)
    if objective == "masked-lm":
        ids = [example.input_ids for example in corpus.held_out]
        corpus.held_out_texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return corpus


def corpus_of(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    objective: Objective = "sentence-embedding",
    max_length: int = 128,
    held_out: int = 3,
    seed: int = 0,
) -> Corpus:
    """A corpus of texts in memory, of any length, which are more than what is held out (TextError); see `prepare_text`.

    Args:
        objective: what a sequence is; those that need labels take files alone.
        max_length: tokens of the longest sequence.
        held_out: sequences that are kept from training, 3 or more.
    """
    source = TextSource(files="texts in memory")
    settings = TextSettings(sources=(source,), max_length=max_length, held_out=held_out)
    rows = datasets.Dataset.from_dict({"text": list(texts)})
    sequencer = Sequencer(objective, tokenizer, settings, source)
    with _no_progress_bars():
        return _map_corpus([rows], [sequencer], settings, [objective, max_length], seed)


def _with_asked(sequences: Any, firsts: np.ndarray, asked: AskedVectors) -> Any:
    """Those rows of tokenized text, with the vectors that a model gives of their texts; they are cached as text is."""
    return sequences.select(firsts).map(
        lambda columns: {"vector": unit(asked.ask(columns["text"]))},
        batched=True,
        batch_size=_ROWS_AT_ONCE,
        features=datasets.Features({**sequences.features, **VECTOR}),
        new_fingerprint=digest_of([sequences._fingerprint, asked.digest])[:32],
        desc="Asking for vectors",
    )


def _origin_of(vectors: AskedVectors | str | None, settings: TextSettings) -> VectorsOrigin:
    """A model, an npy file, or the files whose column they are."""
    if isinstance(vectors, AskedVectors):
        return {"source": vectors.source, "digest": vectors.digest}
    if isinstance(vectors, str):
        return {"source": vectors, "digest": sha256_file(at_home(vectors))}
    return {"source": ", ".join(name_of(source) for source in settings.sources), "digest": None}


def _map_corpus(
    rows: list[Any],
    sequencers: list[Sequencer],
    settings: TextSettings,
    identity: list[Any],
    seed: int,
    vectors: AskedVectors | str | None = None,
) -> MapCorpus:
    given, asked = "vector" in rows[0].column_names, vectors if isinstance(vectors, AskedVectors) else None
    tokenized = [
        (source.with_format("numpy", columns=["vector"], output_all_columns=True) if given else source).map(
            sequencer,
            batched=True,
            batch_size=max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE * len(source) // max(1, source.data.nbytes))),
            remove_columns=source.column_names,
            features=features_of(sequencer.objective, of_scores=sequencer.of_scores, with_vectors=given),
            new_fingerprint=digest_of([source._fingerprint, *identity, sequencer.source.unit])[:32],
            desc="Tokenizing",
        )
        for source, sequencer in zip(rows, sequencers, strict=True)
    ]
    sequences = datasets.concatenate_datasets(tokenized)
    keys = sequences.data.column("key").to_numpy()
    ends = np.cumsum([len(source) for source in tokenized])
    if asked is not None:
        firsts = np.sort(np.unique(keys, return_index=True)[1])
        sequences, keys, ends = _with_asked(sequences, firsts, asked), keys[firsts], np.searchsorted(firsts, ends)
    held_out_rows, training = _split(keys, settings, seed)
    if any(source.label_column for source in settings.sources):
        _refuse_one_label(sequences.data.column("labels"), settings)
    of_source = np.searchsorted(ends, training, side="right")
    parts = [training[of_source == number] for number in range(len(tokenized))]
    for source, part in zip(settings.sources, parts, strict=True):
        if not len(part):
            raise TextError("holds no text for training", where=name_of(source), hint="leave this source out")
    described = None
    if given or asked is not None:
        described = describe(sequences.data.column("vector"), **_origin_of(vectors, settings))
        sequences = sequences.with_format("numpy", columns=["vector"], output_all_columns=True)
    held_out = sequences[held_out_rows]
    lengths = lengths_of(sequences)
    return MapCorpus(
        sequences=sequences,
        parts=parts,
        weights=[source.weight for source in settings.sources],
        seed=seed,
        held_out=examples_from(held_out),
        held_out_texts=held_out["text"],
        description=CorpusDescription(
            streamed=False,
            sources=tuple(
                SourceDescription(source=name_of(source), weight=source.weight, rows=len(read), sequences=len(part))
                for source, read, part in zip(settings.sources, rows, parts, strict=True)
            ),
            max_length=settings.max_length,
            sequences=len(training),
            tokens=int(lengths[training].sum()),
            held_out=settings.held_out,
            digest=hashlib.sha256(keys[training].tobytes() + keys[held_out_rows].tobytes()).hexdigest(),
            vectors=described,
        ),
    )


def _head(source: StreamSource, count: int) -> tuple[Columns, bool]:
    """The first `count` sequences of a source or somewhat more, and whether these are all."""
    rows = read_on(source.rows.shard(1, 0), source.name)
    head: Columns = {"key": []}
    while len(head["key"]) < count:
        chunk = read_chunk(lambda: next(rows, None))
        if not chunk:
            return head, True
        for name, column in sequences_of(chunk, source.sequencer).items():
            head.setdefault(name, []).extend(column)
    return head, False


def _stream_corpus(
    rows: list[Any], sequencers: list[Sequencer], settings: TextSettings, identity: list[Any], seed: int
) -> StreamCorpus:
    sources = [
        StreamSource(
            read.to_iterable_dataset(num_shards=max(1, min(VIRTUAL_SHARDS, len(read))))
            if isinstance(read, datasets.Dataset)
            else read,
            sequencer,
        )
        for read, sequencer in zip(rows, sequencers, strict=True)
    ]
    # The held-out part is chosen from the heads of the sources; whatever equals it is left out later.
    looked_at = settings.held_out + StreamCorpus.buffer_size
    total = sum(source.weight for source in sources)
    heads = [_head(source, ceil(looked_at * source.weight / total)) for source in sources]
    if not any(head["key"] for head, _ in heads):
        refuse_held_out(0, settings)
    for source, (head, _) in zip(sources, heads, strict=True):
        if not head["key"]:
            raise TextError("holds no text for training", where=source.name, hint="leave this source out")
    merged = {name: [cell for head, _ in heads for cell in head[name]] for name in heads[0][0]}
    keys = np.array(merged["key"])
    chosen, training = _split(keys, settings, seed)
    held_out = {name: [column[row] for row in chosen] for name, column in merged.items()}
    return StreamCorpus(
        sources=sources,
        held_out_keys=frozenset(held_out["key"]),
        seed=seed,
        held_out=examples_from(held_out),
        held_out_texts=held_out["text"],
        size=len(training) if all(ended for _, ended in heads) else None,
        description=CorpusDescription(
            streamed=True,
            sources=tuple(SourceDescription(source=source.name, weight=source.weight) for source in sources),
            max_length=settings.max_length,
            sequences=None,
            tokens=None,
            held_out=settings.held_out,
            digest=digest_of([hashlib.sha256(keys[chosen].tobytes()).hexdigest(), *identity]),
        ),
    )
