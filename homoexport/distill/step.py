"""One step's loss and gradients: teacher forward, student forward, terms, backward.

Letters: B batch, S sequence, M masked tokens, D hidden size, V vocabulary, P processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from homoexport.distill import objective
from homoexport.distill.trace import Trace
from homoexport.encoder import Family
from homoexport.recipe import LossWeights, Objective


@dataclass(frozen=True)
class MicroBatch:
    """Sequences of one forward pass: ids and mask [B, S]; labels [B, S], -100 where not masked."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Counts:
    """What the terms are divided by: sums over all micro-batches and processes of a step."""

    tokens: int
    pairs: int
    masked: int


def count(micro_batches: Sequence[MicroBatch], accelerator: Accelerator) -> Counts:
    """The step's counts; every process gets the same."""
    local = torch.zeros(3, dtype=torch.int64, device=accelerator.device)
    for micro in micro_batches:
        lengths = micro.attention_mask.sum(1)
        masked = (micro.labels != -100).sum() if micro.labels is not None else lengths.new_zeros(())
        local += torch.stack([lengths.sum(), lengths.square().sum(), masked])
    tokens, pairs, masked_total = accelerator.reduce(local, "sum").tolist()
    return Counts(tokens, pairs, masked_total)


class StepLoss:
    """Computes the terms that have a weight, and their gradients in the student.

    Args:
        teacher: frozen, in eval mode.
        student: same family; dropout is off, so that at step 0 it equals the teacher.
        family: their adapter.
        projections: W_hidden and W_emb.
        objective_name: what stands for the task.
        weights: a term of weight 0 is not computed.
        temperature: of the KL, and of the similarity matrix's softmax.
        pooling_mode: `mean` or `cls`, for sentence-embedding.
        accelerator: device, autocast and processes.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        family: Family,
        projections: objective.Projections,
        *,
        objective_name: Objective,
        weights: LossWeights,
        temperature: float,
        pooling_mode: str,
        accelerator: Accelerator,
    ) -> None:
        self.teacher, self.student, self.family = teacher, student, family
        self.projections, self.weights = projections, weights
        self.objective_name, self.temperature, self.pooling_mode = objective_name, temperature, pooling_mode
        self.accelerator = accelerator
        wanted = {
            "embedding": weights.embedding > 0,
            "layers": weights.hidden > 0,
            "attention": weights.attention > 0,
        }
        self._teacher_trace = Trace(family.taps(teacher), **wanted)
        self._student_trace = Trace(family.taps(student), **wanted)
        self._teacher_widths = family.widths(teacher)

    def backward(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """Leave the step's gradients, summed over processes, in the student and the projections.

        Returns:
            The unweighted terms of the whole step, by name.
        """
        counts = count(micro_batches, self.accelerator)
        sums: dict[str, Tensor] = {}
        if self.objective_name == "masked-lm":
            for micro in micro_batches:
                terms = self._masked_lm_terms(micro, counts)
                _add(sums, {name: value.detach() for name, value in terms.items()})
                self.accelerator.backward(self._weighted(terms))
        else:
            terms = self._sentence_terms(micro_batches, counts)
            self.accelerator.backward(self._weighted(terms))
            if "task" in terms:  # every process computed all of it; the sum below must count it once
                terms["task"] = terms["task"] / self.accelerator.num_processes
            _add(sums, {name: value.detach() for name, value in terms.items()})
        for trace in (self._teacher_trace, self._student_trace):
            trace.clear()
        self._reduce_gradients()
        names = sorted(sums)
        totals = self.accelerator.reduce(torch.stack([sums[name] for name in names]), "sum").tolist()
        return dict(zip(names, totals, strict=True))

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([value * getattr(self.weights, name) for name, value in terms.items()]).sum()

    def probe(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Leave gradients that say how strongly each weight moves the student's output.

        While the student equals its teacher, distillation terms are at their minimum: their gradients
        are zero, and so would be every neuron's sensitivity. The gradient of the output's product with
        random signs r is J^T r, whose squares are on average the diagonal of J^T J: the curvature of a
        squared error at its minimum (Hutchinson's estimator of the Gauss-Newton matrix). The signs
        depend on a token's position alone, so that processes and micro-batches add up.
        """
        counts = count(micro_batches, self.accelerator)
        for micro in micro_batches:
            with self.accelerator.autocast():
                states = self.student_states(micro)
            _, length, width = states.shape
            signs = _signs(length, width, states.device)
            products = states.float() * signs * micro.attention_mask[:, :, None]
            self.accelerator.backward(products.sum() / counts.tokens)
        self._student_trace.clear()
        self._reduce_gradients()

    def student_states(self, micro: MicroBatch) -> Tensor:
        """The student's last hidden states, [B, S, D_s]."""
        return self._states(self.student, micro)

    def sentence_vectors(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Unit vectors of student and teacher, [B, D_s] and [B, D_t]."""
        student, teacher = (objective.pool(s, micro.attention_mask, mode=self.pooling_mode) for s in self._both(micro))
        return student, teacher

    def _states(self, model: nn.Module, micro: MicroBatch) -> Tensor:
        output = self.family.body(model)(input_ids=micro.input_ids, attention_mask=micro.attention_mask)
        states = output.last_hidden_state
        assert isinstance(states, Tensor)
        return states

    def _both(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher = self._states(self.teacher, micro)
        return self._states(self.student, micro), teacher

    def _masked_lm_terms(self, micro: MicroBatch, counts: Counts) -> dict[str, Tensor]:
        assert micro.labels is not None
        with self.accelerator.autocast():
            student, teacher = self._both(micro)
            terms = self._layer_terms(micro, counts)
            chosen = micro.labels != -100
            logits = self.family.lm_head(self.student)(student[chosen])  # [M, V]
            if self.weights.task > 0:
                terms["task"] = objective.masked_lm_loss(logits, micro.labels[chosen], counts.masked)
            if self.weights.kl > 0:
                with torch.no_grad():
                    targets = self.family.lm_head(self.teacher)(teacher[chosen])
                terms["kl"] = objective.kl_divergence(logits, targets, counts.masked, temperature=self.temperature)
        return terms

    def _sentence_terms(self, micro_batches: Sequence[MicroBatch], counts: Counts) -> dict[str, Tensor]:
        """The batch's similarities need all of its vectors, so one graph spans the micro-batches."""
        terms: dict[str, Tensor] = {}
        vectors: list[tuple[Tensor, Tensor]] = []
        with self.accelerator.autocast():
            for micro in micro_batches:
                vectors.append(self.sentence_vectors(micro))
                _add(terms, self._layer_terms(micro, counts))
        if self.weights.task > 0:
            students = self._gather(torch.cat([student for student, _ in vectors]))
            teachers = self.accelerator.gather(torch.cat([teacher for _, teacher in vectors]))
            terms["task"] = objective.similarity_error(students, teachers, temperature=self.temperature)
        return terms

    def _gather(self, vectors: Tensor) -> Tensor:
        """Vectors of all processes, [P·B, D]; gradients flow through this process's own rows."""
        if self.accelerator.num_processes == 1:
            return vectors
        everyone = list(self.accelerator.gather(vectors.detach()).split(len(vectors)))
        everyone[self.accelerator.process_index] = vectors
        return torch.cat(everyone)

    def _layer_terms(self, micro: MicroBatch, counts: Counts) -> dict[str, Tensor]:
        """Hidden, attention and embedding terms of the forward passes just made."""
        mine, theirs = self._student_trace, self._teacher_trace
        token_mask = micro.attention_mask.bool()
        terms: dict[str, Tensor] = {}
        if mine.layers:
            terms["hidden"] = torch.stack(
                [
                    objective.hidden_error(mine.layers[k], theirs.layers[k], projection, token_mask, counts.tokens)
                    for k, projection in enumerate(self.projections.hidden)
                ]
            ).sum()
        if mine.queries:
            widths = self.family.widths(self.student)
            full = self._teacher_widths
            errors = []
            for k in mine.queries:
                ours = objective.attention_scores(
                    mine.queries[k], mine.keys[k], heads=widths.heads[k], head_dim=widths.head_dim
                )
                other = objective.attention_scores(
                    theirs.queries[k], theirs.keys[k], heads=full.heads[k], head_dim=full.head_dim
                )
                errors.append(objective.attention_error(ours, other, token_mask, counts.pairs))
            terms["attention"] = torch.stack(errors).sum()
        if mine.embedding is not None and theirs.embedding is not None:
            terms["embedding"] = objective.hidden_error(
                mine.embedding, theirs.embedding, self.projections.embedding, token_mask, counts.tokens
            )
        return terms

    def _reduce_gradients(self) -> None:
        """Sum the gradients over processes, as one flat message, so that all prune and step alike."""
        if self.accelerator.num_processes == 1:
            return
        parameters = [*self.student.parameters(), *self.projections.parameters()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _add(totals: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        totals[name] = totals[name] + value if name in totals else value


def _signs(length: int, hidden_size: int, device: torch.device) -> Tensor:
    """Random signs [S, D]; a longer draw begins with the rows of a shorter one."""
    rows = (torch.Generator().manual_seed(position) for position in range(length))
    signs = torch.stack([torch.randint(2, (hidden_size,), generator=row) for row in rows])
    return (signs * 2 - 1).float().to(device)
