"""A byte-level BPE tokenizer as ONNX nodes, by the `RobertaTokenizer` operator of onnxruntime-extensions.

The operator splits, encodes and merges as Hugging Face's does, and puts <s> and </s> around each text of a batch;
these are taken off again, for truncation goes before them. It takes U+0085 for no white space, and knows no added
tokens but its own four: <mask> in a text is five characters to it. (It has an attribute for others, with which it
misreads every text with a "<" that begins none of them.)

B batch, P tokens of the longest text.
"""

from __future__ import annotations

import json

import onnx_ir as ir
from transformers import PreTrainedTokenizerBase

from homoexport.stages.export.sequences import EXTENSIONS_DOMAIN, GraphWriter, backend_of, refusal

BYTE_LEVEL_OPERATORS = ("RobertaTokenizer",)
_OF_THE_OPERATOR = ("<s>", "</s>", "<pad>", "<unk>")  # the names of special tokens that it looks for
_PLAIN = {
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


def write_byte_level(op: GraphWriter, text: ir.Value, tokenizer: PreTrainedTokenizerBase) -> tuple[ir.Value, ir.Value]:
    """Token ids int64 [B, P + 2] of strings [B], and which of them are a text's own.

    Raises:
        UserError: the tokenizer is not byte-level BPE as RoBERTa has it.
    """
    spec = json.loads(backend_of(tokenizer).to_str())
    model, splitter = spec["model"], spec["pre_tokenizer"] or {}
    if spec["normalizer"] is not None:
        raise refusal(f"its model is BPE behind a {spec['normalizer']['type']} normalizer")
    if splitter.get("type") != "ByteLevel" or splitter["add_prefix_space"] or not splitter["use_regex"]:
        raise refusal("its model is BPE, but does not split text as RoBERTa's")
    if unusual := [name for name, plain in _PLAIN.items() if (model.get(name) or plain) != plain]:
        raise refusal(f"its BPE model has {', '.join(unusual)}")
    if missing := [name for name in _OF_THE_OPERATOR if name not in model["vocab"]]:
        raise refusal(f"its vocabulary has no {', '.join(missing)}")
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    attributes: dict[str, str | int] = {
        "vocab": json.dumps(model["vocab"], ensure_ascii=False),
        "merges": "\n".join(["#version: 0.2", *pairs]),
        "padding_length": -1,
    }
    # <s> and </s> are among them.
    ids, mask = op.op_multi_out("RobertaTokenizer", [text], attributes, num_outputs=2, domain=EXTENSIONS_DOMAIN)
    place = op("CumSum", mask, 1)
    kept = op("And", op("Greater", place, 1), op("Less", place, op("ReduceSum", mask, [1])))
    return ids, kept
