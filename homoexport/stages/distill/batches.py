"""From a step's number to the micro-batches of one process.

Letters: B batch, S sequence.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import accumulate, count

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from homoexport.documents.recipe import DistillSettings
from homoexport.encoder import Window
from homoexport.stages.distill.taught import Shown, TaughtTexts
from homoexport.text.collate import collate, mask_tokens
from homoexport.text.corpus import Corpus, StreamState
from homoexport.text.crop import crop
from homoexport.text.example import Example

NO_LABEL = -100  # as in torch's cross_entropy
_MICRO_BATCH_ON_CPU = 8  # small ones waste less padding; on a GPU the whole share goes at once


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass: ids, mask and token types [B, S]; labels [B, S], or [B] for classification,
    floats (NaN where there is none) of scores; unit vectors [B, D] that are to be matched where they are not the
    teacher's.

    `documents` says whether these are the documents of queries in other micro-batches. `shown` is what the teacher says
    of them, where it need not be asked.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None = None
    labels: Tensor | None = None
    vectors: Tensor | None = None
    documents: bool = False
    shown: Shown | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else inputs | {"token_type_ids": self.token_type_ids}


def has_label(labels: Tensor) -> Tensor:
    """Bool, of the shape of labels."""
    return labels.isfinite() if labels.is_floating_point() else labels != NO_LABEL


@dataclass(frozen=True)
class Counts:
    """What terms are divided by: sums over all micro-batches and processes of a step.

    `rows` are those of logits that are compared; `pairs` are of a token and one that it attends to, for each window.
    """

    sequences: int
    tokens: int
    labelled: int
    rows: int
    pairs: dict[Window, int]


@dataclass(frozen=True)
class BatchMaker:
    """Cuts each step's batch into this process's share, and that into micro-batches.

    A share is sorted by length before it is cut, so that short sequences are not padded to the longest of the whole
    batch; the loss does not depend on the order. `seed` decides the masks, with a sequence's place in the run. With
    `taught`, the micro-batches of steps bring what the teacher says of them.
    """

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    settings: DistillSettings
    max_length: int
    seed: int
    accelerator: Accelerator
    taught: TaughtTexts | None = None

    @property
    def micro_batch_size(self) -> int:
        share: int = self.settings.batch_size // self.accelerator.num_processes
        default = _MICRO_BATCH_ON_CPU if self.accelerator.device.type == "cpu" else share
        return min(share, self.settings.micro_batch_size or default)

    def of_step(self, step: int) -> list[MicroBatch]:
        batch_size = self.settings.batch_size
        share = batch_size // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        examples, first = self.corpus.batch(step, batch_size, start, start + share), step * batch_size + start
        if self.settings.crop > 0:
            special_ids = self.tokenizer.all_special_ids
            examples = [
                crop(example, share=self.settings.crop, special_ids=special_ids, seed=self.seed, position=first + place)
                for place, example in enumerate(examples)
            ]
        rows = None if self.taught is None else self.taught.corpus.rows(step, batch_size, start, start + share)
        return self.cut(examples, first_position=first, rows=rows)

    def first(self, most_tokens: int) -> list[MicroBatch]:
        """This process's of the first steps, of one epoch at most; the text is left where it was."""
        state, size = self.corpus.state_dict(), self.corpus.size
        micro_batches: list[MicroBatch] = []
        for step in count():
            micro_batches += self.of_step(step)
            is_epoch = size is not None and (step + 2) * self.settings.batch_size > size
            if is_epoch or len(up_to(micro_batches, most_tokens)) < len(micro_batches):
                break
        self.corpus.load_state_dict(state)
        return micro_batches

    def cut(
        self, examples: list[Example], *, first_position: int, rows: Sequence[int] | None = None
    ) -> list[MicroBatch]:
        """Micro-batches of examples whose places in the run begin at `first_position`; `rows` are theirs in the corpus,
        where the teacher's outputs are to be read.
        """
        micro_batches = self._cut_texts(examples, first_position, rows)
        pairs = [Example(example.pair_ids) for example in examples if example.pair_ids is not None]
        documents = self._cut_texts(pairs, first_position)
        return micro_batches + [replace(micro, documents=True) for micro in documents]

    def _cut_texts(
        self, examples: list[Example], first_position: int, rows: Sequence[int] | None = None
    ) -> list[MicroBatch]:
        order = sorted(range(len(examples)), key=lambda index: (len(examples[index].input_ids), index))
        size = self.micro_batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        cut = [self.micro([examples[i] for i in part], [first_position + i for i in part]) for part in parts]
        if rows is None:
            return cut
        return [self._with_shown(micro, [rows[i] for i in part]) for micro, part in zip(cut, parts, strict=True)]

    def _with_shown(self, micro: MicroBatch, rows: Sequence[int]) -> MicroBatch:
        assert self.taught is not None
        shown, device = self.taught.read(rows, micro.input_ids.shape[1]), self.accelerator.device
        return replace(micro, shown=shown.with_parts([part.to(device) for part in shown.parts]))

    def micro(self, examples: list[Example], positions: list[int]) -> MicroBatch:
        """One micro-batch of examples at these places in the run."""
        batch: dict[str, Tensor] = collate(examples, pad_token_id=self.tokenizer.pad_token_id, limit=self.max_length)
        if self.settings.objective == "masked-lm":
            batch["input_ids"], batch["labels"] = mask_tokens(
                batch["input_ids"],
                batch["attention_mask"],
                mask_token_id=self.tokenizer.mask_token_id,
                vocab_size=len(self.tokenizer),
                special_ids=self.tokenizer.all_special_ids,
                probability=self.settings.mlm_probability,
                seed=self.seed,
                positions=positions,
            )
        device = self.accelerator.device
        if device.type == "cuda":  # so that nobody waits for the copy, which is queued with the computation
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        types, labels, vectors = (moved.get(name) for name in ("token_type_ids", "labels", "vectors"))
        return MicroBatch(moved["input_ids"], moved["attention_mask"], types, labels, vectors)


def up_to(micro_batches: Sequence[MicroBatch], most_tokens: int) -> list[MicroBatch]:
    """The first of them, until there are so many tokens."""
    tokens = accumulate((int(micro.attention_mask.sum()) for micro in micro_batches), initial=0)
    return [micro for micro, before in zip(micro_batches, tokens, strict=False) if before < most_tokens]


class BatchesAhead:
    """Makes a step's micro-batches in a thread of its own while the step before is computed.

    So reading and tokenizing hold no step up. A stream then stands one step further than the run, so its state is taken
    before. Where the run ends early, nobody waits for what is being made: it may hang on a network.
    """

    def __init__(self, batches: BatchMaker) -> None:
        self._batches = batches
        self._ahead: _Ahead | None = None

    def of_step(self, step: int, *, go_on: bool) -> list[MicroBatch]:
        """The micro-batches of a step, in order; `go_on` begins with the next step's."""
        if self._ahead is None:
            micro_batches = self._batches.of_step(step)
        else:
            assert self._ahead.step == step, "steps come in order"
            micro_batches = self._ahead.micro_batches.result()
        self._ahead = _Ahead(self._batches, step + 1) if go_on else None
        return micro_batches

    def text_state(self) -> StreamState:
        """Where the text stands before the step that `of_step` was not yet asked for."""
        return self._batches.corpus.state_dict() if self._ahead is None else self._ahead.text_state.result()

    def close(self) -> None:
        """Wait until nothing is made ahead, so that the text may go back to another place."""
        if self._ahead is not None:
            self._ahead.micro_batches.exception()
        self._ahead = None


class _Ahead:
    """The micro-batches of a step that are being made, and the text's state before them."""

    def __init__(self, batches: BatchMaker, step: int) -> None:
        self.step = step
        self.text_state: Future[StreamState] = Future()
        self.micro_batches: Future[list[MicroBatch]] = Future()
        threading.Thread(target=self._make, args=(batches,), name="batches", daemon=True).start()

    def _make(self, batches: BatchMaker) -> None:
        try:
            self.text_state.set_result(batches.corpus.state_dict())
            self.micro_batches.set_result(batches.of_step(self.step))
        except BaseException as error:  # raised where the step is wanted
            self.micro_batches.set_exception(error)
