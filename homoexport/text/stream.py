"""Streamed corpora: the same batches for one process or several, each reading its own share.

The stream is dealt into virtual shards (`shards.py`) whose number does not depend on the number of
processes. The sequences of a batch take fixed shards, so a process reads and tokenizes the shards of
its own slice alone, and a state taken with some number of processes suits any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from homoexport.documents.student import CorpusDescription
from homoexport.text.corpus import Mark, ShardState, StreamState
from homoexport.text.example import Example
from homoexport.text.shards import (
    VIRTUAL_SHARDS,
    Lane,
    Place,
    Reader,
    Shard,
    StreamSource,
    shards_of_batch,
    shards_of_process,
)

_BUFFER = 2  # what the seed is used for; 0 is the held-out choice, 1 the order of a map-style corpus


@dataclass
class StreamCorpus:
    """A corpus that is read in order, through shuffle buffers, epoch after epoch.

    Sequences with one of the `held_out_keys` are passed over. `size` is known where the stream ended while it was
    looked at. Batches are asked for by one of the `processes`.
    """

    sources: list[StreamSource]
    held_out_keys: frozenset[int]
    seed: int
    held_out: list[Example]
    held_out_texts: list[str]
    description: CorpusDescription
    size: int | None = None
    process: int = 0
    processes: int = 1
    buffer_size: ClassVar[int] = 4096
    _next_step: int = 0
    _state: StreamState = field(default_factory=lambda: StreamState(step=0, shards={}, readers={}))
    _readers: dict[str, Reader] = field(default_factory=dict)
    _shards: dict[int, Shard] = field(default_factory=dict)

    def _start(self, batch_size: int) -> None:
        """Stand where the state says, with the shards of this process."""
        own = shards_of_process(batch_size, self.process, self.processes)
        saved = self._state["shards"]
        assert not saved or all(str(number) in saved for number in own), "a state of some processes alone"
        lanes: dict[int, list[Lane]] = {number: [] for number in own}
        for index, source in enumerate(self.sources):
            parts = max(
                n for n in range(1, VIRTUAL_SHARDS + 1) if not VIRTUAL_SHARDS % n and n <= source.rows.num_shards
            )
            sharing = VIRTUAL_SHARDS // parts
            for part in sorted({number // sharing for number in own}):
                members = [number for number in own if number // sharing == part]
                places = {number: saved[str(number)]["places"][index] if saved else [0, 0, 0] for number in members}
                starts: dict[int, Place] = {number: (epoch, row) for number, (epoch, row, _) in places.items()}
                name = f"{index}/{part}"
                mark = self._state["readers"].get(name, (0, 0, None))
                self._readers[name] = reader = Reader(source.rows, part=part, parts=parts, starts=starts, mark=mark)
                for number, (_, _, taken) in places.items():
                    lanes[number].append(Lane(reader, source, number, self.held_out_keys, taken=taken))
        weights = [source.weight for source in self.sources]
        for number in own:
            state = saved.get(str(number), ShardState(drawn=0, buffer=[], places=[]))
            buffer = [Example(*fields) for fields in state["buffer"]]
            self._shards[number] = Shard(number, lanes[number], weights, state["drawn"], buffer)

    def batch(self, step: int, batch_size: int, start: int = 0, stop: int | None = None) -> list[Example]:
        """See `Corpus.batch`; steps must be asked for in order, from 0 or from a loaded state.

        `start` to `stop` must lie in this process's slice, and `batch_size` must stay the same.
        """
        assert step == self._next_step, f"step {step} of a stream that stands at {self._next_step}"
        if not self._shards:
            self._start(batch_size)
        room = max(1, self.buffer_size // VIRTUAL_SHARDS)
        places = np.random.default_rng([self.seed, _BUFFER, step]).integers(room, size=batch_size)
        wanted = range(*slice(start, stop).indices(batch_size))
        batch = []
        for index, (number, place) in enumerate(zip(shards_of_batch(step, batch_size), places, strict=True)):
            assert index not in wanted or number in self._shards, "a slice of another process"
            # A shard that several processes touch goes on in each of them by all that is drawn from it.
            if number in self._shards:
                example = self._shards[number].draw(int(place), room)
                if index in wanted:
                    batch.append(example)
        self._next_step += 1
        return batch

    def state_dict(self) -> StreamState:
        """The places and buffers of this process's shards; those of all processes make one by `merge_states`."""
        if not self._shards:
            return self._state
        return {
            "step": self._next_step,
            "shards": {str(number): shard.state_dict() for number, shard in self._shards.items()},
            "readers": {name: reader.mark() for name, reader in self._readers.items()},
        }

    def load_state_dict(self, state: StreamState) -> None:
        self._state, self._next_step = state, state["step"]
        self._readers, self._shards = {}, {}


def merge_states(states: Sequence[StreamState]) -> StreamState:
    """One state out of the `state_dict` of every process after the same step, for any number of processes to load."""
    if not any(states):
        return {}
    assert len({state["step"] for state in states}) == 1, "states of different steps"
    shards: dict[str, ShardState] = {}
    readers: dict[str, Mark] = {}
    for state in states:
        shards |= state["shards"]
        for name, mark in state["readers"].items():
            readers[name] = min(mark, readers.get(name, mark), key=lambda known: (known[0], known[1]))
    return {"step": states[0]["step"], "shards": shards, "readers": readers}
