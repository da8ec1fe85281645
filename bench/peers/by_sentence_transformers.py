"""sentence-transformers' exporters, on a model that it loaded with its own ONNX or OpenVINO backend.

The backend exports the encoder alone; pooling and normalisation are Python around it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from source import Peer, Source

TOOL = "sentence-transformers"
LEVELS = ("O1", "O2", "O3")
TARGETS = ("avx512_vnni", "avx2")


def peers(source: Source) -> list[Peer]:
    """Every exporter that makes a file for a CPU. O4 is half precision, for GPUs."""
    return [
        *(optimized(source, level) for level in LEVELS),
        *(dynamic(source, target) for target in TARGETS),
        static(source),
    ]


def optimized(source: Source, level: str) -> Peer:
    """`export_optimized_onnx_model`."""

    def make(folder: Path) -> Path:
        from sentence_transformers.backend import export_optimized_onnx_model

        export_optimized_onnx_model(loaded(source, "onnx"), level, str(folder))
        return only(folder, "*.onnx")

    return Peer(f"st-{level}", TOOL, make, {"level": level})


def dynamic(source: Source, target: str) -> Peer:
    """`export_dynamic_quantized_onnx_model`."""

    def make(folder: Path) -> Path:
        from sentence_transformers.backend import export_dynamic_quantized_onnx_model

        export_dynamic_quantized_onnx_model(loaded(source, "onnx"), target, str(folder))
        return only(folder, "*.onnx")

    return Peer(f"st-{target}", TOOL, make, {"target": target})


def static(source: Source) -> Peer:
    """`export_static_quantized_openvino_model`, on our calibration texts in place of GLUE from the network."""

    def make(folder: Path) -> Path:
        from optimum.intel import OVQuantizationConfig
        from sentence_transformers.backend import export_static_quantized_openvino_model

        data = folder / "data"
        data.mkdir()
        (data / "train.txt").write_text("\n".join(source.texts), encoding="utf-8")
        export_static_quantized_openvino_model(
            loaded(source, "openvino"),
            OVQuantizationConfig(num_samples=len(source.texts)),
            str(folder),
            dataset_name=str(data),
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )
        shutil.rmtree(data)
        return only(folder, "*.xml")

    return Peer("st-openvino-int8", TOOL, make, {"num_samples": len(source.texts)})


def loaded(source: Source, backend: str) -> Any:
    """The model with a backend of sentence-transformers, exported by it there and then."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(source.folder), backend=backend, device="cpu", model_kwargs={"export": True})


def only(folder: Path, pattern: str) -> Path:
    """The one file of that kind below a folder."""
    (path,) = folder.rglob(pattern)
    return path
