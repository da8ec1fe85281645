"""The loss on text that training never saw."""

from __future__ import annotations

import torch

from homoexport.distill import objective
from homoexport.distill.batches import BatchMaker
from homoexport.distill.step import StepLoss

_BATCH = 32  # sequences of one similarity matrix, whatever the training batch was


@torch.no_grad()
def held_out_loss(loss: StepLoss, batches: BatchMaker, sequences: list[list[int]]) -> float:
    """Mean task loss of the student over held-out sequences.

    For masked-lm the cross-entropy in nats of masked tokens (masks decided by seed and place); for
    sentence-embedding the similarity error over batches of 32. Every process computes all of it.
    """
    total, weight = 0.0, 0
    for start in range(0, len(sequences), _BATCH):
        chunk = sequences[start : start + _BATCH]
        micro_batches = batches.cut(chunk, first_position=start)
        if loss.objective_name == "masked-lm":
            masked = 0
            for micro in micro_batches:
                assert micro.labels is not None
                chosen = micro.labels != -100
                with loss.accelerator.autocast():
                    states = loss.student_states(micro)
                    logits = loss.family.lm_head(loss.student)(states[chosen])
                total += objective.masked_lm_loss(logits, micro.labels[chosen], 1).item()
                masked += int(chosen.sum())
            weight += masked
        elif len(chunk) > 1:
            with loss.accelerator.autocast():
                vectors = [loss.sentence_vectors(micro) for micro in micro_batches]
            students, teachers = (torch.cat(side) for side in zip(*vectors, strict=True))
            error = objective.similarity_error(students, teachers, temperature=loss.temperature)
            total += error.item() * len(chunk)
            weight += len(chunk)
    return total / max(1, weight)
