"""The stage: from settings to a student folder. Loads, resumes, logs, saves; the loop computes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from homoexport.artifact import (
    MANIFEST,
    RUN_MARK,
    digest_of,
    make_folder,
    output_errors,
    read_json,
    refuse_existing,
    write_manifest,
    write_run_mark,
)
from homoexport.distill.batches import BatchMaker
from homoexport.distill.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from homoexport.distill.evaluation import held_out_loss
from homoexport.distill.loop import Run, StepReport, run_steps
from homoexport.encoder import (
    Encoder,
    Widths,
    count_parameters,
    family_of,
    load_encoder,
    parent_of,
    save_encoder,
    target_widths,
    weights_digest,
)
from homoexport.errors import OutputError, RecipeError
from homoexport.host import available_cores, describe_host
from homoexport.recipe import DistillSettings, StudentShape, TextSettings
from homoexport.text import Corpus, prepare_text

LOG = "log.jsonl"
HELD_OUT = "held_out.txt"
_MICRO_BATCH_ON_CPU = 8  # small ones waste less padding; on a GPU the whole share goes at once


@dataclass(frozen=True)
class Progress:
    """What a distillation tells while it runs: a step's report, and how many steps there are."""

    report: StepReport
    steps: int


def distill(
    teacher: str,
    *,
    text: TextSettings,
    shape: StudentShape,
    settings: DistillSettings,
    out_dir: Path,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    recipe_digest: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Distil a student out of a teacher and save it as a stock model folder.

    Runs under `accelerate launch` as it stands; the first process alone writes.

    Args:
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`.
        text: what to distil on.
        shape: the student's widths.
        settings: how to distil.
        out_dir: becomes the student's folder: config, weights, tokenizer, log, manifest.
        seed: of data order, held-out split and masks.
        force: replace `out_dir` where it is a folder that homoexport wrote.
        resume: go on from the last checkpoint in `out_dir`.
        recipe_digest: of the recipe that this is part of.
        on_progress: is given every step's report, in the first process.

    Returns:
        `out_dir`.

    Raises:
        TeacherError, TextError, ShapeError, OutputError, RecipeError: see `homoexport.errors`.
    """
    settings_digest = digest_of([teacher, *(part.model_dump(mode="json") for part in (text, shape, settings)), seed])
    _check_output(out_dir, settings_digest, force=force, resume=resume)
    if resume and (out_dir / MANIFEST).is_file():
        (out_dir / CHECKPOINT).unlink(missing_ok=True)
        return out_dir
    accelerator = Accelerator(mixed_precision=_mixed_precision(settings), cpu=not torch.cuda.is_available())
    if accelerator.device.type == "cpu":
        processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(settings.threads or max(1, available_cores() // processes_here))
    torch.manual_seed(seed)
    if settings.batch_size % accelerator.num_processes:
        raise RecipeError(
            f"batch_size {settings.batch_size} is not divisible by {accelerator.num_processes} processes",
            where="distill.batch_size",
        )
    encoder = load_encoder(teacher, task="fill-mask" if settings.objective == "masked-lm" else "sentence-similarity")
    family = family_of(encoder.model.config)
    target = target_widths(family.widths(encoder.model), **shape.model_dump())
    positions = getattr(encoder.model.config, "max_position_embeddings", text.max_length)
    if text.max_length > positions:
        raise RecipeError(
            f"max_length {text.max_length} is more than the teacher's {positions} positions",
            where="text.max_length",
            mend=f"at most {positions}",
        )
    with accelerator.local_main_process_first():
        corpus = prepare_text(text, encoder.tokenizer, objective=settings.objective, seed=seed)
    corpus.require(settings.batch_size)
    run = Run(encoder, copy.deepcopy(encoder.model), target=target, settings=settings, accelerator=accelerator)
    batches = _batch_maker(corpus, encoder, settings, text.max_length, seed, accelerator)
    sources = {"teacher": weights_digest(encoder), "text": corpus.describe()}
    writer = _Writer(out_dir, corpus, accelerator, settings.steps, sources, on_progress)
    with output_errors(out_dir), _resumable_or_gone(out_dir, accelerator):
        if resume and (state := load_checkpoint(out_dir, accelerator.device)) is not None:
            if state["sources"] != sources:
                raise RecipeError(
                    "the teacher or the text is not what the run was started with",
                    where=str(out_dir),
                    mend="put it back, or start again with --force",
                )
            run.restore(state["run"])
            corpus.load_state_dict(state["text"])
            writer.rewind(run.step)
        elif accelerator.is_main_process:
            _start_folder(out_dir, settings_digest)
        accelerator.wait_for_everyone()
        run_steps(run, batches, on_step=writer.log, on_checkpoint=lambda: writer.checkpoint(run))
        details = {
            **_describe(encoder, run, target),
            "objective": settings.objective,
            "processes": accelerator.num_processes,
            "text": corpus.describe(),
            "held_out_loss": held_out_loss(run.loss, batches, corpus.held_out),
            "seconds": round(writer.seconds, 3),
        }
        if accelerator.is_main_process:
            lines = (" ".join(line.split()) for line in corpus.held_out_texts)
            (out_dir / HELD_OUT).write_text("\n".join(lines) + "\n", encoding="utf-8")
            _save_student(run, encoder, target, out_dir, text.max_length, details, recipe_digest)
        accelerator.wait_for_everyone()
    return out_dir


@contextmanager
def _resumable_or_gone(out_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Where the block fails before its first checkpoint, nothing half-written stays behind."""
    try:
        yield
    except BaseException:
        if accelerator.is_main_process and not any((out_dir / name).is_file() for name in (CHECKPOINT, MANIFEST)):
            shutil.rmtree(out_dir, ignore_errors=True)
        raise


def _mixed_precision(settings: DistillSettings) -> str:
    if settings.precision == "auto":
        return "bf16" if _bf16_pays() else "no"
    return "bf16" if settings.precision == "bf16" else "no"


def _bf16_pays() -> bool:
    """Whether bf16 matrix products are at least 1.5 times as fast as fp32 ones here.

    Decided by what the hardware has, not by a stopwatch, so that a resumed run decides the same.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "amx_bf16" in describe_host()["instruction_sets"]


def _check_output(out_dir: Path, settings_digest: str, *, force: bool, resume: bool) -> None:
    if not resume:
        refuse_existing(out_dir, force=force)
        return
    if not (out_dir / RUN_MARK).is_file():
        raise OutputError("holds no run to resume", where=str(out_dir), mend="leave --resume out to start one")
    if read_json(out_dir / RUN_MARK).get("settings") != settings_digest:
        raise RecipeError(
            "the run to resume was started with other settings",
            where=str(out_dir),
            mend="give the same recipe and flags, or start another run elsewhere",
        )


def _start_folder(out_dir: Path, settings_digest: str) -> None:
    shutil.rmtree(out_dir, ignore_errors=True)
    make_folder(out_dir)
    write_run_mark(out_dir, {"settings": settings_digest})


def _batch_maker(
    corpus: Corpus, encoder: Encoder, settings: DistillSettings, max_length: int, seed: int, accelerator: Accelerator
) -> BatchMaker:
    share = settings.batch_size // accelerator.num_processes
    default = _MICRO_BATCH_ON_CPU if accelerator.device.type == "cpu" else share
    return BatchMaker(
        corpus,
        encoder.tokenizer,
        settings.objective,
        batch_size=settings.batch_size,
        micro_batch_size=min(share, settings.micro_batch_size or default),
        max_length=max_length,
        mlm_probability=settings.mlm_probability,
        seed=seed,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        device=accelerator.device,
    )


def _describe(encoder: Encoder, run: Run, target: Widths) -> dict[str, Any]:
    return {
        "task": encoder.task,
        "teacher": encoder.source,
        "teacher_weights_sha256": weights_digest(encoder),
        "family": encoder.model.config.model_type,
        "parameters": count_parameters(run.student),
        "teacher_parameters": count_parameters(run.teacher),
        "widths": target.as_json(),
        "num_hidden_layers": len(target.heads),
        "steps": run.step,
    }


class _Writer:
    """Log and checkpoints of the first process; the others' calls do nothing."""

    def __init__(
        self,
        out_dir: Path,
        corpus: Corpus,
        accelerator: Accelerator,
        steps: int,
        sources: dict[str, Any],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.out_dir, self.corpus, self.accelerator = out_dir, corpus, accelerator
        self.steps, self.sources, self.on_progress = steps, sources, on_progress
        self.seconds = 0.0

    def log(self, report: StepReport) -> None:
        """Append a line to the log and tell the listener."""
        self.seconds += report.seconds
        if not self.accelerator.is_main_process:
            return
        with (self.out_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report.as_json()) + "\n")
        if self.on_progress is not None:
            self.on_progress(Progress(report, self.steps))

    def rewind(self, step: int) -> None:
        """Drop the log's lines from `step` on: the resumed run writes them again."""
        if not self.accelerator.is_main_process:
            return
        path = self.out_dir / LOG
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step] if path.is_file() else []
        self.seconds = sum(json.loads(line)["seconds"] for line in lines)
        part = path.with_suffix(".part")
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(path)

    def checkpoint(self, run: Run) -> None:
        """Save everything that is needed to go on."""
        if self.accelerator.is_main_process:
            began = time.perf_counter()
            state = {"run": run.state(), "text": self.corpus.state_dict(), "sources": self.sources}
            save_checkpoint(self.out_dir, state)
            self.seconds += time.perf_counter() - began
        self.accelerator.wait_for_everyone()


def _save_student(
    run: Run,
    encoder: Encoder,
    target: Widths,
    out_dir: Path,
    max_length: int,
    details: dict[str, Any],
    recipe_digest: str | None,
) -> None:
    """Put the student's files in place, then the manifest; only then the checkpoint is not needed."""
    part = out_dir / ".student.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        run.family.write_config(run.student.config, target)
        save_encoder(encoder, run.student, part, max_length=max_length)
        for path in part.iterdir():
            destination = out_dir / path.name
            if destination.is_dir():
                shutil.rmtree(destination)
            path.replace(destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    write_manifest(out_dir, "student", parent=parent_of(encoder), recipe=recipe_digest, details=details)
    (out_dir / CHECKPOINT).unlink(missing_ok=True)
