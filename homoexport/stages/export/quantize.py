"""Schemes of storing a graph's numbers in fewer bits, each from an fp32 file to a smaller one.

Weights of matrix products are per output column. Ours are dynamic int8 (`dynamic`), its static form, and embedding
tables in fewer bits; for the others onnxruntime's own quantizers do the work.

D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.transformers.float16 import convert_float_to_float16

from homoexport.choices import EmbeddingPrecision, Scheme
from homoexport.errors import UserError
from homoexport.schemes import INT4_TABLE_BLOCK, SCHEMES
from homoexport.stages.export.attention import MICROSOFT
from homoexport.stages.export.dynamic import quantize_products
from homoexport.stages.export.product import gather_product
from homoexport.stages.export.quiet import quiet
from homoexport.stages.export.surgery import add_constant, array_of, put_in_place

_INT4_BLOCK = 32


def products_of(file: Path) -> list[str]:
    """Names of the nodes of an fp32 file that have a matrix to quantize: `MatMul` with a constant, in their order."""
    model = ir.load(file)
    return [str(node.name) for node in model.graph if node.op_type == "MatMul" and array_of(node.inputs[1]) is not None]


def quantize(
    source: Path,
    target: Path,
    scheme: Scheme,
    *,
    embeddings: EmbeddingPrecision,
    keep: Collection[str] = (),
    ranges: TensorsData | None = None,
) -> None:
    """Write an fp32 file in another scheme, but for the products of the names in `keep`.

    Calibrated schemes need `ranges` of the activations, from `stages.export.calibrate`.
    """
    with quiet():
        model = _WRITERS[scheme](source, target, keep, ranges)
    if SCHEMES[scheme].own_tables:
        return
    if embeddings != "fp32":
        _quantize_embeddings(model, embeddings)
    ir.save(model, target)


def _leave(source: Path, _target: Path, _keep: Collection[str], _ranges: TensorsData | None) -> ir.Model:
    return ir.load(source)


def _quantize_fp16(source: Path, target: Path, keep: Collection[str], _ranges: TensorsData | None) -> ir.Model:
    half = convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=list(keep) or None)
    onnx.save(half, target)
    return ir.load(target)


def _quantize_dynamic(
    source: Path,
    _target: Path,
    keep: Collection[str],
    _ranges: TensorsData | None,
    *,
    low: int = -127,
    high: int = 127,
) -> ir.Model:
    model = ir.load(source)
    quantize_products(model, low=low, high=high, keep=keep)
    return model


def _quantize_static(source: Path, target: Path, keep: Collection[str], ranges: TensorsData | None) -> ir.Model:
    assert ranges is not None
    model = _quantize_dynamic(source, target, keep, None)
    _pin_activations(model, ranges)
    return model


def _quantize_int4(source: Path, target: Path, keep: Collection[str], _ranges: TensorsData | None) -> ir.Model:
    # Its import makes the root logger print everything: here that is undone.
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), block_size=_INT4_BLOCK, accuracy_level=4, nodes_to_exclude=list(keep)
    )
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    return ir.load(target)


def _quantize_qdq(source: Path, target: Path, keep: Collection[str], ranges: TensorsData | None) -> ir.Model:
    assert ranges is not None
    options = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]}
    quantizer = QDQQuantizer(
        onnx.load(source), True, False, QuantType.QInt8, QuantType.QUInt8, ranges, [], list(keep), ["MatMul"], options
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(target))
    return ir.load(target)


# From an fp32 file to the graph in each scheme, by way of a file that may be written over; with names of products to
# keep in fp32, and ranges if the scheme is calibrated.
_WRITERS: dict[Scheme, Callable[[Path, Path, Collection[str], TensorsData | None], ir.Model]] = {
    "fp32": _leave,
    "int8": _quantize_dynamic,
    "int8-7-bit": partial(_quantize_dynamic, low=-64, high=64),
    "int8-unsigned": partial(_quantize_dynamic, low=0, high=255),
    "int8-static": _quantize_static,
    "int8-qdq": _quantize_qdq,
    "int4": _quantize_int4,
    "fp16": _quantize_fp16,
}


def _scale_and_zero_point(low: float, high: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    low, high = min(low, 0.0), max(high, 0.0)  # 0 must be one of the values
    scale = (high - low) / 255 or 1.0
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)


def _pin_activations(model: ir.Model, ranges: TensorsData) -> None:
    """Give a dynamic int8 graph constant scales, in place.

    Each product becomes one com.microsoft.MatMulIntegerToFloat with its bias, which is what ONNX Runtime makes of the
    dynamic form when it loads it; of constant scales it does not.
    """
    graph = model.graph
    for node in [node for node in graph if node.op_type == "DynamicQuantizeLinear"]:
        value = node.inputs[0]
        assert value is not None
        low, high = (float(np.reshape(end, -1)[0]) for end in ranges[str(value.name)].range_value)
        step, zero = _scale_and_zero_point(low, high)
        scale = add_constant(model, f"{value.name}.scale", step)
        zero_point = add_constant(model, f"{value.name}.zero_point", zero)
        quantized = ir.node("QuantizeLinear", [value, scale, zero_point])
        graph.insert_before(node, quantized)
        for product, _index in list(node.outputs[0].uses()):
            cast = _only_user(product)
            scaled = _only_user(cast)
            scales = next(part.producer() for part in scaled.inputs if part is not cast.outputs[0] and part is not None)
            assert scales is not None
            weight_scale = next(part for part in scales.inputs if part is not node.outputs[1])
            last, bias = scaled, None
            users = list(scaled.outputs[0].uses())
            if len(users) == 1 and users[0][0].op_type == "Add":
                add, position = users[0]
                if array_of(add.inputs[1 - position]) is not None:
                    last, bias = add, add.inputs[1 - position]
            inputs = [quantized.outputs[0], product.inputs[1], scale, weight_scale, zero_point, product.inputs[3], bias]
            fused = ir.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT)
            put_in_place(model, last, [fused])
    RemoveUnusedNodesPass()(model)
    model.opset_imports[MICROSOFT] = 1


def _only_user(node: ir.Node) -> ir.Node:
    ((user, _index),) = node.outputs[0].uses()
    return user


def _quantize_embeddings(model: ir.Model, bits: EmbeddingPrecision) -> None:
    """Store every embedding table [V, D] in fewer bits, in place; only the rows that are looked up become fp32 again.

    int8: one scale for each table, as products of embeddings are sensitive to directions, hardly to sizes.
    int4: words alone, two values a byte and a scale for each 128 (`com.microsoft.GatherBlockQuantized`); the few
    rows of positions and token types stay in int8.
    pq: words alone, too; see `product`.

    Raises:
        UserError: words of a width that their numbers cannot be grouped in.
    """
    tables: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        table = array_of(node.inputs[0]) if node.op_type == "Gather" and node.inputs else None
        if table is not None and table.ndim == 2 and table.dtype == np.float32 and node.inputs[0] is not None:
            tables.setdefault(node.inputs[0], []).append(node)
    words = next((value for value, nodes in tables.items() if _reads_words(nodes[0])), None)
    for value, nodes in tables.items():
        table = array_of(value)
        assert table is not None
        write = _OF_WORDS.get(bits, _gather_int8) if value is words else _gather_int8
        write(model, str(value.name), table, nodes)
    RemoveUnusedNodesPass()(model)


def _reads_words(node: ir.Node) -> bool:
    """Whether it looks up token ids, be they cast or not."""
    index = node.inputs[1]
    producer = None if index is None else index.producer()
    if producer is not None and producer.op_type == "Cast":
        index = producer.inputs[0]
    return index is not None and index.name == "input_ids"


def _gather_int8(model: ir.Model, name: str, table: NDArray[np.float32], nodes: list[ir.Node]) -> None:
    scale, zero_point = _scale_and_zero_point(float(table.min()), float(table.max()))
    stored = np.clip(np.rint(table / scale) + zero_point, 0, 255).astype(np.uint8)
    data = add_constant(model, f"{name}_quantized", stored)
    scales = [add_constant(model, f"{name}_scale", scale), add_constant(model, f"{name}_zero_point", zero_point)]
    for node in nodes:
        rows = ir.node("Gather", [data, node.inputs[1]])
        put_in_place(model, node, [rows, ir.node("DequantizeLinear", [rows.outputs[0], *scales])])


def _gather_int4(model: ir.Model, name: str, table: NDArray[np.float32], nodes: list[ir.Node]) -> None:
    if table.shape[1] % 2:
        raise UserError(f"the table is {table.shape[1]} wide, and 4 bits go in pairs", where="--embeddings int4")
    stored, scales = quantize_rows_int4(table)
    data = add_constant(model, f"{name}_int4", stored)  # as bytes, for ORT format has no type of 4 bits
    scale = add_constant(model, f"{name}_scales", scales)
    model.opset_imports[MICROSOFT] = 1
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": INT4_TABLE_BLOCK, "bits": 4}
    for node in nodes:
        rows = ir.node("GatherBlockQuantized", [data, node.inputs[1], scale], attributes=attributes, domain=MICROSOFT)
        as_fp32 = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        put_in_place(model, node, [rows, as_fp32])


_OF_WORDS: dict[EmbeddingPrecision, Callable[[ir.Model, str, NDArray[np.float32], list[ir.Node]], None]] = {
    "int4": _gather_int4,
    "pq": gather_product,
}
_CLIPS = np.linspace(0.7, 1.0, 13, dtype=np.float32)


def quantize_rows_int4(table: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """A table [V, D] of even width as 4-bit numbers, and fp16 scales [V, D / 128].

    Two numbers a byte, the first in the low half, 8 for zero [V, D / 2]. They reach from -8 to 7, so a block's scale
    has the sign that lays its largest value at -8; of 13 clippings it is the one that leaves the least squared error.
    """
    rows, width = table.shape
    blocks = -(-width // INT4_TABLE_BLOCK)
    padded = np.pad(table, ((0, 0), (0, blocks * INT4_TABLE_BLOCK - width))).reshape(rows, blocks, INT4_TABLE_BLOCK)
    largest = np.take_along_axis(padded, np.abs(padded).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    best = np.full((rows, blocks), np.inf, np.float32)
    scales = np.ones((rows, blocks), np.float16)
    for clip in _CLIPS:
        trial = (largest * clip / -8).astype(np.float16)
        trial[trial == 0] = 1
        error = ((_as_int4(padded, trial) * trial.astype(np.float32)[:, :, None] - padded) ** 2).sum(axis=2)
        better = error < best
        best[better], scales[better] = error[better], trial[better]
    halves = (_as_int4(padded, scales).reshape(rows, -1)[:, :width] + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = halves[:, 0::2] | halves[:, 1::2] << np.uint8(4)
    return packed, scales


def _as_int4(blocks: NDArray[np.float32], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    whole: NDArray[np.float32] = np.clip(np.rint(blocks / scales.astype(np.float32)[:, :, None]), -8, 7)
    return whole
