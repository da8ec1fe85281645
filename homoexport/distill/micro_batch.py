"""Sequences of one forward pass.

Letters: B batch, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

NO_LABEL = -100  # as in torch's cross_entropy


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass: ids and mask [B, S].

    Attributes:
        token_type_ids: [B, S], where the sequences are pairs of texts.
        labels: [B, S], or [B] for classification; -100 where there is none.
        documents: whether these are the documents of queries in other micro-batches.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None = None
    labels: Tensor | None = None
    documents: bool = False

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model is called with."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else inputs | {"token_type_ids": self.token_type_ids}
