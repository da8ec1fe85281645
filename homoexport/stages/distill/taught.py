"""What the teacher says and shows of each text, in a file that is read in place of asking it again.

The file belongs to one process, or to those of one machine, and ends with them: it has no name once all of them have
opened it, so that a killed run leaves nothing. Texts are known by their rows in the corpus.

Letters: B batch, S sequence, D hidden size, C classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from homoexport.text.corpus import MapCorpus


@dataclass(frozen=True)
class Shown:
    """What the teacher said and showed of a micro-batch.

    `answer` are unit vectors [B, D], logits [B, C], or logits of tokens [B, S, C]. `embedding` and the `states` of some
    layers are [B, S, D], the mean `scores` of some layers' attention [B, S, S]. Padding has zeros, or what came of it.
    """

    answer: Tensor
    embedding: Tensor | None
    states: dict[int, Tensor]
    scores: dict[int, Tensor]

    @property
    def parts(self) -> list[Tensor]:
        """All of it, in one order."""
        return [self.answer, *self.scores.values(), *self._of_stream]

    @property
    def _of_stream(self) -> list[Tensor]:
        return [*([] if self.embedding is None else [self.embedding]), *self.states.values()]

    def with_parts(self, parts: Sequence[Tensor]) -> Shown:
        """Others in the places of these."""
        answer, *rest = parts
        scores, stream = rest[: len(self.scores)], rest[len(self.scores) :]
        embedding = stream.pop(0) if self.embedding is not None else None
        return Shown(
            answer, embedding, dict(zip(self.states, stream, strict=True)), dict(zip(self.scores, scores, strict=True))
        )


def _size_of(part: Tensor, length: int) -> list[int]:
    """Of one text's part; all axes but the first and a last one that is no token's are its tokens'."""
    return [length if axis == 1 and part.dim() == 3 else size for axis, size in enumerate(part.shape)][1:]


class TaughtTexts:
    """What the teacher shows of the training texts of a corpus, a text after the other in a file.

    `like` is what it showed of any micro-batch: what there is of each text follows from it. Texts that were not written
    must not be read.
    """

    def __init__(self, corpus: MapCorpus, like: Shown) -> None:
        self.corpus, self._like = corpus, like.with_parts([part[:0] for part in like.parts])
        self._squares = set(range(1, 1 + len(like.scores)))
        self.lengths: NDArray[np.int64] = corpus.lengths
        self.rows: NDArray[np.int64] = np.sort(np.concatenate(corpus.parts))
        sizes = np.array([self._bytes_of(length) for length in range(int(self.lengths.max()) + 1)], dtype=np.int64)
        ends = np.cumsum(sizes[self.lengths[self.rows]])
        self._starts = np.full(len(self.lengths), -1, dtype=np.int64)
        self._starts[self.rows] = np.concatenate([[0], ends[:-1]])
        self.bytes = int(ends[-1])
        self._file: BinaryIO | None = None

    def keep_in(self, file: BinaryIO) -> None:
        """Write and read there from now on; the file is open for both."""
        self._file = file

    def _shapes(self, length: int) -> list[list[int]]:
        return [
            [length, length] if place in self._squares else _size_of(part, length)
            for place, part in enumerate(self._like.parts)
        ]

    def _bytes_of(self, length: int) -> int:
        shapes = zip(self._like.parts, self._shapes(length), strict=True)
        return sum(part.element_size() * math.prod(shape) for part, shape in shapes)

    def write(self, rows: Sequence[int], shown: Shown) -> None:
        """Keep what was shown of the texts in these rows, a row of the micro-batch each."""
        assert self._file is not None
        for place, row in enumerate(rows):
            shapes = self._shapes(int(self.lengths[row]))
            parts = [
                part[place][tuple(slice(size) for size in shape)].contiguous().cpu()
                for part, shape in zip(shown.parts, shapes, strict=True)
            ]
            content = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)
            start = int(self._starts[row])
            while content:
                written = os.pwrite(self._file.fileno(), content, start)
                content, start = content[written:], start + written

    def read(self, rows: Sequence[int], width: int) -> Shown:
        """What was shown of the texts in these rows, padded to a width."""
        assert self._file is not None
        padded = [
            part.new_zeros([len(rows), *shape])
            for part, shape in zip(self._like.parts, self._shapes(width), strict=True)
        ]
        for place, row in enumerate(rows):
            shapes = self._shapes(int(self.lengths[row]))
            content = bytearray(self._bytes_of(int(self.lengths[row])))
            if os.preadv(self._file.fileno(), [content], int(self._starts[row])) != len(content):
                raise OSError("what the teacher showed is cut short")
            start = 0
            for part, shape in zip(padded, shapes, strict=True):
                count = math.prod(shape)
                cells = torch.frombuffer(content, dtype=part.dtype, count=count, offset=start)
                part[place][tuple(slice(size) for size in shape)] = cells.view(shape)
                start += count * part.element_size()
        return self._like.with_parts(padded)
