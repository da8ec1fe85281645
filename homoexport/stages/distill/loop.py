"""The distillation loop: step, score, prune, log, save.

HomoDistil, arXiv 2302.09632, algorithm 1, with pruning by slicing in place of masks: the student
starts as the teacher; after each prune event it is a smaller dense model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from homoexport.choices import AT_RANDOM
from homoexport.documents.student import KeptNeurons, StepRecord, WidthFigures
from homoexport.encoder import Keep, count_parameters, slice_model
from homoexport.encoder.fake_quant import rounded_to_int8
from homoexport.shape import Shape, Widths
from homoexport.stages.distill.batches import BatchMaker, MicroBatch, up_to
from homoexport.stages.distill.checkpoint import RunState
from homoexport.stages.distill.depth import Depth
from homoexport.stages.distill.importance import Ranking, choose, kept_of
from homoexport.stages.distill.job import Job
from homoexport.stages.distill.layerwise import LayerMap
from homoexport.stages.distill.optimizer import forget_parameters, make_optimizer
from homoexport.stages.distill.repair import MOST_TOKENS, Repair
from homoexport.stages.distill.schedule import PruneSchedule, widths_due
from homoexport.stages.distill.start import recompute_activations, start_student
from homoexport.stages.distill.step import StepLoss
from homoexport.stages.distill.terms import InnerTerms, weights_at, with_vectors


class Run:
    """The state of a distillation: what a checkpoint holds, and what a step changes.

    It passes the shapes of `waypoints`, the widest first, on its way, and calls `on_waypoint` at each;
    `on_mending` is told what share is done of a repair at the start, which takes long.
    """

    def __init__(self, job: Job, target: Shape, *, waypoints: Sequence[Shape] = ()) -> None:
        settings = with_vectors(job.settings, job.output)
        self.settings, self.accelerator, self.target, self.family = settings, job.accelerator, target, job.family
        self.waypoints = list(waypoints)
        self.on_waypoint: Callable[[], None] = lambda: None
        self.on_mending: Callable[[float], None] = lambda _share: None
        start = start_student(
            job.encoder.model,
            self.family,
            target,
            settings.method,
            compare_in=settings.compare_in,
            seed=job.seed,
        )
        vectors = job.corpus.description.vectors
        if vectors is not None and job.output == "teacher":
            start.projections.answer_in(vectors.width)
        device = self.accelerator.device
        self.teacher = job.encoder.model.to(device).requires_grad_(False).eval()
        self.student = start.student.to(device).requires_grad_(True).eval()  # eval: no dropout
        self.start_widths = self.family.widths(self.student)
        self.schedule = PruneSchedule.of(settings)
        self.projections = start.projections.to(device)
        self.optimizer = make_optimizer(self.student, self.projections, settings)
        self.rate = get_linear_schedule_with_warmup(
            self.optimizer, round(settings.warmup * settings.steps), settings.steps + 1
        )
        self.ranking = Ranking(self.student, self.family, settings)
        self.depth = Depth(
            self.student,
            self.family,
            to_go=self.start_widths.num_hidden_layers - target.num_hidden_layers,
            stop=self.schedule.stop,
            beta=settings.importance_smoothing,
        )
        self.inner_terms = InnerTerms(
            self.teacher, self.student, self.family, self.projections, settings=settings, layer_map=start.layer_map
        )
        pooling = job.encoder.pooling
        self.loss = StepLoss(
            self.inner_terms,
            settings,
            pooling_modes=pooling.modes if pooling else ("mean",),
            dense=nn.Sequential(*job.encoder.dense).to(device),
            output=job.output,
            accelerator=self.accelerator,
        )
        self.step = 0
        self.slowed = False
        self.is_teacher = start.is_teacher
        self._probed = False
        self._compiled = False
        self._repairs = (settings.repair or settings.method == "repair") and not self.family.shares_layers
        self._lacks_layers = self._repairs and not start.is_teacher  # from the beginning; the first event mends that
        self._most_tokens = MOST_TOKENS // self.accelerator.num_processes
        self._text: Sequence[MicroBatch] = ()
        if settings.activation_checkpointing:
            recompute_activations(self.family.taps(self.student).layers)
        if settings.compile:  # its widths never change; the student's do until t_f
            self.family.body(self.teacher).compile()

    def read_text(self, batches: BatchMaker) -> None:
        """Read what a new student begins with: what one is mended on that is pruned at once (without it that is the
        first step's batch), and what the way to another model's vectors is fitted to.
        """
        if self.projections.answer is not None:
            self.loss.fit_answer(up_to(batches.first(self._most_tokens), self._most_tokens))
        if self._repairs and self.schedule.stop == 0:
            self._text = batches.first(self._most_tokens)

    def close(self) -> None:
        """Take this run's hooks off the teacher, which other runs may copy."""
        self.inner_terms.remove()
        if self.settings.compile:
            torch.compiler.reset()  # what was made for this student's shapes

    @property
    def finished(self) -> bool:
        return self.step >= self.settings.steps

    @property
    def widths(self) -> Widths:
        return self.family.widths(self.student)

    def kept(self) -> KeptNeurons | None:
        """Which of the teacher's neurons are left; None where the student began at random."""
        if self.settings.method in AT_RANDOM:
            return None
        return kept_of(self.ranking.places, self.family.widths(self.teacher), self.inner_terms.map.attention)

    @property
    def is_sound(self) -> bool:
        """Whether all weights are numbers."""
        weights = [*self.student.parameters(), *self.projections.parameters()]
        return bool(torch.nn.utils.get_total_norm([weight.detach() for weight in weights]).isfinite())

    def slow_down(self, factor: float) -> None:
        """Lower the learning rate from here to the end."""
        self.slowed = True
        self.rate.base_lrs = [factor * rate for rate in self.rate.base_lrs]
        self.rate._last_lr = [factor * rate for rate in self.rate._last_lr]
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def advance(self, micro_batches: Sequence[MicroBatch]) -> StepRecord:
        """One step: gradients, importance, update, and pruning where it is due."""
        began = time.perf_counter()
        pruned = False
        self.loss.weigh(weights_at(self.settings, self.step))
        if self.step == self.schedule.stop == 0 and (self.widths != Widths.of(self.target) or self._lacks_layers):
            if self.widths != Widths.of(self.target):
                self._probe(micro_batches)  # everything that is to go goes before the first update
            pruned = self._event(self._text or micro_batches)
            self._text = ()
        if self.is_teacher:  # asked in another batch it is equal but for rounding, of which Adam would make steps
            micro_batches = [replace(micro, shown=None) for micro in micro_batches]
        widths, parameters, step = self.widths, count_parameters(self.student), self.step
        as_int8 = step >= (1 - self.settings.int8_share) * self.settings.steps
        with rounded_to_int8(self.student) if as_int8 else nullcontext():
            terms = self.loss.backward(micro_batches, also=[*self.projections.parameters(), self.depth.scales])
        sound = self._unscale()
        if self.step < self.schedule.stop and sound:
            self._score(micro_batches)
        learning_rate = self._train() if self.settings.method != "repair" else 0.0
        self._forget_gradients()
        self.step += 1
        pruned |= self._event(micro_batches)
        if self.settings.compile and not self._compiled and self.step >= self.schedule.stop:
            self._compiled = True
            self.family.body(self.student).compile()
        weighted = {name: value * getattr(self.loss.weights, name) for name, value in terms.items()}
        of_labels = {"task"} if self.settings.objective != "sentence-embedding" else set()
        of_others = {"task", "vectors"} if micro_batches[0].vectors is not None else of_labels
        return StepRecord(
            step=step,
            loss=sum(weighted.values()),
            terms=terms,
            gap=sum(value for name, value in weighted.items() if name not in of_others),
            widths=WidthFigures.model_validate(widths.as_json()),
            parameters=parameters,
            learning_rate=learning_rate,
            pruned=pruned,
            seconds=time.perf_counter() - began,
        )

    def _unscale(self) -> bool:
        """Undo fp16's loss scale on the gradients; whether they are finite, so that they may be scored."""
        scaler = self.accelerator.scaler
        if scaler is None:
            return True
        if self.depth.scales.grad is not None:  # which is none of the optimizer's
            self.depth.scales.grad.div_(scaler.get_scale())
        scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        return not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite())

    def _train(self) -> float:
        """Update the weights; the learning rate of that."""
        weights = [*self.student.parameters(), *self.projections.parameters()]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        if not norm <= self.settings.max_grad_norm:  # a pass over all gradients that most steps need not make
            torch.nn.utils.clip_grads_with_norm_(weights, self.settings.max_grad_norm, norm)
        learning_rate = float(self.rate.get_last_lr()[0])
        scaler = self.accelerator.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.rate.step()
        return learning_rate

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.depth.scales.grad = None

    def _score(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Blend this step's sensitivity into the ranking.

        While the student is its teacher, and nothing but its teacher could move it, that is what the probe says, at
        the events alone; its gradients are for scoring, and the student stays its teacher until an event takes
        something.
        """
        weights = self.loss.weights
        if not self.is_teacher or (self.loss.labels_seen and (weights.task or weights.vectors)):
            self._rank(micro_batches)
            return
        self._forget_gradients()
        if self.schedule.is_event(self.step + 1):
            self._probe(micro_batches)

    def _probe(self, micro_batches: Sequence[MicroBatch]) -> None:
        if self.ranking.needs_gradients or self.depth.to_go:
            self.loss.probe(micro_batches, also=[self.depth.scales])
            self._rank(micro_batches)
            self._forget_gradients()
            self._probed = True

    def _rank(self, micro_batches: Sequence[MicroBatch]) -> None:
        token_ids = None
        if self.settings.objective != "masked-lm" and self.accelerator.num_processes == 1:
            token_ids = torch.unique(torch.cat([micro.input_ids.flatten() for micro in micro_batches]))
        if self.ranking.needs_gradients and self.widths.exceeds(self._widths_due(0.0)):
            self.ranking.update(token_ids)
        self.depth.update()

    def _event(self, text: Sequence[MicroBatch]) -> bool:
        """Fade and prune what is due, and mend it on the text if asked to; whether neurons or a layer went.

        What a probe said is in other units than a loss's sensitivity, so it counts for one event.
        """
        gone, sliced = self._fade(), self._prune(text)
        if self._repairs and self.step == 0 and (gone or self._lacks_layers) and not sliced:
            self._slice_and_mend(Keep({}, self.widths.head_dim), text)
        if self._probed and not self.is_teacher:
            self.ranking.forget()
            self.depth.scores.zero_()
            self._probed = False
        return gone or sliced

    def _fade(self) -> bool:
        """Move the fading layer on; whether a layer went."""
        if not self.depth.to_go or not (self.depth.fading is not None or self.schedule.is_event(self.step)):
            return False
        gone = False
        while self.depth.to_go:
            fading = self.depth.begin(self.step) if self.depth.fading is None else self.depth.fading
            if self.depth.fade(self.step) > 0:
                break
            self._remove_layer(fading)
            gone = True
        self.is_teacher &= not gone and self.depth.scale == 1
        self.inner_terms.set_fading(self.depth.fading, self.depth.scale)
        return gone

    def _remove_layer(self, layer: int) -> None:
        before = set(self.student.parameters())
        stay = self.depth.remove(layer)
        forget_parameters(self.optimizer, before - set(self.student.parameters()))
        self.ranking.keep_layers(stay)
        self.inner_terms.follow(self.inner_terms.map.without(layer))

    def _widths_due(self, remaining: float) -> Widths:
        """Widths when `remaining` of the way is to go, held back at the next waypoint; never wider than now."""
        layers = self.widths.num_hidden_layers
        due = widths_due(self.start_widths, self.target, remaining, layers=layers)
        if self.waypoints:
            ahead = [*self.waypoints, self.target]
            heads = max(shape.num_attention_heads for shape in ahead)
            head_dim = max(shape.head_dim for shape in ahead)
            due = due.at_least(Widths(ahead[0].hidden_size, ahead[0].intermediate_size, (heads,) * layers, head_dim))
        return due.at_most(self.widths)

    def _prune(self, text: Sequence[MicroBatch]) -> bool:
        """Slice to what is due; whether neurons went."""
        if not self.schedule.is_event(self.step):
            return False
        remaining = self.schedule.remaining(self.step)
        pruned = self._slice_to(self._widths_due(remaining), text)
        while self.waypoints and self._passed(self.waypoints[0]):
            self.waypoints.pop(0)
            self.on_waypoint()
            if remaining > 0:
                break
            pruned |= self._slice_to(self._widths_due(remaining), text)
        return pruned

    def _passed(self, waypoint: Shape) -> bool:
        now = self.widths
        return now.hidden_size <= waypoint.hidden_size and now.intermediate_size <= waypoint.intermediate_size

    def _slice_to(self, due: Widths, text: Sequence[MicroBatch]) -> bool:
        now = self.widths
        if not now.exceeds(due):
            return False
        keep = choose(self.ranking.scores(), now, due, alike=self.family.shares_layers)
        if not keep.indices and keep.head_dim == now.head_dim:
            return False  # heads that layers share leave when there is one for each layer to lose
        if self._repairs and self.depth.fading is None:  # a branch that fades adds less than its last layer gives
            self._slice_and_mend(keep, text)
        else:
            self._slice(keep)
        self.ranking.keep(keep)
        self.is_teacher = False
        return True

    def _slice_and_mend(self, keep: Keep, text: Sequence[MicroBatch]) -> None:
        """Slice, and fit what is left to what the student was, or at step 0 the teacher, which it lost layers of."""
        layer_map = self.inner_terms.map
        at_start = self.step == 0
        before = self.teacher if at_start else copy.deepcopy(self.student)
        answered = layer_map if at_start else LayerMap.one_to_one(len(layer_map.hidden))
        on_share = self.on_mending if at_start else lambda _share: None
        on_share(0.0)
        reduce = partial(self.accelerator.reduce, reduction="sum")
        repair = Repair(before, self.student, self.family, up_to(text, self._most_tokens), keep, reduce=reduce)
        projections = copy.deepcopy(self.projections)
        self._slice(keep)
        maps = repair.mend(answered, heads=self.settings.objective != "sentence-embedding", on_share=on_share)
        self.projections.follow(projections, maps, layer_map)
        self.inner_terms.clear()

    def _slice(self, keep: Keep) -> None:
        slice_model(self.student, self.family, keep, optimizer=self.optimizer, followers=self.projections.followers())

    def state(self) -> RunState:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "start_widths": asdict(self.start_widths),
            "widths": asdict(self.widths),
            "student": self.student.state_dict(),
            "projections": self.projections.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "ranking": self.ranking.state(),
            "depth": self.depth.state(),
            "is_teacher": self.is_teacher,
            "probed": self._probed,
            "labels_seen": self.loss.labels_seen,
            "slowed": self.slowed,
            "waypoints": len(self.waypoints),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, state: RunState) -> None:
        self._load(state)
        self.start_widths = Widths(**state["start_widths"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.depth.load(state["depth"])
        self.inner_terms.set_fading(self.depth.fading, self.depth.scale)
        del self.waypoints[: len(self.waypoints) - state["waypoints"]]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.slowed = state["step"], state["slowed"]

    def branch_off(self, state: RunState) -> None:
        """Begin where another run stands: its student, moments and ranking; steps and rates are this run's own."""
        self._load(state)
        self.start_widths = self.widths
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _load(self, state: RunState) -> None:
        """Slice to a state's layers and widths, then take its values."""
        for layer in reversed(range(self.widths.num_hidden_layers)):
            if layer not in state["depth"]["kept"]:
                self._remove_layer(layer)
        # Of whichever neurons: the state's values replace what is left.
        layout, saved = self.family.layout(self.student), Widths(**state["widths"])
        self._slice(Keep.first(layout, self.widths, saved, self.accelerator.device))
        self.student.load_state_dict(state["student"])
        self.projections.load_state_dict(state["projections"])
        self.ranking.load(state["ranking"])
        self.is_teacher, self._probed = state["is_teacher"], state["probed"]
        self.loss.labels_seen = state["labels_seen"]
