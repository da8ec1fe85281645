"""Olive: its `optimize` and `auto-opt` commands from the torch model, and its passes on Optimum's plain export."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from source import Peer, Source, made_by

TOOL = "olive"
CPU = {"device": "cpu", "provider": "CPUExecutionProvider"}
FLOAT = 1  # onnx.TensorProto.FLOAT


def peers(source: Source) -> list[Peer]:
    """What the commands do by themselves for a CPU, and the passes by which Olive's documents reach int8."""
    config = source.config
    fused = {
        "type": "OrtTransformersOptimization",
        "model_type": "bert",
        "num_heads": config["num_attention_heads"],
        "hidden_size": config["hidden_size"],
    }
    made = [
        command(source, "olive-optimize", "optimize", {"precision": "fp32"}),
        command(source, "olive-optimize-torchscript", "optimize", exported("torchscript_exporter", "fp32")),
        command(source, "olive-optimize-dynamo", "optimize", exported("dynamo_exporter", "fp32")),
        command(source, "olive-optimize-int8", "optimize", exported("torchscript_exporter", "int8")),
        command(source, "olive-auto-opt", "auto-opt", {"precision": "fp32", "task": "feature-extraction"}),
        command(source, "olive-auto-opt-int8", "auto-opt", {"precision": "int8", "task": "feature-extraction"}),
        passes(source, "olive-fused", [fused]),
    ]
    made.append(static(source))
    for per_channel in (False, True):
        suffix = "channel" if per_channel else "tensor"
        int8 = {"type": "OnnxDynamicQuantization", "precision": "int8", "per_channel": per_channel}
        made += [
            passes(source, f"olive-int8-{suffix}", [int8]),
            passes(
                source, f"olive-fused-int8-{suffix}", [fused, int8 | {"extra_options": {"DefaultTensorType": FLOAT}}]
            ),
        ]
    return made


def exported(exporter: str, precision: str) -> dict[str, str]:
    """Options of `olive optimize` by which it exports an encoder at all: its default is for language models."""
    return {"precision": precision, "exporter": exporter, "task": "feature-extraction"}


def command(source: Source, name: str, verb: str, options: dict[str, str]) -> Peer:
    """One of Olive's commands, from the torch model."""

    def make(folder: Path) -> Path:
        words = [word for key, value in (CPU | options).items() for word in (f"--{key}", value)]
        return run_olive([verb, "--model_name_or_path", str(source.folder), *words], folder)

    return Peer(name, TOOL, make, {"from": "torch", "command": verb} | options)


def passes(source: Source, name: str, chosen: list[dict[str, Any]]) -> Peer:
    """`olive run` with passes one after the other, from Optimum's plain export."""

    def make(folder: Path) -> Path:
        return run_passes(source, chosen, folder)

    return Peer(name, TOOL, make, {"from": "optimum", "passes": chosen})


def static(source: Source) -> Peer:
    """Olive's static int8, on our calibration texts in place of Wikipedia from the network.

    As with Optimum's, Softmax must stay in float.
    """
    int8 = {
        "type": "OnnxStaticQuantization",
        "precision": "int8",
        "activation_type": "uint8",
        "per_channel": True,
        "op_types_to_quantize": ["MatMul", "Gather"],
    }

    def make(folder: Path) -> Path:
        from olive.data.registry import Registry

        @Registry.register_dataset()
        def our_texts(**_options: Any) -> list[tuple[dict[str, Any], int]]:
            """Inputs [S] and a label, which Olive expects of each text."""
            rows = source.calibration()
            return [({name: values[0] for name, values in batch.items()}, 0) for batch in rows]

        data = {
            "name": "texts",
            "type": "DataContainer",
            "load_dataset_config": {"type": "our_texts"},
            "pre_process_data_config": {"type": "skip_pre_process"},
            "dataloader_config": {"type": "default_dataloader", "batch_size": 1},
        }
        return run_passes(source, [int8 | {"data_config": data}], folder)

    return Peer("olive-static-matmul", TOOL, make, {"from": "optimum", "passes": [int8], "texts": len(source.texts)})


def run_passes(source: Source, chosen: list[dict[str, Any]], folder: Path) -> Path:
    """`olive run` from Optimum's plain export."""
    here = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": [CPU["provider"]]}]}
    config = {
        "input_model": {"type": "ONNXModel", "model_path": str(made_by(source, "optimum"))},
        "systems": {"here": here},
        "host": "here",
        "target": "here",
        "passes": {f"pass_{number}": each for number, each in enumerate(chosen)},
        "no_artifacts": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return run_olive(["run", "--config", str(folder / "config.json")], folder)


class LastError(logging.Handler):
    """Keeps the last failure that Olive logs: it goes on after one, and then has no model to show."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.error: BaseException | str = "Olive made no model and logged no error"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the exception, else the message."""
        self.error = (record.exc_info and record.exc_info[1]) or record.getMessage()


def run_olive(words: list[str], folder: Path) -> Path:
    """Olive's command line, called in this process; the model that it leaves.

    Raises:
        RuntimeError: it left none; with what it logged.
    """
    from olive.cli.launcher import main

    last = LastError()
    logging.getLogger("olive").addHandler(last)
    main([*words, "--output_path", str(folder / "model")])
    models = list((folder / "model").rglob("*.onnx"))
    if len(models) != 1:
        error = last.error
        raise RuntimeError(f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error)
    return models[0]
