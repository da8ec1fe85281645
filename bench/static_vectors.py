"""Static word vectors as a package, so that they are judged and timed as any other: a vector a token, and their mean.

Of a teacher they are made in the manner of model2vec (Tulkens & van Dongen 2024): every token of its vocabulary goes
through the teacher alone, the vectors are cut by PCA, and weighed by SIF, a / (a + p) (Arora, Liang & Ma 2017,
section 3), with Zipf's law for p: the p of a token falls as 1 over its place in the vocabulary. Tokens that no text
has, and such as [CLS], get zeros. Those that others made are read from their safetensors: a table, and where there
are some, `mapping` from token to row and `weights` of tokens, as model2vec writes them.

Letters: B batch, S sequence, V vocabulary, R rows of the table, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from homoexport.choices import WeightPrecision
from homoexport.documents.artifact import write_manifest
from homoexport.documents.package import Invariance, PackageDetails, Parity, Pooling
from homoexport.encoder import Encoder
from homoexport.runtime.inference import open_package
from homoexport.runtime.vectors import cosines
from homoexport.stages.distill.objective import pool

PRECISIONS: dict[str, WeightPrecision] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
TEXTS = ("A man is playing a guitar.", "Stocks fell sharply on Monday after the news.", "hello")
_SIF = 1e-4  # a, as model2vec has it
_UNUSED = re.compile(r"\[unused\d+\]")
_AT_ONCE = 1024
_MAX_LENGTH = 512
_OUTPUT = "sentence_embedding"


@dataclass(frozen=True)
class StaticModel:
    """A table [R, D]; the row of each token [V], by default its number; what each token weighs [V], by default 1."""

    table: NDArray[Any]
    tokenizer: dict[str, Any]
    mapping: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None

    @property
    def vocabulary(self) -> int:
        return len(self.table if self.mapping is None else self.mapping)

    def cut(self, width: int) -> StaticModel:
        """The same with the first columns, which PCA has put in order."""
        return replace(self, table=self.table[:, :width])

    def rounded(self, precision: str) -> StaticModel:
        """The same in `float16`, or in `int8` with one scale, which a vector's direction does without."""
        if precision == "int8":
            return replace(self, table=np.rint(self.table * (127 / np.abs(self.table).max())).astype(np.int8))
        return replace(self, table=self.table.astype(precision))

    def embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """A text's vector [D], of any length."""
        rows = self.table[list(ids) if self.mapping is None else self.mapping[list(ids)]].astype(np.float32)
        weights = np.ones(len(ids), np.float32) if self.weights is None else self.weights[list(ids)]
        vector: NDArray[np.float32] = weights @ rows
        return vector


@torch.no_grad()
def distil_static(teacher: Encoder, width: int) -> StaticModel:
    """Of every token of a teacher, in fp32."""
    assert teacher.pooling is not None
    tokenizer = teacher.tokenizer
    first, last = tokenizer("")["input_ids"]
    names = tokenizer.convert_ids_to_tokens(range(teacher.model.config.vocab_size))
    special = {*tokenizer.all_special_ids}
    used = np.array([row for row, name in enumerate(names) if row not in special and not _UNUSED.fullmatch(name)])
    parts = []
    for start in range(0, len(used), _AT_ONCE):
        ids = torch.tensor([[first, token, last] for token in used[start : start + _AT_ONCE].tolist()])
        states = teacher.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        parts.append(pool(states, torch.ones_like(ids), mode=teacher.pooling.mode))
    vectors = torch.cat(parts).double().numpy()
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    probability = 1 / np.arange(2, len(used) + 2)
    weights = _SIF / (_SIF + probability / probability.sum())
    table = np.zeros((len(names), width), np.float32)
    table[used] = centred @ axes[:, ::-1][:, :width] * weights[:, None]
    return StaticModel(table, json.loads(tokenizer.backend_tokenizer.to_str()))


def read_static(weights: Path, tokenizer: Path) -> StaticModel:
    """One that a package ships."""
    arrays = load_file(weights)
    (table,) = (array for array in arrays.values() if array.ndim == 2)
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    return StaticModel(table, content, arrays.get("mapping"), arrays.get("weights"))


def write_static(model: StaticModel, folder: Path) -> None:
    """The package of a static model; SystemExit where it does not answer as `StaticModel.embed` does."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    # No text has special tokens: model2vec and WordLlama encode without.
    content = {**model.tokenizer, "post_processor": None, "padding": None, "truncation": None}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    onnx.save(_graph(model), folder / "onnx/model.onnx")
    unproven = Parity(
        output=_OUTPUT,
        max_difference=None,
        max_relative_difference=None,
        min_cosine=0.0,
        mean_cosine=0.0,
        top1_agreement=None,
        passed=False,
    )
    details = PackageDetails(
        model_file="onnx/model.onnx",
        task="sentence-similarity",
        max_length=_MAX_LENGTH,
        pad_token_id=0,
        vocab_size=model.vocabulary,
        hidden_size=model.table.shape[1],
        input_names=("input_ids", "attention_mask"),
        output_names=(_OUTPUT,),
        labels=None,
        pooling=Pooling(),
        precision=PRECISIONS[str(model.table.dtype)],
        scheme="fp32",
        quantization=None,
        embeddings=f"a {model.table.dtype} table",
        candidate="static",
        kept_in_fp32=(),
        parameters=sum(array.size for array in (model.table, model.mapping, model.weights) if array is not None),
        opset=18,
        graph="static",
        parity=unproven,
        batch_invariance=Invariance(texts=1, max_difference=None, min_cosine=None),
        candidates=(),
        refused={},
        left_out={},
        quality={},
        oldest_onnxruntime="1.18",
        timed_at=None,
        held_on="cpu",
    )
    write_manifest(folder, "package", details=details)
    package = open_package(folder)
    ours = np.stack([model.embed(package.tokenizer.encode(text).ids) for text in TEXTS])
    if (least := cosines(package.embed(TEXTS), ours).min()) < 1 - 1e-5:
        raise SystemExit(f"{folder} does not answer as the table does: cosine {least:.6f}")


def _graph(model: StaticModel) -> onnx.ModelProto:
    """Token ids and mask [B, S] to unit vectors [B, D]: the mask [B, 1, S], weighed, times the rows [B, S, D]."""
    arrays = {"table": model.table, "axis": np.array([1])}
    rows, nodes = "input_ids", []
    if model.mapping is not None:
        arrays["mapping"] = model.mapping
        nodes.append(helper.make_node("Gather", ["mapping", rows], ["rows"]))
        rows = "rows"
    mask = "mask"
    nodes += [
        helper.make_node("Gather", ["table", rows], ["stored"]),
        helper.make_node("Cast", ["stored"], ["vectors"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], [mask], to=TensorProto.FLOAT),
    ]
    if model.weights is not None:
        arrays["weights"] = model.weights
        nodes += [
            helper.make_node("Gather", ["weights", "input_ids"], ["weight"]),
            helper.make_node("Mul", [mask, "weight"], ["weighed"]),
        ]
        mask = "weighed"
    nodes += [
        helper.make_node("Unsqueeze", [mask, "axis"], ["as_row"]),
        helper.make_node("MatMul", ["as_row", "vectors"], ["sums"]),
        helper.make_node("Squeeze", ["sums", "axis"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], [_OUTPUT], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "static",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["batch", model.table.shape[1]])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made
