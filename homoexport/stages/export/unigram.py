"""A Unigram tokenizer as ONNX nodes, by the `SentencepieceTokenizer` operator of onnxruntime-extensions.

The operator reads a model as SentencePiece writes it (sentencepiece_model.proto), which is made here of the tokenizer's
pieces, scores and table of characters. It puts a space before each text and takes spaces as one, as Hugging Face's do
that split at white space and write "▁" for it. Added tokens are pieces to it that stand for themselves; the white space
around them stays, where Hugging Face's may take it off.

B batch, N tokens of all texts, P tokens of the longest text.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import onnx_ir as ir
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import import_protobuf

from homoexport.stages.export.sequences import EXTENSIONS_DOMAIN, GraphWriter, backend_of, refusal

UNIGRAM_OPERATORS = ("SentencepieceTokenizer",)
_NORMAL, _UNKNOWN, _USER_DEFINED = 1, 2, 4  # of SentencePiece's kinds of pieces
_UNIGRAM = 1  # of its kinds of models
_SPLITS_AT_SPACES = [{"type": "WhitespaceSplit"}]


def write_unigram(op: GraphWriter, text: ir.Value, tokenizer: PreTrainedTokenizerBase) -> tuple[ir.Value, ir.Value]:
    """Token ids int64 [B, P] of strings [B], and which of them are a text's own.

    Raises:
        UserError: the tokenizer is not Unigram as SentencePiece has it.
    """
    model = base64.b64encode(_sentencepiece_model(json.loads(backend_of(tokenizer).to_str()))).decode()
    once, plainly = _constant(op, "samples", np.array([0], np.int64)), _constant(op, "alpha", np.array([0], np.float32))
    no = _constant(op, "no", np.array([False]))
    flat, ends = op.op_multi_out(
        UNIGRAM_OPERATORS[0],
        [text, once, plainly, no, no, no],  # one way to split, and no <s>, no </s>, nothing reversed
        {"model": model},
        num_outputs=2,
        domain=EXTENSIONS_DOMAIN,
    )  # [N] and, where each text begins and the last one ends, [B + 1]
    tokens = op("Concat", op("Cast", flat, to=ir.DataType.INT64), op("Expand", 0, [1]), axis=0)  # there may be none
    begins, stops = op("Slice", ends, [0], [-1], [0]), op("Slice", ends, [1], [2**31], [0])  # [B]
    counts = op("Unsqueeze", op("Sub", stops, begins), [1])  # [B, 1]
    place = op("Unsqueeze", op("Range", 0, op("Max", op("ReduceMax", counts, keepdims=0), 1), 1), [0])  # [1, P]
    kept = op("Less", place, counts)
    ids = op("Gather", tokens, op("Where", kept, op("Add", op("Unsqueeze", begins, [1]), place), -1))
    return ids, kept


def _constant(op: GraphWriter, name: str, values: np.ndarray[Any, Any]) -> ir.Value:
    return op.initializer(ir.tensor(values, name=f"tokenizer/{name}"))


def _sentencepiece_model(spec: dict[str, Any]) -> bytes:
    """A tokenizer.json as a SentencePiece model, whose ids are the same."""
    model, added = spec["model"], {token["content"]: token["id"] for token in spec["added_tokens"]}
    if model.get("byte_fallback"):
        raise refusal("its Unigram model falls back on bytes")
    if model.get("unk_id") is None:
        raise refusal("its Unigram model has no unknown piece")
    pieces = [(piece, score) for piece, score in model["vocab"]]
    beyond = sorted((index, name) for name, index in added.items() if index >= len(pieces))
    if [index for index, _ in beyond] != [*range(len(pieces), len(pieces) + len(beyond))]:
        raise refusal("its added tokens leave ids without a piece")
    pieces += [(name, 0.0) for _, name in beyond]
    charsmap, one_space = _of_characters(spec["normalizer"])
    one_space |= _splits_at_spaces(spec["pre_tokenizer"])
    proto: Any = import_protobuf().ModelProto()
    for index, (piece, score) in enumerate(pieces):
        kind = _UNKNOWN if index == model["unk_id"] else _USER_DEFINED if added.get(piece) == index else _NORMAL
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = _UNIGRAM
    proto.trainer_spec.unk_id = model["unk_id"]
    for name in ("bos_id", "eos_id", "pad_id"):
        setattr(proto.trainer_spec, name, -1)
    proto.normalizer_spec.precompiled_charsmap = charsmap
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = one_space
    proto.normalizer_spec.escape_whitespaces = True
    made: bytes = proto.SerializeToString()
    return made


def _of_characters(normalizer: dict[str, Any] | None) -> tuple[bytes, bool]:
    """What characters become before a text is split, as SentencePiece has compiled it, empty where they stay; and
    whether spaces become one."""
    parts = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    tables = [part["precompiled_charsmap"] for part in parts if part["type"] == "Precompiled"]
    of_spaces = [
        part
        for part in parts
        if part["type"] == "Strip" or (part.get("pattern") == {"Regex": " {2,}"} and part.get("content") in (" ", "▁"))
    ]
    if len(tables) > 1 or len(tables) + len(of_spaces) != len(parts):
        raise refusal(f"its model is Unigram behind a {normalizer['type'] if normalizer else None} normalizer")
    table = base64.b64decode(tables[0]) if tables and tables[0] else b""
    return table, any(part["type"] == "Replace" for part in of_spaces)


def _splits_at_spaces(splitter: dict[str, Any] | None) -> bool:
    """Whether spaces beside each other are one; refuses what does not put "▁" for a space, and before a text."""
    parts = [] if splitter is None else splitter.get("pretokenizers", [splitter])
    wanted = {"replacement": "▁", "prepend_scheme": "always"}
    last = parts[-1] if parts else {}
    if (
        parts[:-1] not in ([], _SPLITS_AT_SPACES)
        or last.get("type") != "Metaspace"
        or not wanted.items() <= last.items()
    ):
        raise refusal("its model is Unigram, but does not split text as SentencePiece does")
    return len(parts) > 1
