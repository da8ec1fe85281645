"""Tiny encoders written as ONNX graphs by hand, and packages around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from homoexport.choices import ModelTask, WeightPrecision
from homoexport.documents.artifact import write_manifest
from homoexport.documents.package import Invariance, PackageDetails, Parity, Pooling

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(59))]
OUTPUTS = {
    "sentence-similarity": ["sentence_embedding", "last_hidden_state"],
    "fill-mask": ["logits"],
    "feature-extraction": ["last_hidden_state"],
    "text-classification": ["logits"],
    "token-classification": ["logits"],
}


def weights(hidden: int = 16, layers: int = 1, vocab_size: int = 64, seed: int = 0) -> dict[str, np.ndarray]:
    """`embedding` [V, D], `layer0`... [D, D] and `head` [D, V], of which a classifier of C labels takes [D, C]."""
    rng = np.random.default_rng(seed)
    arrays = {"embedding": rng.normal(size=(vocab_size, hidden)), "head": rng.normal(size=(hidden, vocab_size))}
    arrays |= {f"layer{i}": rng.normal(size=(hidden, hidden)) / hidden**0.5 for i in range(layers)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def write_encoder(path: Path, task: str, arrays: dict[str, np.ndarray], *, repeat: int = 1) -> Path:
    """An encoder of tanh layers, gone through `repeat` times; the sentence's vector is the normalised masked mean.

    A text's class is that of its first token.
    """
    layers = sorted(name for name in arrays if name.startswith("layer")) * repeat
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["h0"])]
    for i, name in enumerate(layers):
        nodes.append(helper.make_node("MatMul", [f"h{i}", name], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"h{i + 1}"]))
    last = f"h{len(layers)}"
    if task == "text-classification":
        nodes.append(helper.make_node("Gather", [last, "first"], ["h"], axis=1))
        last = "h"
    if OUTPUTS[task] == ["logits"]:
        nodes.append(helper.make_node("MatMul", [last, "head"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["last_hidden_state"]))
    if task == "sentence-similarity":
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask2"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask2", "axis2"], ["mask"]),
            helper.make_node("Mul", [last, "mask"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "axis1"], ["sum"], keepdims=0),
            helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=-1, p=2),
        ]
    constants = {**arrays, "axis1": np.array([1]), "axis2": np.array([2]), "first": np.array(0)}
    used = {name for node in nodes for name in node.input}
    hidden, classes = arrays["head"].shape
    shapes = {
        "sentence_embedding": ["batch", hidden],
        "last_hidden_state": ["batch", "sequence", hidden],
        "logits": ["batch", classes] if task == "text-classification" else ["batch", "sequence", classes],
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in OUTPUTS[task]],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_tokenizer(folder: Path) -> None:
    """Words split at spaces, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "[MASK]"}))


def write_package(
    folder: Path,
    task: ModelTask = "sentence-similarity",
    *,
    arrays: dict[str, np.ndarray] | None = None,
    max_length: int = 32,
    repeat: int = 1,
    precision: WeightPrecision = "fp32",
    labels: Sequence[str] | None = None,
) -> Path:
    """A whole package around such an encoder."""
    arrays = weights() if arrays is None else arrays
    write_encoder(folder / "onnx" / "model.onnx", task, arrays, repeat=repeat)
    write_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    write_manifest(
        folder,
        "package",
        details=PackageDetails(
            model_file="onnx/model.onnx",
            task=task,
            precision=precision,
            scheme=precision,
            quantization=None,
            embeddings="fp32 tables",
            candidate=f"unfused-{precision}",
            kept_in_fp32=(),
            parameters=int(sum(array.size for array in arrays.values())),
            max_length=max_length,
            vocab_size=len(arrays["embedding"]),
            hidden_size=arrays["embedding"].shape[1],
            pad_token_id=0,
            input_names=("input_ids", "attention_mask"),
            output_names=tuple(OUTPUTS[task]),
            labels=None if labels is None else tuple(labels),
            pooling=Pooling(mode="mean", normalize=True) if task == "sentence-similarity" else None,
            opset=18,
            graph="unfused",
            parity=Parity(
                output=OUTPUTS[task][0],
                max_difference=0.0,
                max_relative_difference=0.0,
                min_cosine=1.0,
                mean_cosine=1.0,
                top1_agreement=None,
                passed=True,
            ),
            batch_invariance=Invariance(texts=1, max_difference=0.0, min_cosine=1.0),
            candidates=(),
            refused={},
            left_out={},
            quality={},
            oldest_onnxruntime="1.18",
            timed_at=None,
            held_on="cpu",
        ),
    )
    return folder
