"""From a step's number to the micro-batches of one process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from homoexport.distill.step import MicroBatch
from homoexport.recipe import Objective
from homoexport.text import Corpus, collate, mask_tokens


@dataclass(frozen=True)
class BatchMaker:
    """Cuts each step's batch into this process's share, and that into micro-batches.

    A share is sorted by length before it is cut, so that short sequences are not padded to the
    longest of the whole batch; the loss does not depend on the order.

    Attributes:
        batch_size: sequences of a step over all processes; divisible by `processes`.
        micro_batch_size: sequences of one forward pass.
        max_length: tokens of the longest sequence.
        mlm_probability: share of the tokens masked, for masked-lm.
        seed: with a sequence's place in the run it decides its masks.
    """

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    batch_size: int
    micro_batch_size: int
    max_length: int
    mlm_probability: float
    seed: int
    process: int
    processes: int
    device: torch.device

    def of_step(self, step: int) -> list[MicroBatch]:
        """This process's micro-batches of a step."""
        share = self.batch_size // self.processes
        start = self.process * share
        examples = self.corpus.batch(step, self.batch_size, start, start + share)
        return self.cut(examples, first_position=step * self.batch_size + start)

    def cut(self, examples: list[list[int]], *, first_position: int) -> list[MicroBatch]:
        """Micro-batches of sequences whose places in the run begin at `first_position`."""
        order = sorted(range(len(examples)), key=lambda index: (len(examples[index]), index))
        return [
            self._micro([examples[i] for i in part], [first_position + i for i in part])
            for part in (
                order[start : start + self.micro_batch_size] for start in range(0, len(order), self.micro_batch_size)
            )
        ]

    def _micro(self, examples: list[list[int]], positions: list[int]) -> MicroBatch:
        batch = collate(examples, pad_token_id=self.tokenizer.pad_token_id, limit=self.max_length)
        input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
        labels = None
        if self.objective == "masked-lm":
            input_ids, labels = mask_tokens(
                input_ids,
                attention_mask,
                mask_token_id=self.tokenizer.mask_token_id,
                vocab_size=len(self.tokenizer),
                special_ids=self.tokenizer.all_special_ids,
                probability=self.mlm_probability,
                seed=self.seed,
                positions=positions,
            )
            labels = labels.to(self.device)
        return MicroBatch(input_ids.to(self.device), attention_mask.to(self.device), labels)
