"""What an ONNX file says of its weights: the files beside it that hold some, and how many there are."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homoexport.errors import PackageError, first_line

_KEY = b"location"  # of a weight's file, which stands in the bytes of every graph that has one


def external_files(file: Path) -> set[str]:
    """Names, as they stand in the graph, of the files that hold weights of it; PackageError where it is no graph."""
    with file.open("rb") as opened:
        if not file.stat().st_size:
            return set()
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_KEY) < 0:  # quicker, and with less memory, than to read the graph
                return set()
    return {
        entry.value for tensor in _tensors(_read(file)) for entry in tensor.external_data if entry.key.encode() == _KEY
    }


def count_weights(file: Path) -> int:
    """How many numbers there are in the graph's weights, whole ones that are not quantized weights left out."""
    from onnx import TensorProto

    plain = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING}  # shapes, masks, indices
    return sum(math.prod(tensor.dims) for tensor in _tensors(_read(file)) if tensor.data_type not in plain)


def _read(file: Path) -> Any:
    import onnx

    try:
        return onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's, which share no base but this
        raise PackageError(f"is no ONNX file ({first_line(error)})", where=str(file)) from None


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a message, wherever they are: in graphs, in graphs of nodes, in functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(part)
