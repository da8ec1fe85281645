"""OpenVINO's own conversion, and NNCF's int8: all of a model by calibration, or its weights alone.

The float files are run twice, with an inference precision hint of f32 and of bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from source import Peer, Source, made_by

TOOL = "openvino"
FILE = "openvino_model.xml"


def peers(source: Source) -> list[Peer]:
    """From torch (through optimum-intel, which is how OpenVINO converts one), from ONNX, and NNCF's of the former."""
    return [
        Peer("openvino", TOOL, lambda folder: from_torch(source, folder), {"from": "torch"}),
        Peer("openvino-onnx", TOOL, lambda folder: from_onnx(source, folder), {"from": "optimum"}),
        Peer(
            "openvino-nncf-int8",
            "nncf",
            lambda folder: quantized(source, folder),
            {"from": "openvino", "model_type": "transformer", "preset": "mixed", "subset_size": len(source.texts)},
        ),
        Peer(
            "openvino-nncf-weights-int8",
            "nncf",
            lambda folder: compressed(source, folder),
            {"from": "openvino", "mode": "int8_asym"},
        ),
    ]


def from_torch(source: Source, folder: Path) -> Path:
    """The torch model traced, its weights in fp32."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    main_export(
        str(source.folder),
        folder,
        task="feature-extraction",
        library_name="transformers",
        ov_config=OVConfig(dtype="fp32"),
        convert_tokenizer=False,
    )
    return folder / FILE


def from_onnx(source: Source, folder: Path) -> Path:
    """Optimum's plain ONNX file, its weights in fp32."""
    import openvino

    model = openvino.convert_model(str(made_by(source, "optimum")))
    return saved(model, folder)


def quantized(source: Source, folder: Path) -> Path:
    """NNCF's post-training quantization, with what it knows of Transformers."""
    import nncf

    model = nncf.quantize(
        read(source),
        nncf.Dataset(source.calibration()),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(source.texts),
    )
    return saved(model, folder)


def compressed(source: Source, folder: Path) -> Path:
    """NNCF's weight compression; activations stay in float."""
    import nncf

    return saved(nncf.compress_weights(read(source), mode=nncf.CompressWeightsMode.INT8_ASYM), folder)


def read(source: Source) -> Any:
    """The plain OpenVINO model."""
    import openvino

    return openvino.Core().read_model(made_by(source, "openvino", FILE))


def saved(model: Any, folder: Path) -> Path:
    """A model as a file, with float weights kept as they are (the default is to halve them)."""
    import openvino

    openvino.save_model(model, folder / FILE, compress_to_fp16=False)
    return folder / FILE
