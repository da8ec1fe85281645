"""How often a text has each token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from homoexport.text.corpus import Corpus, MapCorpus

_ROWS_AT_ONCE = 10_000
_OF_A_STREAM = 200_000  # sequences: the end of one may never come


def count_tokens(corpus: Corpus, size: int) -> NDArray[np.int64]:
    """Times that the training sequences have each id, [size]; of a stream those of its beginning."""
    counts = np.zeros(size, np.int64)
    for ids in _of_files(corpus) if isinstance(corpus, MapCorpus) else _of_stream(corpus):
        counts += np.bincount(ids, minlength=size)
    return counts


def _of_files(corpus: MapCorpus) -> Iterator[NDArray[np.int64]]:
    rows = np.unique(np.concatenate(corpus.parts))
    columns = [name for name in ("input_ids", "pair_ids") if name in corpus.sequences.column_names]
    for table in corpus.sequences.select(rows).select_columns(columns).with_format("arrow").iter(_ROWS_AT_ONCE):
        for column in table.columns:
            yield column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.int64)


def _of_stream(corpus: Corpus) -> Iterator[NDArray[np.int64]]:
    state, sequences = corpus.state_dict(), min(corpus.size or _OF_A_STREAM, _OF_A_STREAM)
    for step in range(max(1, sequences // _ROWS_AT_ONCE)):
        examples = corpus.batch(step, min(sequences, _ROWS_AT_ONCE))
        yield np.concatenate([np.array(example.input_ids + (example.pair_ids or [])) for example in examples])
    corpus.load_state_dict(state)
