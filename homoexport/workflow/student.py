"""What a distillation leaves in a student's folder, while it works and at its end; the first process alone writes."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object

from homoexport.documents.artifact import DistilledManifest, read_manifest, vocabulary_of, write_manifest
from homoexport.documents.document import half_of, write_text
from homoexport.documents.layout import CHECKPOINT, END_STATE, GOOD_CHECKPOINT, LOG
from homoexport.documents.recipe import DistillSettings
from homoexport.documents.run_folder import begin, forget_checkpoints
from homoexport.documents.student import DistilledDetails, StepRecord, WidthFigures
from homoexport.encoder import count_parameters, parameter_counts, parent_of, save_encoder
from homoexport.errors import PackageError, RecipeError, TrainingError, refusing
from homoexport.shape import Shape
from homoexport.stages.distill import Divergence, Job, Run, Wish, held_out_loss, run_steps
from homoexport.stages.distill.asking import ask_all, taught_texts
from homoexport.stages.distill.batches import BatchesAhead
from homoexport.stages.distill.checkpoint import Checkpoint, load_checkpoint, mark_good, save_checkpoint
from homoexport.stages.distill.forgetting import GapWatch
from homoexport.stages.distill.taught import TaughtTexts
from homoexport.text.stream import merge_states
from homoexport.workflow.progress import DistillProgress, Progress
from homoexport.workflow.stops import Stop, stopping_between_steps
from homoexport.workflow.text import write_held_out

_GOOD_POINTS = 5  # checkpoints of a run that it can go back to, where their distance is not given
_SHARE_OF_TIME, _LEAST_SECONDS = 0.02, 10.0  # what the checkpoints between them may cost, and the time between two
_SLOWER = 0.25  # of the learning rate, after a run diverged


@dataclass(frozen=True)
class Place:
    """Where a student goes, and who is told."""

    folder: Path
    work: str
    recipe_digest: str | None
    goes_on: bool
    progress: Progress
    name: str | None = None
    keep_state: bool = False


class StudentWriter:
    """One student's run, and what it leaves: log, checkpoints, the student's files.

    `waypoints` are the folders and shapes of the wider students that branch off on the way. A run that itself branched
    off another did so after `offset` steps.
    """

    def __init__(
        self, job: Job, place: Place, target: Shape, *, waypoints: Sequence[tuple[Path, Shape]], stop: Stop
    ) -> None:
        self.job, self.place, self.folder, self.target = job, place, place.folder, target
        self.waypoints, self.stop = waypoints, stop
        self._saved_at = time.monotonic()
        self._seconds_of_saving = 0.0
        self._start_of_text = job.corpus.state_dict()
        self._taught: TaughtTexts | None = None
        self._open = ExitStack()

    def __enter__(self) -> StudentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def begin(self, state: Checkpoint | None) -> None:
        """Stand at the first step, with a new folder; or where a state says, with the log up to there."""
        self.offset, self.seconds = 0, 0.0
        if state is None:
            self.run = self._run(self.job.settings)
            self.job.corpus.load_state_dict(self._start_of_text)
            self.run.read_text(self.job.batches)
            if self._writes:
                begin(self.folder, "student", self.place.work)
        else:
            what, hint = "the checkpoint does not fit the run", "start again with --force"
            with refusing(PackageError, what, where=str(self.folder), hint=hint):
                self._restore(state)
        if self._writes:
            self._rewind()
            if state is not None and state["at_branch"] and not (self.folder / GOOD_CHECKPOINT).exists():
                mark_good(self.folder / CHECKPOINT)
        if self._taught is None and not self.run.finished:
            self._taught = self._ask_once()
        self.batches = BatchesAhead(replace(self.job.batches, taught=self._taught))
        self.job.accelerator.wait_for_everyone()

    def _restore(self, state: Checkpoint) -> None:
        settings, self.offset = self.job.settings, state["offset"]
        if state["at_branch"] and not state["at_end"]:
            settings = settings.model_copy(update={"learning_rate": state["run"]["rate"]["_last_lr"][0]})
        self.run = self._run(settings)
        (self.run.branch_off if state["at_branch"] else self.run.restore)(state["run"])
        self.job.corpus.load_state_dict(state["text"])

    def _run(self, settings: DistillSettings) -> Run:
        run = Run(self.job.with_settings(settings), self.target, waypoints=[shape for _, shape in self.waypoints])
        run.on_waypoint = self._leave_branch
        run.on_mending = partial(self._on_share, "mending the pruned student")
        self._gap = GapWatch(run.schedule)
        return run

    def _ask_once(self) -> TaughtTexts | None:
        """The teacher's outputs for all texts, in a file that has lost its name before anything is in it; None where
        they do not come again, or there is no room.
        """
        accelerator, began = self.job.accelerator, time.perf_counter()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        texts = taught_texts(self.job, self.run.loss) if here == accelerator.num_processes else None
        if texts is None:
            return None
        has_room = self._writes and shutil.disk_usage(self.folder).free > 2 * texts.bytes
        path, has_room = gather_object([(half_of(self.folder / "teacher"), has_room)])[0]  # the first process's
        if not has_room:
            self.note(f"no room for {texts.bytes / 1e9:.1f} GB of what the teacher says: it is asked at every step")
            return None
        try:
            if self._writes:
                path.touch()
            accelerator.wait_for_everyone()
            texts.keep_in(self._open.enter_context(path.open("r+b")))
            accelerator.wait_for_everyone()
        finally:
            if self._writes:
                path.unlink(missing_ok=True)
        ask_all(texts, self.run.loss, self.job.batches, on_share=partial(self._on_share, "asking the teacher"))
        self.seconds += time.perf_counter() - began
        return texts

    def _on_share(self, what: str, share: float) -> None:
        """Tell it; and stop here where that is asked for, for before the first step there is nothing to keep."""
        if self._writes:
            self.place.progress.on_share(what, share)
        if self.job.accelerator.num_processes == 1:  # several stop together, after the step
            self.stop.obey()

    def _leave_branch(self) -> None:
        branch, _ = self.waypoints[len(self.waypoints) - len(self.run.waypoints) - 1]
        if self._writes:
            begin(branch, "student", self.place.work)
        self.checkpoint(branch, at_branch=True)

    def run_on(self) -> None:
        """Run to the end, or to a stop; a run that diverges goes back once, to its last good checkpoint or its start,
        with a lower learning rate.

        Raises:
            TrainingError: it diverges again.
        """
        try:
            run_steps(
                self.run,
                self.batches,
                offset=self.offset,
                on_step=self.log,
                wish=self._wish,
                on_checkpoint=self.checkpoint,
            )
            return
        except Divergence as error:
            what = error.what
        if self.run.slowed:
            raise TrainingError(
                f"{what}, again after going back once, to a lower learning rate",
                where=str(self.folder / LOG),
                hint="start anew with a lower distill.learning_rate or a longer distill.warmup",
            )
        self.batches.close()
        self.run.close()
        del self.run  # before the next one is made
        self.begin(load_checkpoint(self.folder, name=GOOD_CHECKPOINT))
        self.run.slow_down(_SLOWER)
        self.note(f"{what}: back to step {self.steps_done}, with {_SLOWER:g} of the learning rate")
        self.checkpoint()  # so that its log stays, also where it diverges again before the next one
        self.run_on()

    @property
    def steps_done(self) -> int:
        return self.offset + self.run.step

    @property
    def steps(self) -> int:
        """How many there are, those before a branch included."""
        return self.offset + self.run.settings.steps

    @property
    def _writes(self) -> bool:
        return bool(self.job.accelerator.is_main_process)

    @property
    def _is_at_good_point(self) -> bool:
        """Where a run that diverges goes back to must depend on its steps alone, so that it ends at the same bits."""
        settings = self.run.settings
        return self.run.step % (settings.checkpoint_every or math.ceil(settings.steps / _GOOD_POINTS)) == 0

    def _wish(self) -> Wish:
        """What is to be done after a step, the same in every process."""
        distance = max(_LEAST_SECONDS, self._seconds_of_saving / _SHARE_OF_TIME)
        is_due = self.run.settings.checkpoint_every is None and time.monotonic() - self._saved_at > distance
        wanted = 2 if self.stop.number else int(is_due or self._is_at_good_point)
        accelerator = self.job.accelerator
        if accelerator.num_processes > 1:
            wanted = int(accelerator.gather(torch.tensor([wanted], device=accelerator.device)).max())
        wishes: tuple[Wish, ...] = ("go on", "save", "stop")
        return wishes[wanted]

    def note(self, line: str) -> None:
        """Tell whoever listens."""
        if self._writes:
            self.place.progress.on_note(f"{self.place.name}: {line}" if self.place.name else line)

    def log(self, made: StepRecord) -> None:
        """Append a line to the log, and pass the step on to the trackers and to whoever listens."""
        self.seconds += made.seconds
        step = made.model_copy(update={"step": made.step + self.offset})
        terms = {f"term/{name}": value for name, value in step.terms.items()}
        widths = {f"width/{name}": value for name, value in step.widths.model_dump().items()}
        figures = {"loss": step.loss, "gap": step.gap, "learning_rate": step.learning_rate}
        self.job.accelerator.log({**figures, **terms, **widths}, step=step.step)
        if not self._writes:
            return
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(step.model_dump_json() + "\n")
        if told := self._gap.see(made):
            self.note(told)
        self.place.progress.on_distill(DistillProgress(step, self.steps, self.run.settings.batch_size, self.place.name))

    @contextmanager
    def trackers(self) -> Iterator[None]:
        """Accelerate's trackers, one run of theirs for each student."""
        accelerator = self.job.accelerator
        if not accelerator.log_with:
            yield
            return
        settings = self.run.settings.model_dump(mode="json", exclude={"weights"})
        config = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
        accelerator.init_trackers("-".join(filter(None, ("homoexport", self.place.name))), config=config)
        try:
            yield
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()

    def _rewind(self) -> None:
        """Drop the log's lines of steps that the run has still to make: it writes them again."""
        path = self.folder / LOG
        what, hint = "does not hold the steps up to the checkpoint", "start again with --force"
        with refusing(PackageError, what, where=str(path), hint=hint):
            lines = path.read_bytes().splitlines(keepends=True)[: self.steps_done] if path.is_file() else []
            made = [StepRecord.model_validate_json(line) for line in lines]
        if len(made) != self.steps_done:
            raise PackageError(what, where=str(path), hint=hint)
        self.seconds = sum(step.seconds for step in made)
        for step in made[self.offset :]:
            self._gap.see(step)
        write_text(path, b"".join(lines).decode())

    def checkpoint(self, folder: Path | None = None, *, at_branch: bool = False, at_end: bool = False) -> None:
        """Save everything that is needed to go on: for this run, for another that begins here (`at_branch`), or for one
        that goes on to a narrower student now that this one is over (`at_end`)."""
        began = time.perf_counter()
        text = merge_states(gather_object([self.batches.text_state()]))
        if self._writes:
            state: Checkpoint = {
                "run": self.run.state(),
                "text": text,
                "sources": self.job.sources,
                "offset": self.steps_done if at_branch or at_end else self.offset,
                "at_branch": at_branch or at_end,
                "at_end": at_end,
            }
            with (self.folder / LOG).open("ab") as log:
                os.fsync(log.fileno())  # what the checkpoint goes on from is on the disk before it
            is_good = self._is_at_good_point and not (at_branch or at_end)
            save_checkpoint(folder or self.folder, state, name=END_STATE if at_end else CHECKPOINT, is_good=is_good)
        self.job.accelerator.wait_for_everyone()
        self._saved_at, self._seconds_of_saving = time.monotonic(), time.perf_counter() - began
        self.seconds += self._seconds_of_saving

    def save_student(self, recipe_digest: str | None) -> DistilledManifest:
        """Put the student's files in place, then the manifest, which is returned in every process."""
        job, run, folder = self.job, self.run, self.folder
        details, written = self._details(), ""
        if self._writes:
            write_held_out(folder, job.corpus.held_out_texts)
            part = folder / ".student.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                run.family.write_config(run.student.config, run.target)
                save_encoder(
                    replace(job.encoder, dense=run.loss.student_dense), run.student, part, max_length=job.max_length
                )
                for path in part.iterdir():
                    destination = folder / path.name
                    if destination.is_dir():
                        shutil.rmtree(destination)
                    path.replace(destination)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            write_manifest(folder, "student", parent=parent_of(job.encoder), recipe=recipe_digest, details=details)
            forget_checkpoints(folder)
            written = read_manifest(folder, DistilledManifest).model_dump_json()
        job.accelerator.wait_for_everyone()
        return DistilledManifest.model_validate_json(gather_object([written])[0])

    def _details(self) -> DistilledDetails:
        """What the manifest says of the student; every process computes the held-out loss."""
        job, run = self.job, self.run
        loss = held_out_loss(run.loss, job.batches, job.corpus.held_out)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the student's held-out loss is {loss}",
                where=str(self.folder / LOG),
                hint="start anew with a lower distill.learning_rate",
            )
        counts = parameter_counts(run.student, run.family)
        return DistilledDetails(
            task=job.encoder.task,
            teacher=job.encoder.source,
            teacher_weights_sha256=job.sources["teacher"],
            family=job.encoder.model.config.model_type,
            parameters=counts.total + sum(map(count_parameters, run.loss.student_dense)),
            embedding_parameters=counts.embedding,
            backbone_parameters=counts.backbone,
            teacher_parameters=job.encoder.parameters,
            teacher_widths=WidthFigures.model_validate(run.family.widths(run.teacher).as_json()),
            widths=run.target,
            output=job.output,
            method=job.settings.method,
            objective=job.settings.objective,
            steps=0 if job.settings.method == "repair" else self.steps_done,
            processes=job.accelerator.num_processes,
            text=job.corpus.description,
            vocabulary=job.vocabulary or vocabulary_of(job.encoder.home),
            held_out_loss=loss,
            kept=run.kept(),
            seconds=round(self.seconds, 3),
        )


def run_student(
    job: Job, place: Place, target: Shape, *, waypoints: Sequence[tuple[Path, Shape]] = ()
) -> DistilledManifest:
    """Run to the end, from the start or from what the folder's checkpoint says, and save the student; its manifest.

    A stop that a signal asks for comes after the step in hand, with a checkpoint.

    Raises:
        KeyboardInterrupt, SystemExit: a stop; see `stopping_between_steps`.
        TrainingError: see `StudentWriter.run_on`.
    """

    def answer() -> None:
        if job.accelerator.is_main_process:
            place.progress.on_note("stopping after the step in hand; a second Ctrl-C or signal stops at once")

    with (
        stopping_between_steps(answer) as stop,
        StudentWriter(job, place, target, waypoints=waypoints, stop=stop) as writer,
    ):
        state = load_checkpoint(place.folder) if place.goes_on else None
        if state is not None and state["sources"] != job.sources:
            raise RecipeError(
                "the teacher, the text or its vectors are not what the run was started with",
                where=str(place.folder),
                hint="put it back, or start again with --force",
            )
        writer.begin(state)
        if state is None and place.goes_on:
            writer.note("no checkpoint was left: starting at step 1")
        elif state is not None:
            writer.note(f"going on after step {writer.steps_done} of {writer.steps}")
        with writer.trackers():
            writer.run_on()
        if not writer.run.finished:
            stop.number = stop.number or signal.SIGTERM  # of another process
            writer.note(f"stopped after step {writer.steps_done} of {writer.steps}")
    if place.keep_state:
        writer.checkpoint(at_end=True)
    manifest = writer.save_student(place.recipe_digest)
    writer.run.close()
    return manifest
