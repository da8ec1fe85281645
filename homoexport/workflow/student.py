"""What a distillation leaves in a student's folder, while it works and at its end; the first process alone writes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import gather_object

from homoexport.documents.artifact import DistilledManifest, read_manifest, write_manifest
from homoexport.documents.document import write_text
from homoexport.documents.run_folder import CHECKPOINT, END_STATE, HELD_OUT, LOG, begin
from homoexport.documents.student import DistilledDetails, StepRecord
from homoexport.encoder import parameter_counts, parent_of, save_encoder
from homoexport.errors import RecipeError
from homoexport.shape import Shape
from homoexport.stages.distill import Job, Run, held_out_loss, run_steps
from homoexport.stages.distill.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from homoexport.text.stream import merge_states
from homoexport.workflow.progress import DistillProgress, Progress


class StudentWriter:
    """Log, checkpoints and the student's files of one run, which branched off another after `offset` steps."""

    def __init__(
        self,
        job: Job,
        run: Run,
        folder: Path,
        *,
        name: str | None = None,
        offset: int = 0,
        on_step: Callable[[DistillProgress], None],
    ) -> None:
        self.job, self.run, self.folder = job, run, folder
        self.name, self.offset, self.on_step = name, offset, on_step
        self.seconds = 0.0

    @property
    def _writes(self) -> bool:
        return bool(self.job.accelerator.is_main_process)

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
        self.on_step(DistillProgress(step, self.offset + self.run.settings.steps, self.name))

    @contextmanager
    def trackers(self) -> Iterator[None]:
        """Accelerate's trackers, one run of theirs for each student."""
        accelerator = self.job.accelerator
        if not accelerator.log_with:
            yield
            return
        settings = self.run.settings.model_dump(mode="json", exclude={"weights"})
        config = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
        accelerator.init_trackers("-".join(filter(None, ("homoexport", self.name))), config=config)
        try:
            yield
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()

    def rewind(self) -> None:
        """Drop the log's lines of steps that the run has still to make: it writes them again."""
        if not self._writes:
            return
        path = self.folder / LOG
        steps = self.offset + self.run.step
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps] if path.is_file() else []
        self.seconds = sum(StepRecord.model_validate_json(line).seconds for line in lines)
        write_text(path, "".join(lines))

    def checkpoint(self, folder: Path | None = None, *, at_branch: bool = False, at_end: bool = False) -> None:
        """Save everything that is needed to go on: for this run, for another that begins here (`at_branch`), or for one
        that goes on to a narrower student now that this one is over (`at_end`)."""
        began = time.perf_counter()
        text = merge_states(gather_object([self.job.corpus.state_dict()]))
        if self._writes:
            state: Checkpoint = {
                "run": self.run.state(),
                "text": text,
                "sources": self.job.sources,
                "offset": self.offset + self.run.step if at_branch or at_end else self.offset,
                "at_branch": at_branch or at_end,
                "at_end": at_end,
            }
            save_checkpoint(folder or self.folder, state, name=END_STATE if at_end else CHECKPOINT)
            self.seconds += time.perf_counter() - began
        self.job.accelerator.wait_for_everyone()

    def save_student(self, recipe_digest: str | None) -> DistilledManifest:
        """Put the student's files in place, then the manifest, which is returned in every process."""
        job, run, folder = self.job, self.run, self.folder
        details, written = self._details(), ""
        if self._writes:
            lines = (" ".join(line.split()) for line in job.corpus.held_out_texts)
            (folder / HELD_OUT).write_text("\n".join(lines) + "\n", encoding="utf-8")
            part = folder / ".student.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                run.family.write_config(run.student.config, run.target)
                save_encoder(job.encoder, run.student, part, max_length=job.max_length)
                for path in part.iterdir():
                    destination = folder / path.name
                    if destination.is_dir():
                        shutil.rmtree(destination)
                    path.replace(destination)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            write_manifest(folder, "student", parent=parent_of(job.encoder), recipe=recipe_digest, details=details)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            written = read_manifest(folder, DistilledManifest).model_dump_json()
        job.accelerator.wait_for_everyone()
        return DistilledManifest.model_validate_json(gather_object([written])[0])

    def _details(self) -> DistilledDetails:
        """What the manifest says of the student; every process computes the held-out loss."""
        job, run = self.job, self.run
        counts, teacher = parameter_counts(run.student, run.family), parameter_counts(run.teacher, run.family)
        return DistilledDetails(
            task=job.encoder.task,
            teacher=job.encoder.source,
            teacher_weights_sha256=job.sources["teacher"],
            family=job.encoder.model.config.model_type,
            parameters=counts.total,
            embedding_parameters=counts.embedding,
            backbone_parameters=counts.backbone,
            teacher_parameters=teacher.total,
            widths=run.target,
            method=job.settings.method,
            objective=job.settings.objective,
            steps=self.offset + run.step,
            processes=job.accelerator.num_processes,
            text=job.corpus.description,
            held_out_loss=held_out_loss(run.loss, job.batches, job.corpus.held_out),
            seconds=round(self.seconds, 3),
        )


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


def run_student(
    job: Job, place: Place, target: Shape, *, waypoints: Sequence[tuple[Path, Shape]] = ()
) -> DistilledManifest:
    """Run to the end, from the start or from what the folder's checkpoint says, and save the student; its manifest."""
    folder, accelerator = place.folder, job.accelerator
    state = load_checkpoint(folder) if place.goes_on else None
    if state is not None and state["sources"] != job.sources:
        raise RecipeError(
            "the teacher or the text is not what the run was started with",
            where=str(folder),
            hint="put it back, or start again with --force",
        )
    settings = job.settings
    if state is not None and state["at_branch"] and not state["at_end"]:
        settings = settings.model_copy(update={"learning_rate": state["run"]["rate"]["_last_lr"][0]})
    run = Run(job.with_settings(settings), target, waypoints=[shape for _, shape in waypoints])
    offset = state["offset"] if state else 0
    writer = StudentWriter(job, run, folder, name=place.name, offset=offset, on_step=place.progress.on_distill)
    if state is not None:
        (run.branch_off if state["at_branch"] else run.restore)(state["run"])
        job.corpus.load_state_dict(state["text"])
        writer.rewind()
    else:
        if accelerator.is_main_process:
            begin(folder, "student", place.work)
        accelerator.wait_for_everyone()

    def leave_branch() -> None:
        branch, _ = waypoints[len(waypoints) - len(run.waypoints) - 1]
        if accelerator.is_main_process:
            begin(branch, "student", place.work)
        writer.checkpoint(branch, at_branch=True)

    run.on_waypoint = leave_branch
    with writer.trackers():
        run_steps(run, job.batches, offset=writer.offset, on_step=writer.log, on_checkpoint=writer.checkpoint)
    if place.keep_state:
        writer.checkpoint(at_end=True)
    manifest = writer.save_student(place.recipe_digest)
    run.close()
    return manifest
