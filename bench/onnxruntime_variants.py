"""What a package's int8 ONNX file would gain by other operators and by a second thread, in turns in one run.

    python bench/onnxruntime_variants.py PACKAGE FP32_PACKAGE --texts FILE

PACKAGE holds an int8 graph, FP32_PACKAGE the same model with `--quantize none`. Variants of the first: Gelu by tanh
(FastGelu) in place of erf. Of the second: weights in blocks of 8 bits (MatMulNBits, accuracy level 4), whose inputs are
quantized by block. Each with one thread and with two; cosines are of sentence vectors to those of the fp32 file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import Package, load_tokenizer, open_file, read_package
from homoexport.stages.measure.measurement import time_files

OUTPUT = Path(__file__).parent / "results" / "onnxruntime_variants.json"
SHIPPED = "shipped"
CELLS = ((1, 16), (1, 64), (1, 128), (1, 384), (8, 128))  # batch, length
BLOCKS = (32, 128)  # weights of one scale
TEXTS = 64


def with_tanh_gelu(source: Path, target: Path) -> None:
    """The graph with every Gelu by tanh."""
    model = onnx.load(source)
    found = [node for node in model.graph.node if node.op_type == "Gelu"]
    assert found
    for node in found:
        node.op_type, node.domain = "FastGelu", "com.microsoft"
        del node.attribute[:]
    onnx.save(model, target)


def in_blocks(source: Path, target: Path, block: int) -> None:
    """The fp32 graph with the weights of its products in 8 bits, one scale a block."""
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=8, block_size=block, accuracy_level=4)
    quantizer.process()
    onnx.save(quantizer.model.model, target)


def vectors(file: Path, like: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Of texts by a file, [N, D]; `like` is the package whose tokenizer and output it has."""
    details = read_package(like)
    package = Package(details, open_file(file, "onnxruntime", threads=1), load_tokenizer(details))
    found: NDArray[np.float32] = np.concatenate([package.embed([text]) for text in texts])
    return found


def table(result: Mapping[str, Any]) -> str:
    """Milliseconds of the shipped file, and how many times as fast the variants are, in Markdown."""
    cells, cosines = result["cells"], result["cosines"]
    variants = [name for name in cosines if name != SHIPPED]
    lines = [
        f"| tokens | shipped | {' | '.join(variants)} | shipped with 2 threads |",
        f"|---|{'---:|' * (len(variants) + 2)}",
    ]
    for cell, times in cells.items():
        shipped = times["1"][SHIPPED]
        ratios = [f"{shipped / times['1'][name]:.2f}" for name in variants]
        lines.append(f"| {cell} | {shipped:.2f} ms | {' | '.join(ratios)} | {shipped / times['2'][SHIPPED]:.2f} |")
    lines.append(f"| cosine | {' | '.join(f'{cosines[name]:.4f}' for name in (SHIPPED, *variants))} | |")
    return "\n".join(lines)


def main() -> None:
    """Make the variants, measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("fp32_package", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="real text, a line each: the last 64 for cosines")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    shipped, fp32 = read_package(given.package), read_package(given.fp32_package)
    texts = given.texts.read_text().splitlines()[-TEXTS:]
    with tempfile.TemporaryDirectory() as scratch:
        files = {SHIPPED: shipped.model, "tanh Gelu": Path(scratch) / "tanh.onnx"}
        with_tanh_gelu(shipped.model, files["tanh Gelu"])
        for block in BLOCKS:
            file = files[f"8-bit blocks of {block}"] = Path(scratch) / f"blocks-{block}.onnx"
            in_blocks(fp32.model, file, block)
        expected = vectors(fp32.model, given.fp32_package, texts)
        cosines = {
            name: float((vectors(file, given.package, texts) * expected).sum(axis=1).mean())
            for name, file in files.items()
        }
        cells: dict[str, dict[str, dict[str, float]]] = {}
        for batch_size, length in CELLS:
            for threads in (1, 2):
                figures = time_files(
                    list(files.values()),
                    vocab_size=shipped.vocab_size,
                    outputs=(shipped.output,),
                    threads=threads,
                    batch_size=batch_size,
                    length=length,
                    min_seconds=given.seconds,
                )
                medians = {
                    name: one.latency_ms[50] for name, one in zip(files, figures, strict=True) if one is not None
                }
                cells.setdefault(f"{batch_size} x {length}", {})[str(threads)] = medians
                print(f"{batch_size} x {length}, threads {threads}: {medians}", flush=True)
    result = {"host": vars(describe_host()), "versions": library_versions(), "cosines": cosines, "cells": cells}
    write_text(given.output, to_json(result))
    print(table(result))


if __name__ == "__main__":
    main()
