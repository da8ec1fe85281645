"""onnxruntime's own tools: its Transformer optimizer and its dynamic quantizer, on Optimum's plain export."""

from __future__ import annotations

from pathlib import Path

from source import Peer, Source, made_by

TOOL = "onnxruntime"
LEVELS = (0, 1, 99)
FLOAT = 1  # onnx.TensorProto.FLOAT


def peers(source: Source) -> list[Peer]:
    """The optimizer at three of onnxruntime's levels, and int8 of its graphs and of the plain one."""
    made = [optimized(source, level) for level in LEVELS]
    made.append(optimized(source, 0, attention=False))
    for base in ("optimum", *(peer.name for peer in made)):
        made += [quantized(source, base, per_channel=per_channel) for per_channel in (False, True)]
    return made


def optimized(source: Source, level: int, *, attention: bool = True) -> Peer:
    """`onnxruntime.transformers.optimizer`; `level` is that of onnxruntime's own optimisation before its fusions.

    Without `attention` it stays apart in its matrix products, for the quantizer to find.
    """

    def make(folder: Path) -> Path:
        from onnxruntime.transformers import optimizer
        from onnxruntime.transformers.fusion_options import FusionOptions

        options = FusionOptions("bert")
        options.enable_attention = attention
        model = optimizer.optimize_model(
            str(made_by(source, "optimum")),
            model_type="bert",
            num_heads=source.config["num_attention_heads"],
            hidden_size=source.config["hidden_size"],
            opt_level=level,
            optimization_options=options,
        )
        model.save_model_to_file(str(folder / "model.onnx"))
        return folder / "model.onnx"

    name = f"ort-{level}" if attention else f"ort-{level}-apart"
    settings = {"from": "optimum", "model_type": "bert", "opt_level": level, "enable_attention": attention}
    return Peer(name, TOOL, make, settings)


def quantized(source: Source, base: str, *, per_channel: bool) -> Peer:
    """`quantize_dynamic` to signed weights over their whole range."""
    # Of a fused node's answer the quantizer does not know the type, and fails unless it is told (as it says itself).
    extra_options = {} if base == "optimum" else {"DefaultTensorType": FLOAT}

    def make(folder: Path) -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            made_by(source, base),
            folder / "model.onnx",
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=False,
            extra_options=extra_options,
        )
        return folder / "model.onnx"

    name = f"{'ort-plain' if base == 'optimum' else base}-int8-{'channel' if per_channel else 'tensor'}"
    settings = {"from": base, "weight_type": "QInt8", "per_channel": per_channel, "reduce_range": False} | extra_options
    return Peer(name, TOOL, make, settings)
