"""What the graphs of all tokenizers end in: token ids framed by special tokens, truncated and padded.

B batch, P tokens of the longest text, S sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from homoexport.errors import UserError

EXTENSIONS_DOMAIN = "ai.onnx.contrib"
_SUPPORTED = (
    "supported: WordPiece with BERT's normalizer and pre-tokenizer (BERT, DistilBERT, ELECTRA, MPNet), byte-level BPE "
    "with RoBERTa's special tokens, Unigram as SentencePiece's (XLM-RoBERTa)"
)


@dataclass(frozen=True)
class Frame:
    """Token ids before a text, behind it, and behind the shorter texts of a batch."""

    prefix: Sequence[int]
    suffix: Sequence[int]
    pad_id: int

    @property
    def special_tokens(self) -> int:
        return len(self.prefix) + len(self.suffix)


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the Rust tokenizer, without truncation and padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise refusal(f"its {type(tokenizer).__name__} has no tokenizer.json")
    copied = Tokenizer.from_str(backend.to_str())
    copied.no_padding()
    copied.no_truncation()
    return copied


def refusal(what: str) -> UserError:
    return UserError(
        f"this tokenizer cannot be packed into the graph: {what}",
        where="--with-tokenizer",
        hint=f"export without it ({_SUPPORTED})",
    )


def read_frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """What a tokenizer puts around a text."""
    if tokenizer.truncation_side != "right":
        raise refusal(f"it truncates on the {tokenizer.truncation_side}")
    if tokenizer.pad_token_id is None:
        raise refusal("it has no padding token")
    around = backend_of(tokenizer).encode("a")
    if any(around.type_ids):
        raise refusal("its token types are not all 0")
    if 0 not in around.special_tokens_mask:
        raise refusal("it makes nothing of the letter a")
    text_at = around.special_tokens_mask.index(0)
    text_end = len(around.ids) - around.special_tokens_mask[::-1].index(0)
    return Frame(around.ids[:text_at], around.ids[text_end:], tokenizer.pad_token_id)


class GraphWriter(ir.tape.Tape):
    """Collects nodes and constants; call it with an operator and its inputs, numbers and arrays among them."""

    def __call__(self, operator: str, *inputs: Any, domain: str = "", **attributes: Any) -> ir.Value:
        values = [each if isinstance(each, ir.Value) else self._constant(each) for each in inputs]
        return self.op(operator, values, attributes, domain=domain)

    def _constant(self, number: Any) -> ir.Value:
        name = f"tokenizer/constant_{len(self.initializers)}"
        return self.initializer(ir.tensor(np.asarray(number, dtype=np.int64), name=name))


def write_sequences(
    op: GraphWriter, ids: ir.Value, kept: ir.Value, frame: Frame, *, max_length: int
) -> dict[str, ir.Value]:
    """`input_ids`, `attention_mask` and `token_type_ids`, each int64 [B, S].

    Args:
        ids: int64 [B, P].
        kept: bool [B, P], which of them are tokens.
        max_length: tokens of the longest sequence, special ones included.
    """
    place = op("CumSum", op("Cast", kept, to=ir.DataType.INT64), 1)  # [B, P] from 1 on
    kept = op("And", kept, op("LessOrEqual", place, max_length - frame.special_tokens))
    counts = op("ReduceSum", op("Cast", kept, to=ir.DataType.INT64), [1])  # [B, 1]
    ends = op("Add", counts, frame.special_tokens)
    # Attention to no position at all would be a division by zero: one padding token stands for an empty text.
    width = op("ReduceMax", op("Max", ends, 1), keepdims=0)
    position = op("Unsqueeze", op("Range", 0, width, 1), [0])  # [1, S]
    shape = op("Concat", op("Shape", counts, end=1), op("Reshape", op("Add", width, 1), [1]), axis=0)
    column = op("Where", kept, op("Add", place, len(frame.prefix) - 1), width)  # what is not kept: the spare one
    filled = op("ScatterElements", op("Expand", frame.pad_id, shape), column, ids, axis=1)  # [B, S + 1]
    filled = op("Slice", filled, [0], [-1], [1])
    for index, number in enumerate(frame.prefix):
        filled = op("Where", op("Equal", position, index), number, filled)
    for index, number in enumerate(frame.suffix, start=len(frame.prefix)):
        filled = op("Where", op("Equal", position, op("Add", counts, index)), number, filled)
    mask = op("Cast", op("Less", position, op("Max", ends, 1)), to=ir.DataType.INT64)
    return {"input_ids": filled, "attention_mask": mask, "token_type_ids": op("Mul", mask, 0)}
