"""What every run of one distillation shares: teacher, text, processes, and what is checked of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType, gather_object
from torch import nn

from homoexport.choices import Method, ModelTask, Objective, Side
from homoexport.documents.recipe import DistillSettings
from homoexport.documents.vocabulary import VocabularyDescription
from homoexport.encoder import Encoder, Family, family_of, weights_digest
from homoexport.errors import RecipeError, TeacherError, TrainingError, UserError
from homoexport.host import available_cores, describe_host
from homoexport.shape import PartialShape, Shape
from homoexport.stages.distill.batches import BatchMaker
from homoexport.stages.distill.schedule import PruneSchedule
from homoexport.text.corpus import Corpus

TASKS: dict[Objective, ModelTask] = {
    "masked-lm": "fill-mask",
    "sentence-embedding": "sentence-similarity",
    "classification": "text-classification",
    "token-classification": "token-classification",
}


class Sources(TypedDict):
    """Digests of teacher and text: a run resumes on nothing else."""

    teacher: str
    text: object


@dataclass(frozen=True)
class Job:
    """What every run of one distillation shares: a loaded teacher, its text, and the processes that distil it.

    `targets` are the shapes of the students that were asked for, the widest first; `output` is the space that they
    answer in; `vocabulary` is what is left of the teacher's words, where they are fewer.
    """

    encoder: Encoder
    corpus: Corpus
    settings: DistillSettings
    accelerator: Accelerator
    max_length: int
    seed: int
    targets: tuple[Shape, ...]
    output: Side = "student"
    vocabulary: VocabularyDescription | None = None

    @property
    def family(self) -> Family:
        return family_of(self.encoder.model.config)

    @property
    def batches(self) -> BatchMaker:
        return BatchMaker(
            self.corpus, self.encoder.tokenizer, self.settings, self.max_length, self.seed, self.accelerator
        )

    @cached_property
    def sources(self) -> Sources:
        return {"teacher": weights_digest(self.encoder), "text": self.corpus.description.model_dump(mode="json")}

    def with_settings(self, settings: DistillSettings) -> Job:
        return replace(self, settings=settings)


def join_processes(settings: DistillSettings, *, seed: int, tracker_dir: Path | None = None) -> Accelerator:
    """This process among those that distil together, with its threads and its seed.

    `tracker_dir` is where trackers keep what they keep on disk. Trackers, a precision or a number of processes that
    cannot be had are refused (RecipeError).
    """
    _check_trackers(settings.trackers)
    accelerator = _accelerator(settings, tracker_dir)
    if accelerator.device.type == "cpu":
        processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(settings.threads or max(1, available_cores() // processes_here))
    torch.manual_seed(seed)
    if settings.batch_size % accelerator.num_processes:
        raise RecipeError(
            f"batch_size {settings.batch_size} is not divisible by {accelerator.num_processes} processes",
            where="distill.batch_size",
        )
    return accelerator


def targets_of(
    teacher: Encoder, shapes: Sequence[PartialShape], settings: DistillSettings, *, max_length: int
) -> tuple[Shape, ...]:
    """The students' shapes, the widest first, once the teacher suits them and the settings (TeacherError, ShapeError,
    RecipeError).
    """
    config, family = teacher.model.config, family_of(teacher.model.config)
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise TeacherError("its head has many labels for one text, which is not supported", where=teacher.source)
    _check_against_teacher(max_length, settings, family, teacher.model)
    targets = tuple(target_of(teacher, shape, settings) for shape in shapes)
    if len({shape.output for shape in shapes}) > 1:
        raise RecipeError("students of one run answer in one space", where="students", hint="give all the same output")
    if len(targets) > 1:
        _check_students(family.widths(teacher.model).shape, targets, settings)
    return targets


def target_of(encoder: Encoder, asked: PartialShape, settings: DistillSettings) -> Shape:
    """The student's shape: what is asked for, completed from the teacher and checked (ShapeError, RecipeError)."""
    _check_output(asked.output, settings)
    if asked.output == "teacher" and encoder.pooling is not None and encoder.pooling.more:
        what = f"the teacher's vectors are made of several ({', '.join(encoder.pooling.modes)})"
        raise RecipeError(what, where="student.output", hint="leave it out: one layer leads to one of them")
    family = family_of(encoder.model.config)
    teacher = family.widths(encoder.model).shape
    if settings.method in ("layers", "tinybert") and asked.num_hidden_layers is None:
        asked = asked.model_copy(update={"num_hidden_layers": -(-teacher.num_hidden_layers // 2)})
    target = family.complete(encoder.model, asked, prune=settings.prune)
    _check_layers(family, fewer=target.num_hidden_layers < teacher.num_hidden_layers, method=settings.method)
    return target


def _check_layers(family: Family, *, fewer: bool, method: Method) -> None:
    """Refuse what asks more of layers than the family's have."""
    if method == "repair" and family.shares_layers:
        what = "all layers of the teacher have the same weights, and cannot be mended one after the other"
        raise RecipeError(what, where="distill.method", hint="name homodistil or one-shot")
    if fewer and family.shares_layers and method in ("homodistil", "one-shot"):
        what = "all of the teacher's layers are one, so that none can fade out"
        raise RecipeError(what, where="student.num_hidden_layers", hint="leave it out, or distill.method: layers")


def _check_output(output: Side, settings: DistillSettings) -> None:
    """Refuse a space that the student cannot answer in, and vectors to match that lie in two."""
    if output == "student":
        if settings.weights.vectors:
            what, hint = "student and teacher answer in spaces of their own", "student.output: teacher, or leave it out"
            raise RecipeError(what, where="distill.weights.vectors", hint=hint)
        if settings.vectors_from is not None and not settings.weights.task:
            what, hint = "no term with a weight matches these vectors", "student.output: teacher, or weigh 'task'"
            raise RecipeError(what, where="distill.vectors_from", hint=hint)
        return
    if settings.objective != "sentence-embedding":
        what, hint = f"a student of {settings.objective} gives no vectors", "leave it out"
        raise RecipeError(what, where="student.output", hint=hint)
    if settings.compare_in != "teacher":
        what = f"an answer in the teacher's space cannot be compared in the {settings.compare_in}'s"
        raise RecipeError(what, where="student.output", hint="set distill.compare_in to teacher, or leave it out")


def _accelerator(settings: DistillSettings, tracker_dir: Path | None) -> Accelerator:
    precision = _mixed_precision(settings)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # of an earlier distillation in this process
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.cuda.is_available(),
        log_with=list(settings.trackers) or None,
        project_dir=tracker_dir,
    )
    accelerator.gradient_accumulation_steps = 1  # micro-batches are ours, whatever the launcher's environment says
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise RecipeError(
            f"{accelerator.distributed_type.value} shards the model, which is sliced here",
            where="accelerate",
            hint="launch with --multi_gpu: each process holds the whole student",
        )
    return accelerator


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """A block that all processes leave alike: where one fails, all raise the UserError of the first that did."""
    if accelerator.num_processes == 1:
        yield
        return
    error = None
    try:
        yield
    except UserError as raised:
        error = raised
    failures = gather_object([error and (error.what, error.where, error.hint)])
    if error is not None:
        raise error
    for what, where, hint in filter(None, failures):
        raise UserError(what, where=where, hint=hint)


def _check_students(teacher: Shape, targets: Sequence[Shape], settings: DistillSettings) -> None:
    """Students that can lie on one way of widths."""
    if settings.method != "homodistil" or PruneSchedule.of(settings).stop == 0:
        what = settings.method if settings.method != "homodistil" else "pruning at step 0"
        raise RecipeError(
            f"{what} has no path of widths to branch off from",
            where="students",
            hint="distill.method: homodistil and a later distill.prune_until, or one run for each student",
        )
    for target in targets:
        if target.num_hidden_layers != teacher.num_hidden_layers:
            raise RecipeError(
                "students of one run keep all of the teacher's layers",
                where="students",
                hint="leave num_hidden_layers out, or one run for each student",
            )
    for wider, narrower in pairwise(targets):
        if not (wider.hidden_size > narrower.hidden_size and wider.intermediate_size >= narrower.intermediate_size):
            raise RecipeError("give the widest student first", where="students")


def _check_against_teacher(max_length: int, settings: DistillSettings, family: Family, model: nn.Module) -> None:
    positions = family.longest_sequence(model)
    if positions is not None and max_length > positions:
        raise RecipeError(
            f"max_length {max_length} is more than the teacher's {positions} positions",
            where="text.max_length",
            hint=f"at most {positions}",
        )
    layers = family.widths(model).num_hidden_layers
    if settings.layers is not None and max(settings.layers) > layers:
        raise RecipeError(
            f"the teacher has no layer {max(settings.layers)}", where="distill.layers", hint=f"1 to {layers}"
        )


def _check_trackers(names: tuple[str, ...]) -> None:
    available = sorted(str(tracker) for tracker in get_available_trackers())
    known = sorted(str(tracker.value) for tracker in LoggerType if tracker is not LoggerType.ALL)
    for name in names:
        if name != "all" and name not in available:
            raise RecipeError(
                f"the tracker '{name}' is not installed",
                where="distill.trackers",
                hint=f"installed: {', '.join(available) or 'none'}; accelerate knows {', '.join(known)}",
            )


def _mixed_precision(settings: DistillSettings) -> str:
    if settings.precision == "auto":
        return "bf16" if _bf16_pays() else "no"
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("fp16 needs a GPU", where="distill.precision", hint="bf16, fp32 or auto")
    return "no" if settings.precision == "fp32" else settings.precision


def _bf16_pays() -> bool:
    """Whether bf16 matrix products are at least 1.5 times as fast as fp32 ones here.

    Decided by what the hardware has, not by a stopwatch, so that a resumed run decides the same.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "amx_bf16" in describe_host().instruction_sets


@contextmanager
def all_processes_alive() -> Iterator[None]:
    """Turn the end of another process into one line (TrainingError).

    Either a message to or from it did not get through, or the launcher, which may be the first to see it, ends this one
    too (SIGTERM).
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end_with_the_others) if several else None
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise _another_has_ended() from None
    finally:
        if several:
            signal.signal(signal.SIGTERM, before)


def _another_has_ended() -> TrainingError:
    return TrainingError(
        "another process of this job has ended",
        where="distill",
        hint="see its own message; start the job again with --resume, on any number of processes",
    )


def _end_with_the_others(_signal: int, _frame: object) -> None:
    raise _another_has_ended()
