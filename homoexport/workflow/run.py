"""The whole journey on one screen: fine-tune the teacher, plan, distil, export, measure, judge, report.

A run's folder (see `homoexport.documents.layout`) holds one artifact a stage, so that a stopped run goes on where
it was.

A planned student whose measured package misses a line of the budget is pruned further, from where its distillation
ended, to the best of the plan's shapes that keep it when they cost as much more than planned as this one did. One that
the device cannot hold is pruned on to the best that needs clearly less memory.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import RuntimeChoice
from homoexport.documents.artifact import MANIFEST, RUN_MARK, Manifest, verify, write_manifest
from homoexport.documents.budget import TIMED_LINES, BudgetVerdict, is_kept
from homoexport.documents.document import read_document, write_document
from homoexport.documents.evaluation import QUALITY_FILE
from homoexport.documents.layout import (
    CHECKPOINT,
    FINETUNED,
    FLOORS,
    MEASURED,
    MEASUREMENT,
    PACKAGE,
    PLAN,
    STUDENT,
    STUDENTS,
    SUMMARY,
    TEACHER,
    TURNS,
)
from homoexport.documents.output import replacing, staged
from homoexport.documents.plan import PLAN_FILE, Plan, Row
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.documents.run_folder import begin, check_output, holds, is_finished, read_mark, refuse_other_work
from homoexport.documents.summary import Floors, Summary
from homoexport.errors import DeviceError, DoesNotFit, PackageError, RecipeError
from homoexport.report import time_in_words, write_plan_report
from homoexport.runtime.inference import Package, open_package
from homoexport.shape import PartialShape
from homoexport.stages.evaluate import LabelledTask, quality_of_run, torch_package
from homoexport.stages.plan.choice import lighter, narrower
from homoexport.workflow.check import check_recipe, inputs_of
from homoexport.workflow.distill import distill, forget_state, prune_on
from homoexport.workflow.estimate import time_of_run
from homoexport.workflow.export import export_model, held_out_texts, threads_here
from homoexport.workflow.finetune import finetune_model
from homoexport.workflow.gate import Gate
from homoexport.workflow.measure import measure_once
from homoexport.workflow.plan import plan
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.summary import write_summary
from homoexport.workflow.turns import Turns, budget_verdicts, is_noisy, unclear, used_of
from homoexport.workflow.vectors import second_model

if TYPE_CHECKING:
    from homoexport.encoder import Encoder

_GLANCE_SECONDS = 0.05
_PATIENCE = 3.0  # times as long is measured what was too noisy to call


def run(
    recipe: Recipe | Path | str,
    *,
    output: Path | str,
    force: bool = False,
    resume: bool = False,
    progress: Progress = QUIET,
) -> Summary:
    """A recipe's whole journey: fine-tune the teacher, plan, distil, export, measure, judge, report.

    The summary has teacher against student and the budget's verdicts: latency in milliseconds, memory in MB. A missed
    budget is a result, not an exception.

    Args:
        recipe: what to do, or the YAML file that says it.
        output: becomes the run's folder.
        force: replace `output` where it is a run's folder.
        resume: go on with the run in `output`, which must be of the same recipe.

    Raises:
        UserError: what cannot be; text, columns, budget, target and threads are checked before a model is loaded.
        ParityError: no exported graph answers as the model does.
        DoesNotFit: the student's package needs more memory than the device gives.
        KeyboardInterrupt, SystemExit: a signal came while it made steps; `resume` goes on after the last one.

    Example:
        >>> summary = run("recipes/quickstart.yaml", output="runs/quickstart")  # doctest: +SKIP
        >>> summary.budget_kept  # doctest: +SKIP
        True
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe))
    if recipe.parts:
        where = "students" if recipe.students else "budgets"
        raise RecipeError("there are several", where=where, hint="`run_several` makes a run of each")
    with begun(recipe, Path(output), over=SUMMARY, force=force, resume=resume, progress=progress) as journey:
        return journey.run()


@contextmanager
def begun(
    recipe: Recipe, folder: Path, *, over: str, force: bool, resume: bool, progress: Progress
) -> Iterator[Journey]:
    """A journey in a run's folder, once all is checked that would stop it, and the teacher has learned what it is to.

    Where the block fails before anything is worth keeping, all is as it was. `over` is the file that the end leaves.
    """
    check_output(folder, "run", recipe.digest(), inputs=inputs_of(recipe), recipe=recipe, force=force, resume=resume)
    checked = check_recipe(recipe, output=None if resume else folder)
    if not resume:
        progress.on_note(f"this will take {time_in_words(time_of_run(checked))}")
    stages = [FINETUNED, PLAN, STUDENT, STUDENTS, TURNS]
    stages += [f"{part.name}/{made}" for part in recipe.parts for made in (STUDENT, TURNS)]

    def is_worth_keeping() -> bool:
        return any(holds(folder / made, CHECKPOINT, MANIFEST) for made in stages)

    is_done = (folder / over).is_file
    with replacing(folder, force=force, resume=resume, is_worth_keeping=is_worth_keeping, is_done=is_done):
        if resume:
            refuse_other_work(folder, recipe.digest(), recipe=recipe)
        else:
            begin(folder, "run", recipe.digest(), recipe=recipe)
        journey = Journey(recipe, folder, checked.teacher, progress)
        yield journey if checked.task is None else replace(journey, teacher=journey.finetuned(checked.task))


@dataclass(frozen=True)
class Journey:
    """A run on its way: what each stage takes, and where it leaves what it makes."""

    recipe: Recipe
    folder: Path
    teacher: Encoder
    progress: Progress

    def run(self) -> Summary:
        """All stages that are still to do."""
        recipe, folder, turns = self.recipe, self.folder, Turns(self.folder)
        turns.put_right()
        planned = self.planned() if recipe.is_planned else None
        if planned is None:
            if recipe.budget.relative:
                self.refuse_unheld_teacher()
            self._distill(recipe.shapes[0], turns)
            self._export_and_measure()
            if not (folder / SUMMARY).exists():
                self._settled_verdicts()
        else:
            while following := self._take_turn(planned, turns):
                self.progress.on_stage(f"Pruning on to {following.shape.name}")
                turns.put_aside()
        self.progress.on_stage("Writing the report")
        summary = write_summary(folder, recipe)
        turns.forget_states()
        return summary

    def finetuned(self, task: LabelledTask) -> Encoder:
        """The teacher once it has learned a task, kept or made."""
        recipe, folder = self.recipe, self.folder / FINETUNED
        if not self._is_done(folder):
            assert recipe.finetune is not None
            import torch

            threads = torch.get_num_threads()
            with self.stage("finetune", f"Fine-tuning {recipe.teacher}"):
                finetune_model(
                    recipe.teacher,
                    task,
                    folder,
                    settings=recipe.finetune.settings(recipe.text.max_length),
                    seed=recipe.seed % 2**32,
                    recipe_digest=recipe.digest(),
                    progress=self.progress,
                )
            torch.set_num_threads(threads)  # for what follows; learning and judging took as many as they were given
        from homoexport.encoder import load_encoder

        return load_encoder(str(folder), task=self.teacher.task)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """A stage, whose seconds are added up over resumptions in the run's mark."""
        self.progress.on_stage(title)
        began = time.perf_counter()
        try:
            yield
        finally:
            mark = read_mark(self.folder)
            seconds = round(mark.seconds.get(name, 0.0) + time.perf_counter() - began, 3)
            mark = mark.model_copy(update={"seconds": {**mark.seconds, name: seconds}})
            write_document(self.folder / RUN_MARK, mark)

    def planned(self) -> Plan:
        """The plan, kept or made."""
        recipe, folder = self.recipe, self.folder / PLAN
        if not self._is_done(folder):
            with self.stage("plan", f"Planning for {recipe.measure.device}"):
                found = plan(
                    self.teacher,
                    budget=recipe.budget,
                    measure=recipe.measure,
                    export=recipe.export,
                    distill=recipe.distill,
                    text=recipe.text,
                    vocabulary=recipe.vocabulary,
                    seed=recipe.seed,
                    progress=self.progress,
                )
                write_plan_report(folder, found, recipe=recipe.digest())
        found = read_document(folder / PLAN_FILE, Plan, hint="plan again")
        self.progress.on_stage(f"Planned: {found.name}")
        return found

    def _take_turn(self, planned: Plan, turns: Turns) -> Row | None:
        """Distil, export and measure the present shape; what to prune to next, or None where the run ends with it."""
        row = turns.row(planned, self.recipe.budget)
        self._distill(PartialShape.of(row.shape, planned.vocab_size), turns)
        try:
            self._export_and_measure()
            return None if (self.folder / SUMMARY).exists() else self._following(planned, row)
        except DoesNotFit:
            following = lighter(planned, row)
            if following is None:
                raise
        self.progress.on_stage(f"{self.recipe.measure.device} cannot hold {row.shape.name}")
        shutil.rmtree(self.folder / MEASURED, ignore_errors=True)
        return following

    def _following(self, planned: Plan, row: Row) -> Row | None:
        """What to prune to where the measured package does not keep the budget; None where it ends with what there is.

        A package that misses its quality's floor is not pruned further, which would make it worse.
        """
        used = used_of(self._settled_verdicts())
        is_poor = is_kept(read_document(self.folder / MEASURED / FLOORS, Floors).verdicts) is False
        if max(used.values()) <= 1 or is_poor:
            return None
        self.progress.on_stage(f"The budget is not kept by {row.shape.name}")
        return narrower(planned, row, used)

    def _settled_verdicts(self) -> list[BudgetVerdict]:
        """The budget's verdicts. What is too noisy to call, or was missed on a noisy machine, is measured again first,
        once and for longer."""
        measured, budget = self.folder / MEASURED, self.recipe.budget
        verdicts = budget_verdicts(budget, measured)
        missed_time = any(verdict.kept is False and verdict.line in TIMED_LINES for verdict in verdicts)
        if unclear(verdicts) or (missed_time and is_noisy(measured)):
            self.progress.on_stage("Too noisy to call: measuring again, for longer")
            self._export_and_measure(patience=_PATIENCE)
            verdicts = budget_verdicts(budget, measured)
        return verdicts

    def _distill(self, shape: PartialShape, turns: Turns) -> None:
        recipe, student = self.recipe, self.folder / STUDENT
        if self._is_done(student):
            return
        if turns.last is None:
            work = partial(distill, self.teacher, keep_state=recipe.is_planned)
        else:
            work = partial(prune_on, turns.last / STUDENT, teacher=self.teacher)
        with self.stage("distill", f"Distilling {recipe.teacher}"):
            work(
                text=recipe.text,
                shape=shape,
                vocabulary=recipe.vocabulary_with(shape.vocab_size),
                settings=recipe.distill,
                output=student,
                seed=recipe.seed,
                resume=(student / RUN_MARK).is_file(),
                recipe_digest=recipe.digest(),
                progress=self.progress,
            )
            if turns.last is not None:
                forget_state(turns.last / STUDENT)
        self.teacher.model.to("cpu")  # where it is exported

    def _is_done(self, folder: Path, *, parent: Path | None = None) -> bool:
        """Whether a stage's artifact is there, whole, and made by this recipe of its parent, or the teacher."""
        if not is_finished(folder):
            return False
        from homoexport.encoder import parent_of

        made = verify(folder, Manifest, strict=False)
        before = parent_of(self.teacher) if parent is None else verify(parent, Manifest, strict=False).digest
        if made.recipe != self.recipe.digest() or (made.kind != "plan" and made.parent != before):
            hint = "remove it, and --resume makes it again"
            raise PackageError("was not made in this run", where=str(folder), hint=hint)
        return True

    def export_teacher(self) -> None:
        recipe, folder = self.recipe, self.folder / TEACHER
        if self._is_done(folder):
            return
        plain = {"quantize": "none", "embeddings": "auto", "with_tokenizer": False, "with_ort_format": False}
        from homoexport.encoder import load_encoder

        # A compiled one cannot be traced.
        teacher = self.teacher
        if recipe.distill.compile:
            teacher = load_encoder(teacher.source, task=teacher.task)
        with self.stage("teacher", "Exporting the teacher to fp32 ONNX, to compare with"):
            export_model(
                teacher,
                folder,
                settings=recipe.export.model_copy(update=plain | {"runtime": "onnxruntime"}),
                measure=recipe.measure,
                recipe_digest=recipe.digest(),
            )

    def refuse_unheld_teacher(self) -> None:
        """Find out before distilling whether the device can measure what relative lines are held against."""
        if self._is_done(self.folder / STUDENT):
            return
        self.export_teacher()
        recipe = self.recipe
        short = recipe.measure.model_copy(update={"min_seconds": _GLANCE_SECONDS})
        found = measure_once([self.folder / TEACHER], short, progress=self.progress)
        if not found.results:
            raise DeviceError(
                f"the teacher does not fit ({found.failures[0].stage}: {found.failures[0].reason}), and "
                f"{recipe.budget.relative[0]} is relative to it",
                where=recipe.measure.device,
                hint="give the line as a figure with its unit",
            )

    def _export_and_measure(self, *, patience: float = 1.0) -> None:
        """Both packages, measured; with patience for so many times as long, in place of what was measured before."""
        recipe, student = self.recipe, self.folder / STUDENT
        teacher, package, measured = (self.folder / name for name in (TEACHER, PACKAGE, MEASURED))
        texts, is_again = held_out_texts(student), patience > 1
        self.export_teacher()
        is_exported = self._is_done(package, parent=student)
        if is_exported and not is_again and self._is_done(measured, parent=package):
            return
        gate, encoder = None, second_model(recipe.distill)
        second = None if encoder is None else torch_package(encoder)
        if recipe.quality is not None:
            judge = second or open_package(teacher, threads=threads_here(recipe.measure))
            gate = Gate(recipe.quality, teacher=judge, texts=texts, seed=recipe.seed, output=recipe.output)
        if not is_exported:
            with self.stage("export", f"Exporting the student ({recipe.export.quantize})"):
                export_model(
                    str(student),
                    package,
                    settings=recipe.export,
                    measure=recipe.measure,
                    recipe_digest=recipe.digest(),
                    texts=texts,
                    gate=gate,
                )
        with (
            self.stage("measure", f"Measuring on {recipe.measure.device}"),
            staged(measured, force=is_again or is_finished(measured)) as folder,
        ):
            self._measure([teacher, package], folder, texts, gate, second, patience=patience)

    def _measure(
        self,
        packages: Sequence[Path],
        folder: Path,
        texts: Sequence[str],
        gate: Gate | None,
        second: Package | None,
        *,
        patience: float,
    ) -> None:
        """Figures and quality of the teacher's package and the student's, into a folder."""
        recipe, package = self.recipe, packages[-1]
        longer = recipe.measure.model_copy(update={"min_seconds": patience * recipe.measure.min_seconds})
        runtimes: list[RuntimeChoice] = ["onnxruntime", recipe.export.runtime]
        found = measure_once(packages, longer, runtime=runtimes, progress=self.progress)
        if not any(result.package == str(package) for result in found.results):
            failure = next(failure for failure in found.failures if failure.package == str(package))
            raise DoesNotFit(
                f"{failure.package} does not fit ({failure.stage}: {failure.reason})",
                where=recipe.measure.device,
                hint="ask for a smaller student, or measure where there is more memory, and --resume",
            )
        teachers, students = (
            open_package(each, threads=threads_here(recipe.measure), runtime=runtime)
            for each, runtime in zip(packages, (runtimes[0], found.results[-1].runtime), strict=True)
        )
        write_document(folder / MEASUREMENT, found)
        quality = quality_of_run(teachers, students, texts, seed=recipe.seed, second=second, output=recipe.output)
        write_document(folder / QUALITY_FILE, quality)
        write_document(folder / FLOORS, Floors(verdicts=() if gate is None else (gate.judge(students),)))
        parent = verify(package, Manifest, strict=False).digest
        write_manifest(folder, "measurement", parent=parent, recipe=recipe.digest())
