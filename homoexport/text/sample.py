"""The beginning of a recipe's text, read as training will read it, for what must be known before all of it is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import datasets
import numpy as np

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.documents.student import CorpusDescription
from homoexport.errors import TextError
from homoexport.text.corpus import MapCorpus, lengths_of, refuse_few, refuse_held_out
from homoexport.text.example import examples_from
from homoexport.text.parquet import rows_in
from homoexport.text.peek import rows_of
from homoexport.text.sequences import Columns, Sequencer, features_of
from homoexport.text.sources import Row, columns_of, find_files, first_rows, name_of

_ROWS_AT_ONCE = 100
_ROWS_OF_A_BLOCK = 1000  # whose last block of masked-lm is a short one, as `prepare_text` cuts them
_SHOWN_ROWS = 3
_PACKED = 3.0  # times as large as its compressed file is a text, about
_PACKED_ENDS = (".gz", ".bz2", ".xz", ".zip", ".parquet")
_AROUND_NAME = 5  # characters of quotes, colon and spaces


@dataclass
class SourceSample:
    """What was read of one source: its first rows, and the sequences made of all rows that were looked at.

    `characters` are those of these rows' texts; `seconds` is what reading and tokenizing them took.
    """

    sequencer: Sequencer
    rows: list[Row] = field(default_factory=list)
    looked_at: int = 0
    characters: int = 0
    sequences: int = 0
    seconds: float = 0.0
    is_whole: bool = False

    @property
    def name(self) -> str:
        return name_of(self.sequencer.source)

    @property
    def files(self) -> int | None:
        """How many files it is of; None of a dataset on the hub."""
        source = self.sequencer.source
        return None if source.files is None else len(find_files(source.files))

    def whole(self) -> float | None:
        """Times as much as was read that the source has, by its files' sizes, of parquet by their rows; None of a
        dataset on the hub."""
        source = self.sequencer.source
        if self.is_whole:
            return 1.0
        if source.files is None or not self.characters:
            return None
        sizes = {path: size for path, _, size, _ in find_files(source.files)}
        if all(path.lower().endswith(".parquet") for path in sizes):
            return max(1.0, sum(map(rows_in, sizes)) / self.looked_at)
        unpacked = sum(size * (_PACKED if path.lower().endswith(_PACKED_ENDS) else 1) for path, size in sizes.items())
        return max(1.0, unpacked * _share_of_text(source, source.files) / self.characters)

    def read(self, rows: Iterator[Row], columns: Columns) -> None:
        """Read some rows on, and put their sequences into columns that have those of other rows."""
        sequencer = self.sequencer
        count = _ROWS_OF_A_BLOCK if sequencer.objective == "masked-lm" else _ROWS_AT_ONCE
        first = list(islice(rows, 1))  # which also opens files
        began = time.perf_counter()
        chunk = [*first, *islice(rows, count - 1)]
        self.is_whole = len(chunk) < count
        self.rows += chunk[: _SHOWN_ROWS - len(self.rows)]
        self.looked_at += len(chunk)
        roles = [role for role in columns_of(sequencer.source) if role != "vector"]
        made = sequencer({role: [row[role] for row in chunk] for role in roles}) if chunk else {}
        seen = set(columns.get("key", []))
        for place, key in enumerate(made.get("key", [])):
            if key not in seen:
                seen.add(key)
                self.sequences += 1
                for name, cells in made.items():
                    columns.setdefault(name, []).append(cells[place])
        self.characters += sum(
            len("".join(row[role] or "")) for row in chunk for role in ("text", "pair") if role in row
        )
        self.seconds += time.perf_counter() - began


def _share_of_text(source: TextSource, files: str) -> float:
    """How much of a file is its texts, by the first rows: the rest is other columns, and in jsonl their names."""
    path, member, *_ = find_files(files)[0]
    is_jsonl, texts, whole = ".jsonl" in (member or path).lower(), 0, 0
    for row in first_rows(files, _ROWS_AT_ONCE):
        written = {name: len(str("" if cell is None else cell)) for name, cell in row.items()}
        names = sum(len(name) + _AROUND_NAME for name in row) if is_jsonl else 0
        texts += sum(written.get(name, 0) for name in (source.column, source.pair_column or ""))
        whole += sum(written.values()) + len(row) + names  # and what divides them
    return texts / whole if texts else 1.0


@dataclass(frozen=True)
class TextSample:
    """The first different sequences of all sources, as columns of `Example`'s fields, `text` and `key`."""

    sources: tuple[SourceSample, ...]
    columns: Columns

    @property
    def is_whole(self) -> bool:
        """Whether there are no others."""
        return all(source.is_whole for source in self.sources)

    def sequences(self) -> float | None:
        """About how many there are in all; None where nobody knows."""
        parts = [(source.sequences, source.whole()) for source in self.sources]
        return None if any(times is None for _, times in parts) else sum(count * (times or 0) for count, times in parts)

    def seconds(self) -> float | None:
        """About how long all of it takes to read and tokenize; None where nobody knows."""
        parts = [(source.seconds, source.whole()) for source in self.sources]
        return None if any(times is None for _, times in parts) else sum(took * (times or 0) for took, times in parts)

    def tokens(self) -> float:
        """Of a sequence, on average."""
        halves = [self.columns["input_ids"], [ids for ids in self.columns.get("pair_ids", []) if ids]]
        return sum(len(ids) for half in halves for ids in half) / max(1, len(self.columns["key"]))

    def corpus(self, settings: TextSettings, *, sequences: int, held_out: int) -> MapCorpus:
        """A small corpus of sequences of all lengths that there are, as often as there are."""
        order = np.argsort([len(ids) for ids in self.columns["input_ids"]], kind="stable")
        places = np.linspace(0, len(order) - 1, min(len(order), sequences + held_out)).round().astype(int)
        chosen = {name: [cells[order[place]] for place in places] for name, cells in self.columns.items()}
        sequencer = self.sources[0].sequencer
        features = features_of(sequencer.objective, of_scores=sequencer.of_scores)
        rows = datasets.Dataset.from_dict(chosen, features=features)
        kept = np.random.default_rng(0).permutation(len(rows))
        training = kept[held_out:]
        return MapCorpus(
            sequences=rows,
            parts=[training],
            weights=[1.0],
            seed=0,
            held_out=examples_from(rows[kept[:held_out]]),
            held_out_texts=[],
            description=CorpusDescription(
                streamed=False,
                sources=(),
                max_length=settings.max_length,
                sequences=len(training),
                tokens=int(lengths_of(rows)[training].sum()),
                held_out=held_out,
                digest="",
            ),
        )


def read_sample(sequencers: Sequence[Sequencer], *, wanted: int) -> TextSample:
    """Some rows of each source, and more until there are so many sequences, or no more rows.

    Raises:
        TextError: text or a label that cannot be read.
    """
    sources = [SourceSample(sequencer) for sequencer in sequencers]
    readers = [rows_of(each.source, words=each.objective == "token-classification") for each in sequencers]
    columns: Columns = {}
    while True:
        for source, rows in zip(sources, readers, strict=True):
            if not source.is_whole:
                source.read(rows, columns)
        if len(columns.get("key", [])) >= wanted or all(source.is_whole for source in sources):
            return TextSample(tuple(sources), columns)


def sample_text(sequencers: Sequence[Sequencer], settings: TextSettings, *, batch_size: int) -> TextSample:
    """As many sequences as are held out, and a batch.

    Raises:
        TextError: text or a label that cannot be read, or too little text: told as `prepare_text` and `require_batch`
            tell it, which come once all of it is read.
    """
    sample = read_sample(sequencers, wanted=settings.held_out + batch_size)
    count = len(sample.columns.get("key", []))
    refuse_held_out(count, settings)
    for source in sample.sources:
        if not source.sequences and source.is_whole:
            raise TextError("holds no text for training", where=source.name, hint="leave this source out")
    refuse_few(count - settings.held_out, batch_size)
    return sample
