"""The loss on text that training never saw."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from homoexport.errors import TeacherError
from homoexport.stages.distill import objective
from homoexport.stages.distill.batches import NO_LABEL, BatchMaker, MicroBatch
from homoexport.stages.distill.job import Job
from homoexport.stages.distill.probe import rows_of
from homoexport.stages.distill.step import StepLoss
from homoexport.text.example import Example

_BATCH = 32  # sequences of one similarity matrix, whatever the training batch was

_ASKED = 8  # sequences that a teacher is tried with
_SAME = 1e-6  # difference between answers, relative to the largest number in them


@torch.no_grad()
def refuse_silent_teacher(job: Job) -> None:
    """Refuse (TeacherError) a teacher whose answers are no numbers, or are the same to every text."""
    cut = job.batches.cut(job.corpus.held_out[:_ASKED], first_position=0)
    rows = torch.cat([_answers(job, micro) for micro in cut]).float()  # [N, C]
    what = ""
    if not rows.isfinite().all():
        what = "its answers are not finite numbers"
    elif len(rows) > 1 and (rows - rows[0]).abs().max() <= _SAME * rows.abs().max():
        what = "it answers the same to every text"
    if what:
        raise TeacherError(what, where=job.encoder.source, hint="check the teacher's weights")


def _answers(job: Job, micro: MicroBatch) -> Tensor:
    """What the teacher, wherever it is, says of each sequence or token: a vector or logits."""
    model = job.encoder.model.eval()
    inputs = {name: tensor.to(model.device) for name, tensor in micro.inputs.items()}
    if "classification" in job.settings.objective:
        micro = replace(micro, attention_mask=inputs["attention_mask"])
        return rows_of(micro, model(**inputs).logits, job.settings.objective)
    states = job.family.body(model)(**inputs).last_hidden_state  # [B, S, D]
    if job.settings.objective == "masked-lm":  # of one token, for all logits may be many
        logits: Tensor = job.family.lm_head(model)(states[:, 1])
        return logits
    modes = job.encoder.pooling.modes if job.encoder.pooling else ("mean",)
    dense = nn.Sequential(*job.encoder.dense).to(model.device)
    return objective.pool(states, inputs["attention_mask"], modes=modes, dense=dense)


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
