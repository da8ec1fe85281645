"""Dynamic int8: weights stored in 8 bits, activations quantized as they come.

Weights of matrix products are signed, with one scale for each output column; unsigned ones ran no faster than fp32.
Embedding tables are stored in 8 bits with one scale, and only the rows looked up are turned back into fp32.
"""

from __future__ import annotations

import logging
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

DESCRIPTION = "dynamic int8: signed weights per output column, uint8 activations per tensor, uint8 embedding tables"


def quantize_int8(source: Path, target: Path) -> None:
    """Write the int8 form of an fp32 ONNX file.

    Args:
        source: an fp32 graph, portable or fused, weights inside.
        target: the file to write.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing that the graph has been through already
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        root.setLevel(level)
