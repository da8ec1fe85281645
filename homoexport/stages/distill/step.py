"""One step's loss and gradients: teacher forward, student forward, terms, backward.

Letters: B batch, S sequence, N rows of logits, C classes (for masked-lm the vocabulary), D hidden size,
P processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from homoexport.choices import PoolingMode, Side
from homoexport.documents.recipe import DistillSettings, LossWeights
from homoexport.encoder import Dense, Window
from homoexport.errors import RecipeError
from homoexport.stages.distill import objective
from homoexport.stages.distill.batches import NO_LABEL, Counts, MicroBatch, has_label
from homoexport.stages.distill.least_squares import Regression
from homoexport.stages.distill.probe import probe_loss, rows_of
from homoexport.stages.distill.taught import Shown
from homoexport.stages.distill.terms import InnerTerms, weights_of

_RIDGE = 0.1  # of the matrix `answer`: keeps most neighbours of all-mpnet-base-v2 on texts that it was not fitted to


class StepLoss:
    """Computes the terms that have a weight, and their gradients in the student.

    Dropout is off, so that teacher and student are equal at step 0. Where `micro_batch_size` is set, memory is that of
    one micro-batch, for sentence-embedding too, at the price of a second forward pass. `dense` are the teacher's layers
    behind its pooling; a student whose `output` is the teacher's goes through the last W_hidden, then through them.

    Where texts bring the vectors of another model, these take the place of the teacher's; that student goes through the
    last W_hidden, then through the matrix `answer`.
    """

    def __init__(
        self,
        inner_terms: InnerTerms,
        settings: DistillSettings,
        *,
        pooling_modes: Sequence[PoolingMode],
        dense: nn.Sequential,
        output: Side,
        accelerator: Accelerator,
    ) -> None:
        self.teacher, self.student, self.family = inner_terms.teacher, inner_terms.student, inner_terms.family
        self.inner_terms, self.weights = inner_terms, weights_of(settings.method, settings.weights)
        self.objective_name, self.temperature = settings.objective, settings.temperature
        self.pooling_modes, self.dense, self.output, self.accelerator = pooling_modes, dense, output, accelerator
        self.bounded = settings.micro_batch_size is not None
        self.labels_seen = False

    def weigh(self, weights: LossWeights) -> None:
        """Take on the weights of a step; inner terms that have lost theirs do not come back."""
        self.weights = weights
        self.inner_terms.drop([name for name, weight in weights if not weight])

    def backward(self, micro_batches: Sequence[MicroBatch], *, also: Sequence[nn.Parameter] = ()) -> dict[str, float]:
        """Leave the gradients of the step, summed over processes, in the student and in `also`; its unweighted terms by
        name.
        """
        counts = self.count(micro_batches)
        self.labels_seen |= counts.labelled > 0 or micro_batches[0].vectors is not None
        sums: dict[str, Tensor] = {}
        of_sentences = self.objective_name == "sentence-embedding"
        if of_sentences and self.weights.task > 0:
            if self.bounded and _is_cut(micro_batches):
                sums = self._sentences_one_by_one(micro_batches, counts)
            else:
                terms = self._sentence_terms(micro_batches, counts)
                self.accelerator.backward(self._weighted(terms))
                _add(sums, {name: value.detach() for name, value in terms.items()})
            if "task" in sums:  # every process computed all of it; the sum below must count it once
                sums["task"] = sums["task"] / self.accelerator.num_processes
        else:
            for micro in micro_batches:
                terms = self._sentence_terms([micro], counts) if of_sentences else self._logits_terms(micro, counts)
                _add(sums, {name: value.detach() for name, value in terms.items()})
                self.accelerator.backward(self._weighted(terms))
        self.inner_terms.clear()
        self._reduce_gradients(also)
        names = sorted(sums)
        totals = self.accelerator.reduce(torch.stack([sums[name] for name in names]), "sum").tolist()
        return dict(zip(names, totals, strict=True))

    def count(self, micro_batches: Sequence[MicroBatch]) -> Counts:
        """What the terms are divided by; every process gets the same."""
        windows = sorted(self.inner_terms.windows, key=str)
        local = torch.zeros(4 + len(windows), dtype=torch.int64, device=self.accelerator.device)
        for micro in micro_batches:
            lengths = micro.attention_mask.sum(1)
            labelled = has_label(micro.labels).sum() if micro.labels is not None else lengths.new_zeros(())
            sequences = lengths.new_tensor(len(lengths))
            rows = {"masked-lm": labelled, "token-classification": lengths.sum()}.get(self.objective_name, sequences)
            pairs = [_pairs_attended(lengths, window) for window in windows]
            local += torch.stack([sequences, lengths.sum(), labelled, rows, *pairs])
        sequences, tokens, labelled, rows, *pairs = self.accelerator.reduce(local, "sum").tolist()
        return Counts(sequences, tokens, labelled, rows, dict(zip(windows, pairs, strict=True)))

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        if not terms:
            raise RecipeError(
                "no term with a weight has anything to compare here",
                where="distill.weights",
                hint="give another term a weight, or other distill.layers",
            )
        return torch.stack([value * getattr(self.weights, name) for name, value in terms.items()]).sum()

    def probe(self, micro_batches: Sequence[MicroBatch], *, also: Sequence[nn.Parameter] = ()) -> None:
        """Leave the gradients of `probe_loss` in the student, for scoring alone."""
        counts = self.count(micro_batches)
        for micro in micro_batches:
            with self.accelerator.autocast():
                loss = probe_loss(self.student, self.family, micro, objective=self.objective_name, counts=counts)
            torch.autograd.backward(loss)  # without fp16's loss scale, which gradients for scoring alone do not need
        self.inner_terms.clear()
        self._reduce_gradients(also)

    def sentence_vectors(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Unit vectors of student and teacher, [B, D_s] and [B, D_t]; where another model's teach, they stand for the
        teacher's.
        """
        teacher = micro.vectors
        if teacher is None or self.inner_terms.wanted:
            answer = self._teacher_answer(micro)
            teacher = answer if teacher is None else teacher
        return self._student_vectors(micro), teacher

    @torch.no_grad()
    def _teacher_answer(self, micro: MicroBatch) -> Tensor:
        """The teacher's unit vectors [B, D_t] or logits, [B, C] or [B, S, C]; what it shows inside is then at hand."""
        if micro.shown is not None:
            self.inner_terms.recall(micro.shown)
            return micro.shown.answer
        if self.objective_name == "sentence-embedding":
            states = self._states(self.teacher, micro)
            return objective.pool(states, micro.attention_mask, modes=self.pooling_modes, dense=self.dense)
        logits: Tensor = self.teacher(**micro.inputs).logits
        return logits

    def ask(self, micro: MicroBatch) -> Shown:
        """What the teacher says of a micro-batch, and shows of what the terms need; not for masked-lm."""
        with self.accelerator.autocast():
            shown = self.inner_terms.shown(self._teacher_answer(micro).float())
        self.inner_terms.clear()
        return shown

    @torch.no_grad()
    def fit_answer(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Have `answer` begin as what takes the teacher's pooled states nearest to the vectors, by least squares."""
        answer, regression = self.inner_terms.projections.answer, Regression()
        assert answer is not None
        for micro in micro_batches:
            assert micro.vectors is not None
            states = self._states(self.teacher, micro)
            regression.add(objective.pool(states, micro.attention_mask, modes=self.pooling_modes), micro.vectors)
        self.inner_terms.clear()
        reduce = partial(self.accelerator.reduce, reduction="sum")
        matrix, _ = regression.solve(_RIDGE, intercept=False, reduce=reduce)
        answer.data.copy_(matrix)  # in rows, as a checkpoint's; the optimizer's moments lie as it does

    def _student_vectors(self, micro: MicroBatch) -> Tensor:
        """Unit vectors [B, D_s], or [B, D_t] in the space of what teaches."""
        states = self._states(self.student, micro)
        dense = self._to_teacher if self.output == "teacher" else nn.Identity()
        return objective.pool(states, micro.attention_mask, modes=self.pooling_modes, dense=dense)

    def _to_teacher(self, pooled: Tensor) -> Tensor:
        """[B, D_s] to the teacher's vectors, before they are brought to length 1."""
        projections = self.inner_terms.projections
        states = pooled @ projections.hidden[-1]
        vectors: Tensor = self.dense(states) if projections.answer is None else states @ projections.answer
        return vectors

    @property
    def student_dense(self) -> tuple[Dense, ...]:
        """The layers behind the student's pooling, as it stands: none, or what leads into the teacher's space."""
        if self.output == "student":
            return ()
        projections = self.inner_terms.projections
        matrix = projections.hidden[-1].detach()
        if projections.answer is not None:
            return (Dense((matrix @ projections.answer.detach()).T),)
        return (Dense(matrix.T), *self.dense)

    def _terms_of_texts(self, micro: MicroBatch, vectors: tuple[Tensor, Tensor], counts: Counts) -> dict[str, Tensor]:
        """All terms of sentences but the one that needs the whole batch; `vectors` are student's and teacher's."""
        terms = self.inner_terms.of(micro.attention_mask, counts)
        if self.weights.vectors:
            terms["vectors"] = objective.vectors_error(*vectors, counts.sequences)
        return terms

    def logits(self, micro: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of student and teacher, [N, C] each, and labels [N]: of masked tokens, sequences or tokens."""
        if self.objective_name == "masked-lm":
            assert micro.labels is not None
            chosen = micro.labels != NO_LABEL  # the vocabulary's product at masked tokens only
            with torch.no_grad():
                states = self._states(self.teacher, micro)
                teacher = self.family.lm_head(self.teacher)(states[chosen]) if self.weights.kl > 0 else states[:0]
            student = self.family.lm_head(self.student)(self._states(self.student, micro)[chosen])
            return student, teacher, micro.labels[chosen]
        teacher = rows_of(micro, self._teacher_answer(micro), self.objective_name)
        student = rows_of(micro, self.student(**micro.inputs).logits, self.objective_name)
        if micro.labels is None:
            return student, teacher, torch.full((len(student),), NO_LABEL, device=student.device)
        return student, teacher, rows_of(micro, micro.labels, self.objective_name)

    def _states(self, model: nn.Module, micro: MicroBatch) -> Tensor:
        """The last hidden states, [B, S, D]."""
        states = self.family.body(model)(**micro.inputs).last_hidden_state
        assert isinstance(states, Tensor)
        return states

    def _logits_terms(self, micro: MicroBatch, counts: Counts) -> dict[str, Tensor]:
        with self.accelerator.autocast():
            student, teacher, labels = self.logits(micro)
            terms = self.inner_terms.of(micro.attention_mask, counts)
            if self.weights.task > 0 and counts.labelled > 0:
                terms["task"] = objective.label_loss(student, labels, counts.labelled)
            if self.weights.kl > 0:
                terms["kl"] = objective.logits_error(student, teacher, counts.rows, temperature=self.temperature)
        return terms

    def _sentence_terms(self, micro_batches: Sequence[MicroBatch], counts: Counts) -> dict[str, Tensor]:
        """The batch's similarities need all of its vectors, so one graph spans the micro-batches."""
        terms: dict[str, Tensor] = {}
        vectors = []
        with self.accelerator.autocast():
            for micro in micro_batches:
                vectors.append(self.sentence_vectors(micro))
                _add(terms, self._terms_of_texts(micro, vectors[-1], counts))
        if self.weights.task > 0:
            terms["task"] = self.similarity(micro_batches, vectors, over_processes=True)
        return terms

    def _sentences_one_by_one(self, micro_batches: Sequence[MicroBatch], counts: Counts) -> dict[str, Tensor]:
        """Leave the gradients of `_sentence_terms`, holding one micro-batch's graph at a time; the terms' sums.

        The similarities' gradients in the vectors come first, from a pass without graphs; then each
        micro-batch's vectors are computed again and given theirs (GradCache, arXiv 2101.06983).
        """
        with torch.no_grad(), self.accelerator.autocast():
            seen = [self.sentence_vectors(micro) for micro in micro_batches]
        students = [student.requires_grad_() for student, _ in seen]
        task = self.similarity(micro_batches, seen, over_processes=True)
        gradients = torch.autograd.grad(task * self.weights.task, students)
        sums = {"task": task.detach()}
        for micro, gradient, (_, teacher) in zip(micro_batches, gradients, seen, strict=True):
            with self.accelerator.autocast():
                if self.inner_terms.wanted:
                    student, _ = self.sentence_vectors(micro)
                else:  # the teacher has said all that is needed of it
                    student = self._student_vectors(micro)
                terms = self._terms_of_texts(micro, (student, teacher), counts)
            _add(sums, {name: value.detach() for name, value in terms.items()})
            loss = (student * gradient).sum()
            self.accelerator.backward(loss + self._weighted(terms) if terms else loss)
        return sums

    def similarity(
        self, micro_batches: Sequence[MicroBatch], vectors: Sequence[tuple[Tensor, Tensor]], *, over_processes: bool
    ) -> Tensor:
        """The similarity error of these vectors, or of those of all processes; gradients flow into these."""
        groups = _texts_and_documents(micro_batches, vectors)
        if over_processes:
            groups = [(self._of_all_processes(ours), self._of_all_processes(theirs)) for ours, theirs in groups]
        if len(groups) == 1:
            return objective.similarity_error(*groups[0], temperature=self.temperature)
        (queries, their_queries), (documents, their_documents) = groups
        return objective.match_error(
            (queries, documents), (their_queries, their_documents), temperature=self.temperature
        )

    def _of_all_processes(self, vectors: Tensor) -> Tensor:
        """[B/P, D] to [B, D]; gradients flow into this process's part alone, and are summed later."""
        if self.accelerator.num_processes == 1:
            return vectors
        everyone = list(self.accelerator.gather(vectors.detach()).split(len(vectors)))
        everyone[self.accelerator.process_index] = vectors
        return torch.cat(everyone)

    def _reduce_gradients(self, also: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over processes, as one flat message, so that all prune and step alike."""
        if self.accelerator.num_processes == 1:
            return
        parameters = [*self.student.parameters(), *also]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _texts_and_documents(
    micro_batches: Sequence[MicroBatch], vectors: Sequence[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's vectors of all texts and, where there are any, of all documents."""
    groups = []
    for documents in (False, True):
        chosen = [pair for micro, pair in zip(micro_batches, vectors, strict=True) if micro.documents == documents]
        if chosen:
            students, teachers = zip(*chosen, strict=True)
            groups.append((torch.cat(students), torch.cat(teachers)))
    return groups


def _is_cut(micro_batches: Sequence[MicroBatch]) -> bool:
    """Whether the texts, or the documents, are more than one micro-batch."""
    documents = sum(micro.documents for micro in micro_batches)
    return max(documents, len(micro_batches) - documents) > 1


def _add(totals: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    for name, value in terms.items():
        totals[name] = totals[name] + value if name in totals else value


def _pairs_attended(lengths: Tensor, window: Window) -> Tensor:
    """Number of pairs of a token and one that it attends to, over all sequences, of so many tokens each [B]."""
    pairs = lengths.clone()  # each with itself
    for side in window:
        reach = lengths - 1 if side is None else torch.clamp(lengths - 1, max=side)
        pairs += lengths * reach - reach * (reach + 1) // 2  # Σ over distances 1..reach of n − distance
    return pairs.sum()
