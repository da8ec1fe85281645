"""The loss on text that training never saw."""

from __future__ import annotations

import torch

from homoexport.stages.distill import objective
from homoexport.stages.distill.batches import NO_LABEL, BatchMaker
from homoexport.stages.distill.step import StepLoss
from homoexport.text.example import Example

_BATCH = 32  # sequences of one similarity matrix, whatever the training batch was


@torch.no_grad()
def held_out_loss(loss: StepLoss, batches: BatchMaker, examples: list[Example]) -> float:
    """Mean loss of the student over held-out examples.

    - masked-lm: the cross-entropy in nats of masked tokens (masks decided by seed and place).
    - sentence-embedding: the similarity error over batches of 32.
    - classification, token-classification: the KL divergence from the teacher in nats (squared
      error where there is one output), at temperature 1; labels do not matter.

    Every process computes all of it.
    """
    total, weight = 0.0, 0
    for start in range(0, len(examples), _BATCH):
        chunk = examples[start : start + _BATCH]
        micro_batches = batches.cut(chunk, first_position=start)
        with loss.accelerator.autocast():
            if loss.objective_name == "sentence-embedding":
                if len(chunk) > 1:
                    vectors = [loss.sentence_vectors(micro) for micro in micro_batches]
                    total += loss.similarity(micro_batches, vectors, over_processes=False).item() * len(chunk)
                    weight += len(chunk)
                continue
            for micro in micro_batches:
                student, teacher, labels = loss.logits(micro)
                if loss.objective_name == "masked-lm":
                    total += objective.label_loss(student, labels, 1).item()
                    weight += int((labels != NO_LABEL).sum())
                else:
                    total += objective.logits_error(student, teacher, 1, temperature=1.0).item()
                    weight += len(student)
    loss.inner_terms.clear()
    return total / max(1, weight)
