"""OpenVINO's file beside the ONNX file of the same package, as `export --runtime` makes and times them.

    python bench/runtimes.py NAME=MODEL [NAME=MODEL ...] --text TEXTS.txt

Each model is exported for each workload on one thread, both files chosen for it and timed in turns; cosines are to
torch's answers. The ratio says how many times faster the model is in OpenVINO. A cell is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.workflow.export import export

RESULTS = Path(__file__).parent / "results/runtimes.json"
WORKLOADS = ((1, 16), (1, 128), (1, 256), (8, 128))  # MiniLM's longest text is of 256 tokens


def measure(name: str, model: str, texts: Path, batch_size: int, length: int) -> dict[str, Any]:
    """One cell's figures."""
    with TemporaryDirectory() as folder:
        details = export(
            model,
            output=Path(folder, "package"),
            runtime="openvino",
            text=texts,
            threads=1,
            batch_size=batch_size,
            length=length,
        ).details
    beside = details.openvino
    assert beside is not None
    assert beside.latency_p50_ms is not None
    assert beside.onnx_latency_p50_ms is not None
    return {
        "model": name,
        "cell": f"{batch_size} x {length}",
        "onnx": details.candidate,
        "onnx_ms": round(beside.onnx_latency_p50_ms, 3),
        "onnx_cosine": round(details.parity.mean_cosine, 5),
        "openvino": beside.candidate,
        "openvino_ms": round(beside.latency_p50_ms, 3),
        "openvino_cosine": round(beside.parity.mean_cosine, 5),
        "ratio": round(beside.onnx_latency_p50_ms / beside.latency_p50_ms, 3),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """A line for each cell, in Markdown."""
    lines = [
        "| Model | tokens | ONNX file | | cosine | OpenVINO's file | | cosine | in OpenVINO |",
        "|---|---:|---|---:|---:|---|---:|---:|---:|",
    ]
    for cell in cells:
        figures = [
            f"{cell['model']} | {cell['cell']}",
            *(
                f"{cell[runtime]} | {cell[f'{runtime}_ms']:.2f} ms | {cell[f'{runtime}_cosine']:.4f}"
                for runtime in ("onnx", "openvino")
            ),
            f"{cell['ratio']:.2f} times as fast",
        ]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = json.loads(arguments.output.read_text(encoding="utf-8"))["cells"] if arguments.output.is_file() else []
    for given in arguments.models:
        name, _, model = given.partition("=")
        for batch_size, length in WORKLOADS:
            if any((cell["model"], cell["cell"]) == (name, f"{batch_size} x {length}") for cell in kept):
                continue
            kept.append(measure(name, model, arguments.text, batch_size, length))
            result = {"host": vars(describe_host()), "versions": library_versions(), "cells": kept}
            write_text(arguments.output, to_json(result))
            print(kept[-1], flush=True)
    print(table(kept))


if __name__ == "__main__":
    main()
