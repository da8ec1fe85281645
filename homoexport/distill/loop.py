"""The distillation loop: step, score, prune, log, save.

HomoDistil, arXiv 2302.09632, algorithm 1, with pruning by slicing in place of masks: the student
starts as the teacher; after each prune event it is a smaller dense model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from homoexport.distill.batches import BatchMaker
from homoexport.distill.importance import choose, keep_scores, update_scores, zero_scores
from homoexport.distill.objective import Projections
from homoexport.distill.schedule import PruneSchedule, widths_at
from homoexport.distill.step import MicroBatch, StepLoss
from homoexport.encoder import Encoder, Keep, LayerKeep, Widths, count_parameters, family_of, slice_model
from homoexport.errors import TrainingError
from homoexport.recipe import DistillSettings


@dataclass(frozen=True)
class StepReport:
    """One line of the log. `gap` is the weighted sum of the distillation terms, before the update."""

    step: int
    loss: float
    terms: dict[str, float]
    gap: float
    widths: dict[str, float]
    parameters: int
    learning_rate: float
    pruned: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


class Run:
    """The state of a distillation: what a checkpoint holds, and what a step changes.

    Args:
        teacher: frozen teacher.
        student: the model that is trained, at the teacher's widths or at the target's.
        target: widths to end at.
        settings: how to distil.
        accelerator: device, precision and processes.
    """

    def __init__(
        self,
        teacher: Encoder,
        student: PreTrainedModel,
        *,
        target: Widths,
        settings: DistillSettings,
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.accelerator, self.target = settings, accelerator, target
        self.family = family_of(student.config)
        self.teacher = teacher.model.to(accelerator.device).requires_grad_(False).eval()
        self.student = student.to(accelerator.device).requires_grad_(True).eval()  # eval: no dropout
        self.start_widths = self.family.widths(self.student)
        teacher_widths = self.family.widths(self.teacher)
        self.projections = Projections(teacher_widths.hidden_size, len(teacher_widths.heads)).to(accelerator.device)
        if self.start_widths.hidden_size < teacher_widths.hidden_size:
            first = torch.arange(self.start_widths.hidden_size, device=accelerator.device)
            for parameter, axis in self.projections.followers():
                parameter.data = parameter.data.index_select(axis, first)
        self.schedule = PruneSchedule.of_run(
            settings.steps,
            prune_from=settings.prune_from,
            prune_until=settings.prune_until,
            prune_every=settings.prune_every,
        )
        self.optimizer = _optimizer(self.student, self.projections, settings)
        self.rate = get_linear_schedule_with_warmup(
            self.optimizer, max(1, round(settings.warmup * settings.steps)), settings.steps + 1
        )
        self.scores = zero_scores(self.start_widths, accelerator.device)
        self.step = 0
        self.loss = StepLoss(
            self.teacher,
            self.student,
            self.family,
            self.projections,
            objective_name=settings.objective,
            weights=settings.weights,
            temperature=settings.temperature,
            pooling_mode=teacher.pooling.mode if teacher.pooling else "mean",
            accelerator=accelerator,
        )

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.settings.steps

    def advance(self, micro_batches: Sequence[MicroBatch]) -> tuple[dict[str, float], float, bool]:
        """One step: gradients, importance, update, and pruning where it is due.

        Returns:
            The step's terms, its learning rate, and whether neurons went.
        """
        terms = self.loss.backward(micro_batches)
        if self.step < self.schedule.stop and self.family.widths(self.student) != self.target:
            self._score(micro_batches)
        parameters = [*self.student.parameters(), *self.projections.parameters()]
        torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        learning_rate = self.rate.get_last_lr()[0]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.rate.step()
        self.step += 1
        return terms, learning_rate, self._prune()

    @property
    def _nothing_to_learn(self) -> bool:
        """Whether the student is still its teacher, and no loss but distillation's could move it."""
        labels = self.settings.objective == "masked-lm" and self.settings.weights.task > 0
        return not labels and self.start_widths == self.family.widths(self.student) == self.family.widths(self.teacher)

    def _score(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Blend this step's sensitivity into the scores.

        Before the first event of a student with nothing to learn, that is what the probe says, once;
        its gradients are for scoring alone, and the student stays its teacher.
        """
        probing = self._nothing_to_learn
        if probing:
            self.optimizer.zero_grad(set_to_none=True)
            if not self.schedule.is_event(self.step + 1):
                return
            self.loss.probe(micro_batches)
        token_ids = None
        if self.settings.objective != "masked-lm" and self.accelerator.num_processes == 1:
            token_ids = torch.unique(torch.cat([micro.input_ids.flatten() for micro in micro_batches]))
        update_scores(
            self.scores, self.student, self.family, beta=self.settings.importance_smoothing, token_ids=token_ids
        )
        if probing:
            self.optimizer.zero_grad(set_to_none=True)

    def _prune(self) -> bool:
        widths = self.family.widths(self.student)
        if widths == self.target or not self.schedule.is_event(self.step):
            return False
        hidden, ffn, heads, head_dim = widths_at(self.start_widths, self.target, self.schedule.remaining(self.step))
        if (hidden, ffn, heads, head_dim) == (
            widths.hidden_size,
            widths.intermediate_size,
            sum(widths.heads),
            widths.head_dim,
        ):
            return False
        keep = choose(self.scores, widths, hidden_size=hidden, ffn=ffn, total_heads=heads, head_dim=head_dim)
        self._slice(keep)
        self.scores = keep_scores(self.scores, keep)
        return True

    def _slice(self, keep: Keep) -> None:
        slice_model(self.student, self.family, keep, optimizer=self.optimizer, followers=self.projections.followers())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "widths": asdict(self.family.widths(self.student)),
            "student": self.student.state_dict(),
            "projections": self.projections.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "scores": self.scores.tensors(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: slice to its widths, then load its values."""
        saved = state["widths"]
        widths = Widths(saved["hidden_size"], saved["intermediate_size"], tuple(saved["heads"]), saved["head_dim"])
        self._slice(_first(widths, self.family.widths(self.student), self.accelerator.device))
        self.student.load_state_dict(state["student"])
        self.projections.load_state_dict(state["projections"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.scores = zero_scores(widths, self.accelerator.device)
        for vector, value in zip(self.scores.tensors(), state["scores"], strict=True):
            vector.copy_(value)
        self.step = state["step"]


def run_steps(
    run: Run,
    batches: BatchMaker,
    *,
    on_step: Callable[[StepReport], None],
    on_checkpoint: Callable[[], None],
) -> None:
    """Advance a run to its end.

    Args:
        run: fresh or restored.
        batches: the training text.
        on_step: is given every step's report.
        on_checkpoint: is called every `checkpoint_every` steps.
    """
    settings, weights = run.settings, run.settings.weights
    while not run.finished:
        began = time.perf_counter()
        step = run.step
        widths, parameters = run.family.widths(run.student), count_parameters(run.student)
        terms, learning_rate, pruned = run.advance(batches.of_step(step))
        weighted = {name: value * getattr(weights, name) for name, value in terms.items()}
        if not math.isfinite(sum(weighted.values())):
            raise TrainingError(
                f"the loss is {sum(weighted.values())} at step {step}",
                where="distill",
                mend="check the teacher's weights" if step == 0 else "lower distill.learning_rate",
            )
        task_is_gap = settings.objective != "masked-lm"
        on_step(
            StepReport(
                step=step,
                loss=sum(weighted.values()),
                terms=terms,
                gap=sum(value for name, value in weighted.items() if name != "task" or task_is_gap),
                widths=widths.as_json(),
                parameters=parameters,
                learning_rate=learning_rate,
                pruned=pruned,
                seconds=time.perf_counter() - began,
            )
        )
        if run.step % settings.checkpoint_every == 0 and not run.finished:
            on_checkpoint()


def _optimizer(student: PreTrainedModel, projections: Projections, settings: DistillSettings) -> torch.optim.AdamW:
    matrices = [parameter for parameter in student.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in student.parameters() if parameter.dim() <= 1] + list(projections.parameters())
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def _first(widths: Widths, present: Widths, device: torch.device) -> Keep:
    """A slice to `widths`, of whichever neurons: a checkpoint's values replace what is left."""

    def index(count: int) -> torch.Tensor:
        return torch.arange(count, device=device)

    layers = []
    for heads in widths.heads:
        attention = (index(heads)[:, None] * present.head_dim + index(widths.head_dim)).flatten()
        layers.append(LayerKeep(attention, attention, index(widths.intermediate_size)))
    return Keep(index(widths.hidden_size), tuple(layers), widths.head_dim)
