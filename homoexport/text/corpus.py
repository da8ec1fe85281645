"""Corpora: the batches of every step, the same for one process or many, resumed or not.

A map-style corpus computes the batch of a step from (seed, step) alone. A streamed one is read in
order and carries its place in a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import numpy as np

from homoexport.errors import TextError

_ORDER, _BUFFER = 1, 2  # what the seed is used for; 0 is the held-out choice
_SCALE_BITS = 32


class Corpus(Protocol):
    """Training sequences by step, and a held-out part that training never sees.

    Attributes:
        held_out: held-out token sequences, special tokens included.
        held_out_texts: the same as text.
        size: training sequences of one epoch; None where a stream does not tell.
    """

    held_out: list[list[int]]
    held_out_texts: list[str]

    @property
    def size(self) -> int | None:
        """Training sequences of one epoch."""

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[list[int]]:
        """Sequences `start` to `stop` of the `batch_size` sequences of a step (counted from 0)."""

    def require(self, batch_size: int) -> None:
        """Raise TextError where there is less text than one batch."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs; JSON-ready. Empty where the step alone says everything."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def describe(self) -> dict[str, Any]:
        """What the corpus holds, for manifests; JSON-ready."""


def _require(size: int | None, batch_size: int) -> None:
    if size is not None and size < batch_size:
        raise TextError(
            f"{size} training sequences are fewer than one batch of {batch_size}",
            where="text",
            mend="give more text, or lower distill.batch_size or text.held_out",
        )


def locate_position(position: int, weights: Sequence[float]) -> tuple[int, int]:
    """Which source a position of the endless training order takes, and as its how-manyeth sequence.

    Positions are dealt out evenly (Bresenham's line, in whole numbers), so that every batch has
    every source's share of it within one sequence for each source.

    Args:
        position: counted from 0 over all batches.
        weights: relative shares of the sources.

    Returns:
        The source's index, and how many earlier positions took the same source.
    """
    totals = list(accumulate(weights))
    for source in range(len(totals) - 1, 0, -1):
        share = round((1 << _SCALE_BITS) * totals[source - 1] / totals[source])
        others_before = position * share >> _SCALE_BITS
        if (position + 1) * share >> _SCALE_BITS == others_before:
            return source, position - others_before
        position = others_before
    return 0, position


@dataclass
class MapCorpus:
    """A corpus that lies on disk, in memory-mapped Arrow files.

    Args:
        sequences: a `datasets.Dataset` with the column `input_ids`.
        parts: for each source, the rows of `sequences` that it trains on.
        weights: for each source, its relative share of a batch.
        seed: of the order; each epoch of a source is a permutation of its part.
        held_out, held_out_texts: see `Corpus`.
        description: what `describe` returns.
    """

    sequences: Any
    parts: list[np.ndarray]
    weights: list[float]
    seed: int
    held_out: list[list[int]]
    held_out_texts: list[str]
    description: dict[str, Any]

    def __post_init__(self) -> None:
        # A batch touches two epochs of a source at most, but for parts smaller than its share.
        self._order = lru_cache(maxsize=2 * len(self.parts))(self._permute)

    def _permute(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, source, epoch]).permutation(self.parts[source])

    @property
    def size(self) -> int:
        """Training sequences, duplicates and held-out ones left out."""
        return sum(map(len, self.parts))

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[list[int]]:
        """See `Corpus.batch`; a pure function of the seed and its arguments."""
        rows = []
        for index in range(start, batch_size if stop is None else stop):
            source, ordinal = locate_position(step * batch_size + index, self.weights)
            epoch, place = divmod(ordinal, len(self.parts[source]))
            rows.append(int(self._order(source, epoch)[place]))
        batch: list[list[int]] = self.sequences[rows]["input_ids"]
        return batch

    def require(self, batch_size: int) -> None:
        """See `Corpus.require`."""
        _require(self.size, batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Empty: the step says everything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load; a state of a stream is a mistake of ours."""
        assert not state

    def describe(self) -> dict[str, Any]:
        """See `Corpus.describe`."""
        return self.description


@dataclass
class StreamCorpus:
    """A corpus that is read in order, through a shuffle buffer, epoch after epoch.

    `datasets` forgets the content of its own shuffle buffers when it resumes, so the buffer is
    kept here and is part of the state. Every process reads the whole stream and takes its slice.

    Args:
        stream: a `datasets.IterableDataset` with the columns `input_ids` and `key`.
        held_out_keys: sequences with one of these keys are passed over.
        seed: of the buffer's draws.
        held_out, held_out_texts: see `Corpus`.
        description: what `describe` returns.
        size: training sequences of one epoch, where the stream ended while it was looked at.
    """

    stream: Any
    held_out_keys: frozenset[int]
    seed: int
    held_out: list[list[int]]
    held_out_texts: list[str]
    description: dict[str, Any]
    size: int | None = None
    buffer_size: ClassVar[int] = 4096
    _next_step: int = 0
    _epoch: int = 0
    _buffer: list[list[int]] = field(default_factory=list)
    _reader: Iterator[list[int]] | None = None
    _loaded: Any = None

    def _read(self) -> Iterator[list[int]]:
        while True:
            # The stream resumes from a loaded state only in the epoch that the state was taken in.
            self.stream.set_epoch(self._epoch)
            found = False
            for row in self.stream:
                if row["key"] not in self.held_out_keys:
                    found = True
                    yield row["input_ids"]
            if not found:
                raise TextError("the stream holds nothing for training", where="text", mend="lower text.held_out")
            self._epoch += 1

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[list[int]]:
        """See `Corpus.batch`; steps must be asked for in order, from 0 or from a loaded state."""
        assert step == self._next_step, f"step {step} of a stream that stands at {self._next_step}"
        if self._reader is None:
            self._reader = self._read()
        while len(self._buffer) < self.buffer_size:
            self._buffer.append(next(self._reader))
        places = np.random.default_rng([self.seed, _BUFFER, step]).integers(len(self._buffer), size=batch_size)
        batch = []
        for place in places:
            batch.append(self._buffer[place])
            self._buffer[place] = next(self._reader)
        self._next_step += 1
        return batch[start:stop]

    def require(self, batch_size: int) -> None:
        """See `Corpus.require`; a stream longer than its buffer is taken to be long enough."""
        _require(self.size, batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream and the content of the buffer."""
        return {
            "step": self._next_step,
            "epoch": self._epoch,
            "buffer": [list(sequence) for sequence in self._buffer],
            # Before the first batch the stream stands where it was looked at last, not where we are.
            "stream": self.stream.state_dict() if self._reader else self._loaded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Corpus.load_state_dict`."""
        self._next_step, self._epoch = state["step"], state["epoch"]
        self._buffer = [list(sequence) for sequence in state["buffer"]]
        self._reader, self._loaded = None, state["stream"]
        if self._loaded is not None:
            self.stream.load_state_dict(self._loaded)

    def describe(self) -> dict[str, Any]:
        """See `Corpus.describe`."""
        return self.description
