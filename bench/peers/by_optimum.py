"""Optimum's ONNX export, its optimisation levels, and its quantizer: dynamic and static int8."""

from __future__ import annotations

from pathlib import Path

from source import Peer, Source, made_by

TOOL = "optimum"
LEVELS = ("O1", "O2", "O3")


def peers(source: Source) -> list[Peer]:
    """The plain export first: most other peers start from its file."""
    made = [
        Peer("optimum", TOOL, lambda folder: export(source, folder, "transformers"), {"library": "transformers"}),
        Peer(
            "optimum-sentence",
            TOOL,
            lambda folder: export(source, folder, "sentence_transformers"),
            {"library": "sentence_transformers"},
        ),
    ]
    made += [level(source, name) for name in LEVELS]
    for base in ("optimum", *(f"optimum-{name}" for name in LEVELS)):
        for target in ("avx512_vnni", "avx2"):
            made += [dynamic(source, base, target, per_channel=per_channel) for per_channel in (False, True)]
    for target in ("avx512_vnni", "avx2"):
        made += [static(source, target, operators) for operators in (None, ("MatMul", "Gather"))]
    return made


def export(source: Source, folder: Path, library: str) -> Path:
    """`optimum-cli export onnx`; by `sentence_transformers` with pooling and normalisation in the graph."""
    from optimum.exporters.onnx import main_export

    main_export(str(source.folder), folder, task="feature-extraction", library_name=library, device="cpu")
    return folder / "model.onnx"


def level(source: Source, name: str) -> Peer:
    """One of ORTOptimizer's levels: O1 basic, O2 with the Transformer's fusions, O3 with approximated GELU."""

    def make(folder: Path) -> Path:
        from optimum.onnxruntime import ORTOptimizer
        from optimum.onnxruntime.configuration import AutoOptimizationConfig

        optimizer = ORTOptimizer.from_pretrained(made_by(source, "optimum").parent)
        optimizer.optimize(getattr(AutoOptimizationConfig, name)(), folder, file_suffix=None)
        return folder / "model.onnx"

    return Peer(f"optimum-{name}", TOOL, make, {"from": "optimum", "level": name})


def dynamic(source: Source, base: str, target: str, *, per_channel: bool) -> Peer:
    """ORTQuantizer's dynamic int8 of an earlier peer's graph, as AutoQuantizationConfig has it for a processor."""

    def make(folder: Path) -> Path:
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        quantizer = ORTQuantizer.from_pretrained(made_by(source, base).parent, file_name="model.onnx")
        config = getattr(AutoQuantizationConfig, target)(is_static=False, per_channel=per_channel)
        quantizer.quantize(config, folder, file_suffix=None)
        return folder / "model.onnx"

    name = f"{base}-{target}-{'channel' if per_channel else 'tensor'}"
    return Peer(name, TOOL, make, {"from": base, "target": target, "is_static": False, "per_channel": per_channel})


def static(source: Source, target: str, operators: tuple[str, ...] | None) -> Peer:
    """ORTQuantizer's static int8, calibrated by least and greatest values.

    By default it quantizes the input of Softmax, too, whose range then knows nothing of masked positions: padding
    gets attention. `operators` names others than the default ones.
    """

    def make(folder: Path) -> Path:
        from datasets import Dataset
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

        base = made_by(source, "optimum")
        rows = [{name: values[0] for name, values in batch.items()} for batch in source.calibration()]
        dataset = Dataset.from_list(rows)
        quantizer = ORTQuantizer.from_pretrained(base.parent, file_name=base.name)
        chosen = list(operators) if operators else None
        config = getattr(AutoQuantizationConfig, target)(is_static=True, operators_to_quantize=chosen)
        ranges = quantizer.fit(
            dataset,
            AutoCalibrationConfig.minmax(dataset),
            onnx_augmented_model_name=str(folder / "augmented.onnx"),
            operators_to_quantize=config.operators_to_quantize,
        )
        quantizer.quantize(config, folder, file_suffix=None, calibration_tensors_range=ranges)
        (folder / "augmented.onnx").unlink()
        return folder / "model.onnx"

    settings = {"from": "optimum", "target": target, "is_static": True, "per_channel": True, "calibration": "minmax"}
    if operators is None:
        return Peer(f"optimum-{target}-static", TOOL, make, settings)
    return Peer(f"optimum-{target}-static-matmul", TOOL, make, settings | {"operators": list(operators)})
