"""Corpora: the batches of every step, the same for one process or many, resumed or not.

A map-style corpus computes the batch of a step from (seed, step) alone. A streamed one (`stream.py`)
is read in order and carries its place in a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol, TypedDict

import numpy as np

from homoexport.documents.recipe import TextSettings
from homoexport.documents.student import CorpusDescription
from homoexport.errors import TextError
from homoexport.text.example import Example, examples_from
from homoexport.text.sources import name_of

_ORDER = 1  # what the seed is used for; 0 is the held-out choice
_SCALE_BITS = 32

Mark = tuple[int, int, Any]  # epoch, row, and the state of `datasets`' reader there


class ShardState(TypedDict):
    """A virtual shard of a stream (see `shards.py`): what it has drawn, what it holds and where its lanes stand."""

    drawn: int
    buffer: list[list[Any]]  # the fields of `Example`s
    places: list[list[int]]


class StreamState(TypedDict, total=False):
    """What resuming needs of a stream, JSON-ready; nothing of a corpus whose step says everything."""

    step: int
    shards: dict[str, ShardState]
    readers: dict[str, Mark]


class Corpus(Protocol):
    """Training sequences by step, and a held-out part that training never sees.

    `held_out_texts` has the query of a query and its document, and both of other pairs.
    """

    held_out: list[Example]
    held_out_texts: list[str]
    description: CorpusDescription

    @property
    def size(self) -> int | None:
        """Training sequences of one epoch; None where a stream does not say."""

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[Example]:
        """Sequences `start` to `stop` of the `batch_size` sequences of a step (counted from 0).

        A stream gives its own process's slice alone: of process p of n, [p·batch_size/n, (p+1)·batch_size/n).
        """

    def state_dict(self) -> StreamState:
        """For `merge_states`."""

    def load_state_dict(self, state: StreamState) -> None:
        """Go on from a merged state, whatever the number of processes was."""


def require_batch(corpus: Corpus, batch_size: int) -> None:
    """Refuse less text than one batch (TextError); a stream longer than its buffers is taken to be long enough."""
    if corpus.size is not None:
        refuse_few(corpus.size, batch_size)


def refuse_few(sequences: int, batch_size: int) -> None:
    """Refuse (TextError) fewer training sequences than one batch."""
    if sequences < batch_size:
        raise TextError(
            f"{sequences} training sequences are fewer than one batch of {batch_size}",
            where="text",
            hint="give more text, or lower distill.batch_size or text.held_out",
        )


def refuse_held_out(sequences: int, settings: TextSettings) -> None:
    """Refuse (TextError) so many different sequences where none is left for training, or none is there at all."""
    names = ", ".join(name_of(source) for source in settings.sources)
    if not sequences:
        hint = "name other files or another column, or lower text.min_words"
        raise TextError("holds no text", where=names, hint=hint)
    if sequences <= settings.held_out:
        raise TextError(
            f"{sequences} different sequences, and text.held_out keeps {settings.held_out} of them from training",
            where=names,
            hint="give more text or lower text.held_out",
        )


def locate_position(position: int, weights: Sequence[float]) -> tuple[int, int]:
    """Which source a position of the endless training order takes, and how many earlier positions took the same one.

    Positions are dealt out evenly (Bresenham's line, in whole numbers), so that every batch has every source's share of
    it within one sequence for each source.
    """
    totals = list(accumulate(weights))
    for source in range(len(totals) - 1, 0, -1):
        share = round((1 << _SCALE_BITS) * totals[source - 1] / totals[source])
        others_before = position * share >> _SCALE_BITS
        if (position + 1) * share >> _SCALE_BITS == others_before:
            return source, position - others_before
        position = others_before
    return 0, position


def lengths_of(sequences: Any) -> np.ndarray:
    """Tokens of every row of a `datasets.Dataset` of sequences."""
    return np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in sequences.data.column("input_ids").chunks])


@dataclass
class MapCorpus:
    """A corpus that lies on disk, in memory-mapped Arrow files.

    `sequences` is a `datasets.Dataset` with the columns of `Example`'s fields; `parts` are the rows of it that each
    source trains on, and `weights` each one's relative share of a batch. Each epoch of a source is a permutation of its
    part.
    """

    sequences: Any
    parts: list[np.ndarray]
    weights: list[float]
    seed: int
    held_out: list[Example]
    held_out_texts: list[str]
    description: CorpusDescription

    def __post_init__(self) -> None:
        # A batch touches two epochs of a source at most, but for parts smaller than its share.
        self._order = lru_cache(maxsize=2 * len(self.parts))(self._permute)

    def _permute(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, source, epoch]).permutation(self.parts[source])

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row of `sequences`."""
        return lengths_of(self.sequences)

    def examples(self, rows: list[int]) -> list[Example]:
        return examples_from(self.sequences[rows])

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[Example]:
        return self.examples(self.rows(step, batch_size, start, stop))

    def rows(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[int]:
        """Where the sequences of `batch` lie."""
        rows = []
        for index in range(start, batch_size if stop is None else stop):
            source, ordinal = locate_position(step * batch_size + index, self.weights)
            epoch, place = divmod(ordinal, len(self.parts[source]))
            rows.append(int(self._order(source, epoch)[place]))
        return rows

    def state_dict(self) -> StreamState:
        return {}

    def load_state_dict(self, state: StreamState) -> None:
        assert not state
