"""Virtual shards of a stream, each with its own place and its own shuffle buffer.

A source's files are cut into as many parts as divide the shards evenly. A part with one shard is read
by one process only; a part that several shards share is read by each process that has one of them,
which tokenizes the rows of its own shards and passes over the others.

`datasets` forgets the content of its own shuffle buffers when it resumes, so the buffers are kept
here and are part of the state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from homoexport.errors import TextError
from homoexport.text.corpus import Mark, ShardState, locate_position
from homoexport.text.example import Example, examples_from
from homoexport.text.sequences import Columns, Sequencer
from homoexport.text.sources import Row, name_of, read_on

# 1, 2, 3, 4, 6, 8, 12 and 24 processes have whole shards, and a single process has no more streams open.
VIRTUAL_SHARDS = 24

_ROWS_AT_ONCE, _CHARACTERS_AT_ONCE = 1000, 50_000  # a chunk: every shard tokenizes one before the first batch
_MARK_EVERY = 1000  # rows
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
_PHASE = 1_000_003

Place = tuple[int, int]  # epoch, row: the order in which a part is read


@dataclass(frozen=True)
class StreamSource:
    """One source of a stream: a `datasets.IterableDataset` of `text`, `pair` and `label`."""

    rows: Any
    sequencer: Sequencer

    @property
    def weight(self) -> float:
        return self.sequencer.source.weight

    @property
    def name(self) -> str:
        return name_of(self.sequencer.source)


def read_chunk(read: Callable[[], Row | None], share: float = 1.0) -> list[Row]:
    """Rows until there is enough (or a share of it) to tokenize at once, or until `read` gives None."""
    rows: list[Row] = []
    size = 0
    enough, long_enough = share * _ROWS_AT_ONCE, share * _CHARACTERS_AT_ONCE
    while len(rows) < enough and size < long_enough and (row := read()) is not None:
        rows.append(row)
        size += len(row["text"] or "")
    return rows


def sequences_of(rows: Sequence[Row], sequencer: Sequencer) -> Columns:
    return sequencer({role: [row[role] for row in rows] for role in rows[0]}) if rows else {}


def shards_of_batch(step: int, batch_size: int) -> list[int]:
    """The virtual shard of each sequence of a batch.

    With g the greatest common divisor of batch size and shards, each g-th of the batch takes turns
    on a g-th of the shards. So every shard gives the same number of sequences, give or take one,
    and a process with an n-th of the batch touches an n-th of the shards where n divides both.
    """
    groups = gcd(batch_size, VIRTUAL_SHARDS)
    share, width = batch_size // groups, VIRTUAL_SHARDS // groups
    return [index // share * width + (step * share + index % share) % width for index in range(batch_size)]


def shards_of_process(batch_size: int, process: int, processes: int) -> list[int]:
    """The virtual shards that a process's slice of any batch takes, in order."""
    groups = gcd(batch_size, VIRTUAL_SHARDS)
    share, width = batch_size // groups, VIRTUAL_SHARDS // groups
    first, stop = process * batch_size // processes, (process + 1) * batch_size // processes
    return list(range(first // share * width, (-(-stop // share)) * width)) if stop > first else []


class Reader:
    """Reads one part of a source again and again, and deals its rows out among its lanes.

    In epoch e it reads the part that comes e later, so that every shard meets all of the text. `starts` are the places
    where the present chunks of this process's lanes begin; `mark` is a place before all of these, and the state of the
    rows there.
    """

    def __init__(self, rows: Any, *, part: int, parts: int, starts: dict[int, Place], mark: Mark) -> None:
        self._source, self._part, self._parts = rows, part, parts
        self.starts = starts
        self._queues: dict[int, deque[tuple[Place, Row | None]]] = {shard: deque() for shard in starts}
        self._marks = deque([mark])
        self._epoch, self._row, state = mark
        self._open(state)

    def _open(self, state: Any) -> None:
        self._stream = self._source.shard(self._parts, (self._part + self._epoch) % self._parts)
        if state is not None:
            self._stream.load_state_dict(state)
        self._rows = read_on(self._stream, "text.sources")

    def next_row(self, shard: int) -> tuple[Place, Row | None]:
        """The next row of a virtual shard and its place; None for the row at the end of an epoch."""
        queue = self._queues[shard]
        while not queue:
            self._advance()
        return queue.popleft()

    def _advance(self) -> None:
        place, row = (self._epoch, self._row), next(self._rows, None)
        takers = self._queues if row is None else (self._shard_of(*place),)
        for shard in takers:
            if shard in self._queues and place >= self.starts[shard]:
                self._queues[shard].append((place, row))
        if row is None:
            self._epoch, self._row = self._epoch + 1, 0
            self._open(None)
            self._add_mark(None)
            return
        self._row += 1
        if self._row % _MARK_EVERY == 0:
            self._add_mark(self._stream.state_dict())

    def _shard_of(self, epoch: int, row: int) -> int:
        """Rows are dealt by their number's multiple of the golden ratio, so that no pattern of the text is in step."""
        sharing = VIRTUAL_SHARDS // self._parts
        return self._part * sharing + (((row + epoch) * _GOLDEN % (1 << 64)) * sharing >> 64)

    def _add_mark(self, state: Any) -> None:
        self._marks.append((self._epoch, self._row, state))
        self._drop_marks()

    def _drop_marks(self) -> None:
        slowest = min(self.starts.values())
        while len(self._marks) > 1 and tuple(self._marks[1][:2]) <= slowest:
            self._marks.popleft()

    def mark(self) -> Mark:
        """The last place known that no lane's present chunk begins before, and the state there."""
        self._drop_marks()
        return self._marks[0]


class Lane:
    """One virtual shard's part of one source: its training sequences, without end.

    Of the chunk at the lane's start, `taken` sequences were taken before.
    """

    def __init__(
        self, reader: Reader, source: StreamSource, shard: int, held_out_keys: frozenset[int], *, taken: int
    ) -> None:
        self._reader, self._source, self._shard, self._held_out_keys = reader, source, shard, held_out_keys
        self._next: Place = reader.starts[shard]
        self._found_in = self._next[0]
        self._pending: list[tuple[int, Example]] = []
        self._taken = 0
        if taken:
            self._load()
            self._taken = taken

    def _read(self) -> Row | None:
        (epoch, row), content = self._reader.next_row(self._shard)
        self._next = (epoch, row + 1) if content is not None else (epoch + 1, 0)
        return content

    def _load(self) -> None:
        self._reader.starts[self._shard] = self._next
        # The first chunks differ in size, so that later the shards do not all tokenize in the same step.
        share = (self._shard + 1) / VIRTUAL_SHARDS if self._next == (0, 0) else 1.0
        columns = sequences_of(read_chunk(self._read, share), self._source.sequencer)
        self._pending = list(zip(columns["key"], examples_from(columns), strict=True)) if columns else []
        self._taken = 0

    def next_example(self) -> Example:
        """The next sequence that is not held out."""
        while True:
            while self._taken < len(self._pending):
                key, example = self._pending[self._taken]
                self._taken += 1
                if key not in self._held_out_keys:
                    self._found_in = self._next[0]
                    return example
            # By then every row of the source has come to this lane.
            if self._next[0] - self._found_in > 4 * VIRTUAL_SHARDS:
                raise TextError("holds no text for training", where=self._source.name, hint="leave this source out")
            self._load()

    def place(self) -> list[int]:
        """Epoch and row that the present chunk begins at, and how many of its sequences are taken."""
        return [*self._reader.starts[self._shard], self._taken]


@dataclass
class Shard:
    """A virtual shard: a lane of each source, and the buffer that their sequences are shuffled in."""

    number: int
    lanes: list[Lane]
    weights: list[float]
    drawn: int
    buffer: list[Example]

    def _next(self) -> Example:
        # Out of step with the other shards, so that a rare source does not come to all of them at once.
        source, _ = locate_position(self.drawn + self.number * _PHASE, self.weights)
        self.drawn += 1
        return self.lanes[source].next_example()

    def draw(self, place: int, buffer_size: int) -> Example:
        """The sequence at a place of the full buffer; the next one takes its place."""
        while len(self.buffer) < buffer_size:
            self.buffer.append(self._next())
        example = self.buffer[place]
        self.buffer[place] = self._next()
        return example

    def state_dict(self) -> ShardState:
        return {
            "drawn": self.drawn,
            "buffer": [list(vars(example).values()) for example in self.buffer],
            "places": [lane.place() for lane in self.lanes],
        }
