"""Rows of parquet files, a few at a time: of columns that hold text, figures, or lists of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from homoexport import packaged
from homoexport.errors import TextError, refusing
from homoexport.text.lines import longest_text, too_long

_ROWS_AT_ONCE = 200  # each may be as long as the limit allows


def columns_in(stream: BinaryIO) -> dict[str, bool]:
    """Names of a file's columns, and whether each can be read."""
    return {field.name: _is_readable(field.type) for field in _opened(stream).schema_arrow}


def rows_in(path: str) -> int:
    """How many rows a file has, as its footer says."""
    with refusing(TextError, "cannot be read", where=path, hint="copy or write it again"):
        return int(pyarrow.parquet.read_metadata(path).num_rows)


def parquet_rows(stream: BinaryIO, wanted: Sequence[str], *, size: int, where: str) -> Iterator[dict[str, Any]]:
    """The rows of some columns of a file of `size` bytes; TextError where one holds what cannot be read."""
    footer = _opened(stream)
    for field in map(footer.schema_arrow.field, wanted):
        if not _is_readable(field.type):
            what = f"its column '{field.name}' holds {_item(field.type)}, which is no text"
            raise TextError(what, where=where, hint="write it as strings, or name another column")
    # Texts that repeat stay in the dictionary that the file has of them until it is known how long they are.
    leaves = [leaf for leaf in footer.schema if leaf.path.split(".")[0] in wanted]
    table = _opened(stream, read_dictionary=[leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"])
    # The columns' own metadata is not looked at: pyarrow ends the process where it is damaged.
    groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
    packaged.check_expansion(sum(group.total_byte_size for group in groups), size, where)
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
        for column in batch.columns:
            if _longest(column) > longest_text():
                raise too_long(where)
        yield from batch.to_pylist()


def _opened(stream: BinaryIO, **how: Any) -> pyarrow.parquet.ParquetFile:
    stream.seek(0)
    return pyarrow.parquet.ParquetFile(stream, pre_buffer=False, **how)


def _item(kind: pyarrow.DataType) -> pyarrow.DataType:
    """What a column's cells are, or the items of its lists."""
    kinds = pyarrow.types
    is_list = kinds.is_list(kind) or kinds.is_large_list(kind)
    if not is_list and kinds.is_fixed_size_list(kind):  # as vectors may be
        is_list = kinds.is_primitive(kind.value_type)
    item = kind.value_type if is_list else kind
    return item.value_type if kinds.is_dictionary(item) else item


def _is_readable(kind: pyarrow.DataType) -> bool:
    """Whether a column holds text, figures, or lists of one of them."""
    item, kinds = _item(kind), pyarrow.types
    return _is_text(item) or bool(kinds.is_primitive(item) or kinds.is_null(item))


def _is_text(kind: pyarrow.DataType) -> bool:
    kinds = pyarrow.types
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _longest(column: pyarrow.Array) -> int:
    """Bytes of a column's longest text; of lists of texts, those of the longest list."""
    kinds, compute = pyarrow.types, pyarrow.compute
    is_list = kinds.is_list(column.type) or kinds.is_large_list(column.type)
    texts = column.flatten() if is_list else column
    if kinds.is_dictionary(texts.type):
        lengths = compute.binary_length(texts.dictionary)
        lengths = lengths.take(texts.indices) if is_list else lengths
    elif _is_text(texts.type):
        lengths = compute.binary_length(texts)
    else:
        return 0
    if is_list:
        rows = pyarrow.table({"row": compute.list_parent_indices(column), "length": lengths}).group_by("row")
        lengths = rows.aggregate([("length", "sum")])["length_sum"]
    return compute.max(lengths).as_py() or 0
