"""Which onnxruntime a graph needs at the least."""

from __future__ import annotations

import onnx_ir as ir

from homoexport.stages.export.attention import MICROSOFT

# Version by version, forms and schemes were run on onnxruntime and onnxruntime-web; `make loaders` runs them again.
_Version = tuple[int, ...]
_IR_VERSION_10: _Version = (1, 18)  # what the files are written in
_OPSETS: dict[int, _Version] = {22: (1, 21), 23: (1, 23), 24: (1, 24)}
# Refused before 1.20; until 1.21.0 all texts but a batch's first have wrong answers.
_MASKS_OF_ONE_HEAD: _Version = (1, 21, 1)
_TABLES_OF_BYTES: _Version = (1, 23)
_QUANTIZE_LINEAR_23: _Version = (1, 24)
_MASK_INPUT = 5  # of MultiHeadAttention


def oldest_onnxruntime(model: ir.Model) -> str:
    """The first release of onnxruntime that runs a graph, and rightly; it may name a patch, as in 1.21.1."""
    opset = model.opset_imports[""]
    needed = [_IR_VERSION_10, *(version for first, version in _OPSETS.items() if opset >= first)]
    for node in model.graph:
        if node.domain == MICROSOFT and node.op_type == "MultiHeadAttention":
            masked = len(node.inputs) > _MASK_INPUT and node.inputs[_MASK_INPUT] is not None
            needed += [_MASKS_OF_ONE_HEAD] * masked
        elif node.domain == MICROSOFT and node.op_type == "GatherBlockQuantized":
            needed += [_TABLES_OF_BYTES] * ("bits" in node.attributes)
        elif node.op_type == "QuantizeLinear":
            needed += [_QUANTIZE_LINEAR_23] * (opset >= 23)
    return ".".join(map(str, max(needed)))
