"""The whole journey on one screen: distil, export, measure, judge, report.

A run's folder holds one artifact a stage, so that a stopped run goes on where it was:

    0-teacher    the teacher's fp32 ONNX package, to compare with
    1-student    the distilled student
    2-onnx       the student's package, which is what ships
    3-measured   both packages measured in one interleaved run, and their quality
    report.md, summary.json, plots/
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homoexport.artifact import (
    MANIFEST,
    RUN_MARK,
    make_folder,
    output_errors,
    read_json,
    read_manifest,
    refuse_existing,
    staged,
    verify,
    write_json,
    write_manifest,
    write_run_mark,
)
from homoexport.bench import judge_result, measure, refuse_emulated_latency, texts_of
from homoexport.budget import Verdict, verdict_of
from homoexport.distill import HELD_OUT, LOG, TASKS, Progress, distill, target_of
from homoexport.encoder import OUTPUT_NAMES, Task, load_encoder, max_length_of
from homoexport.errors import DoesNotFit, OutputError, RecipeError
from homoexport.evaluate import Gate, check_gate, evaluate_packages, package_of_file
from homoexport.export import export_encoder
from homoexport.host import available_cores
from homoexport.inference import open_package, read_package
from homoexport.measure import answers_of_file, check_measurement, host_of, rank_files
from homoexport.recipe import ExportSettings, MeasureSettings, Recipe, StudentShape
from homoexport.report import summarize, write_report

TEACHER, STUDENT, PACKAGE, MEASURED = "0-teacher", "1-student", "2-onnx", "3-measured"
FLOORS = "floors.json"  # of quality, with their verdicts


@dataclass(frozen=True)
class Listener:
    """What a run tells while it works; by default to nobody."""

    on_stage: Callable[[str], None] = lambda _name: None
    on_distill: Callable[[Progress], None] = lambda _progress: None
    on_measure: Callable[[str, float], None] = lambda _stage, _share: None


@dataclass
class _Clock:
    """Seconds of each stage, kept over resumes in the run's mark."""

    path: Path
    listener: Listener
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        self.listener.on_stage(title)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)
            write_json(self.path, {**read_json(self.path), "seconds": self.seconds})


def run_recipe(
    recipe: Recipe, run_dir: Path, *, force: bool = False, resume: bool = False, listener: Listener | None = None
) -> dict[str, Any]:
    """Everything from the teacher to the report.

    Args:
        recipe: what to do.
        run_dir: becomes the run's folder.
        force: replace `run_dir` where it is a run's folder.
        resume: go on with the run in `run_dir`, which must be of the same recipe.
        listener: is told what happens.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UserError, ParityError: see `homoexport.errors`.
        DoesNotFit: the student's package needs more memory than the device gives.
    """
    listener = listener or Listener()
    if resume:
        clock = _resume_run(recipe, run_dir, listener)
    else:
        clock = _Clock(run_dir / RUN_MARK, listener)
        refuse_existing(run_dir, force=force, kind="run", inputs=[recipe.teacher, *recipe.text.paths])
    check_recipe(recipe)
    with output_errors(run_dir):
        if resume:
            return _run_stages(recipe, run_dir, clock, listener)
        with _replacing(run_dir):
            make_folder(run_dir)
            mark = {"recipe_digest": recipe.digest(), "recipe": recipe.model_dump(mode="json")}
            write_run_mark(run_dir, "run", mark)
            return _run_stages(recipe, run_dir, clock, listener)


def check_recipe(recipe: Recipe) -> None:
    """Find what would stop a run half-way before it begins.

    Raises:
        UserError: a device, thread count, length or shape that cannot be had.
    """
    student = _student_of(recipe)
    settings = recipe.measure
    if recipe.quality is not None:
        check_gate(recipe.quality, teacher=recipe.teacher, hidden_size=student.hidden_size)
    refuse_emulated_latency(recipe.budget, settings.device)
    workload = settings.threads, settings.batch_size, settings.length
    check_measurement(settings.device, [workload], texts=texts_of(settings), min_seconds=settings.min_seconds)
    teacher = load_encoder(recipe.teacher, task=TASKS[recipe.distill.objective])
    target_of(teacher, student, recipe.distill)
    if settings.length > (longest := max_length_of(teacher)):
        raise RecipeError(
            f"length {settings.length} is more than the teacher's {longest} tokens",
            where="measure.length",
            mend=f"at most {longest}",
        )


def _student_of(recipe: Recipe) -> StudentShape:
    """The one student of a recipe that can go the whole way."""
    if recipe.student is None:
        raise RecipeError(
            "a run exports and measures one student", where="students", mend="distil them with `homoexport distill`"
        )
    return recipe.student


@contextmanager
def _replacing(run_dir: Path) -> Iterator[None]:
    """Put an old run aside; where the new one fails before there is anything to resume, put it back."""
    aside = run_dir.with_name(f".{run_dir.name}.old")
    if run_dir.exists():
        shutil.rmtree(aside, ignore_errors=True)
        run_dir.rename(aside)
    try:
        yield
    finally:
        if (run_dir / STUDENT / RUN_MARK).is_file():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            shutil.rmtree(run_dir, ignore_errors=True)
            if aside.exists():
                aside.rename(run_dir)


def _run_stages(recipe: Recipe, run_dir: Path, clock: _Clock, listener: Listener) -> dict[str, Any]:
    teacher, student, package = run_dir / TEACHER, run_dir / STUDENT, run_dir / PACKAGE
    digest = recipe.digest()
    if not _done(student, "student"):
        with clock.stage("distill", f"Distilling {recipe.teacher}"):
            distill(
                recipe.teacher,
                text=recipe.text,
                shape=_student_of(recipe),
                settings=recipe.distill,
                out_dir=student,
                seed=recipe.seed,
                resume=(student / RUN_MARK).is_file(),
                recipe_digest=digest,
                on_progress=listener.on_distill,
            )
    texts = held_out_texts(student)
    if not _done(teacher, "package"):
        with clock.stage("teacher", "Exporting the teacher to fp32 ONNX, to compare with"):
            export_folder(
                recipe.teacher,
                teacher,
                task=TASKS[recipe.distill.objective],
                settings=recipe.export.model_copy(
                    update={"quantize": "none", "embeddings": "auto", "with_tokenizer": False, "with_ort_format": False}
                ),
                measure=recipe.measure,
                recipe_digest=digest,
            )
    gate = None
    if recipe.quality is not None and not _done(run_dir / MEASURED, "measurement"):
        gate = Gate(
            recipe.quality, teacher=str(teacher), texts=texts, seed=recipe.seed, threads=_threads_here(recipe.measure)
        )
    if not _done(package, "package"):
        with clock.stage("export", f"Exporting the student ({recipe.export.quantize})"):
            export_folder(
                str(student),
                package,
                settings=recipe.export,
                measure=recipe.measure,
                recipe_digest=digest,
                texts=texts,
                gate=gate,
            )
    if not _done(run_dir / MEASURED, "measurement"):
        with clock.stage("measure", f"Measuring on {recipe.measure.device}"), staged(run_dir / MEASURED) as folder:
            packages = [teacher, package]
            measured = measure(packages, recipe.measure, progress=listener.on_measure)
            if not any(result.package == str(package) for result in measured.results):
                failure = next(failure for failure in measured.failures if failure.package == str(package))
                raise DoesNotFit(
                    f"{failure.package} does not fit ({failure.stage}: {failure.reason})",
                    where=recipe.measure.device,
                    mend="ask for a smaller student, or measure where there is more memory, and --resume",
                )
            measurement = measured.as_json()
            qualities = evaluate_packages(
                packages, texts, teacher=teacher, seed=recipe.seed, threads=_threads_here(recipe.measure)
            )
            quality = dict(zip(("teacher", "student"), qualities, strict=True))
            write_json(folder / "measurement.json", measurement)
            write_json(folder / "quality.json", quality)
            threads = _threads_here(recipe.measure)
            floors = [] if gate is None else [gate.judge(open_package(package, threads=threads)).as_json()]
            write_json(folder / FLOORS, floors)
            write_manifest(folder, "measurement", parent=read_manifest(package)["digest"], recipe=digest)
    listener.on_stage("Writing the report")
    measurement = read_json(run_dir / MEASURED / "measurement.json")
    summary = summarize(
        name=recipe.name,
        teacher=recipe.teacher,
        student=recipe.name,
        packages=(read_package(teacher), read_package(package)),
        measurement=measurement,
        quality=read_json(run_dir / MEASURED / "quality.json"),
        verdicts=[
            *judge_result(recipe.budget, measurement["results"][-1]),
            *(verdict_of(line) for line in read_json(run_dir / MEASURED / FLOORS)),
        ],
        recipe_digest=digest,
        seconds=clock.seconds,
    )
    write_json(run_dir / "summary.json", summary)
    write_report(run_dir, summary, log_path=student / LOG, measurement=measurement)
    return summary


def export_folder(
    source: str,
    out_dir: Path,
    *,
    settings: ExportSettings,
    measure: MeasureSettings,
    task: Task | None = None,
    texts: Sequence[str] = (),
    recipe_digest: str | None = None,
    gate: Gate | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model, choosing among the candidate graphs by measuring them on the target.

    Args:
        source: a student's folder, or any model that `load_encoder` takes.
        out_dir: becomes the package's folder.
        settings: quantization and opset.
        measure: the target, and the threads, batch and length that the candidates are ranked at.
        task: what the model is for; by default what its folder says.
        texts: real text for the parity ladder; by default sentences of the project's own.
        recipe_digest: of the recipe that this is part of.
        gate: a floor of quality, which a candidate must keep to be chosen.
        force: replace `out_dir` where homoexport wrote it.
        progress: is told each step.
    """
    refuse_existing(out_dir, force=force, kind="package", inputs=[source])
    encoder = load_encoder(source, task=task)
    there, longest = host_of(measure.device), max_length_of(encoder)
    if measure.length > longest and progress:
        progress(f"timing with {longest} tokens, the model's longest text")
    output = OUTPUT_NAMES[encoder.task][0]
    timed_at: dict[str, Any] = {
        # An emulator's times say nothing of its device: graphs are ranked here, and the gate alone is held there.
        "device": "cpu" if there.emulated else measure.device,
        "threads": _threads_here(measure) if there.emulated else measure.threads,
        "batch_size": measure.batch_size,
        "length": min(measure.length, longest),
    }
    vocab_size = encoder.model.config.vocab_size

    def rank(files: Sequence[Path]) -> list[float]:
        return rank_files(files, vocab_size=vocab_size, outputs=(output,), **timed_at)

    def answer(file: Path, batches: Sequence[Mapping[str, Any]]) -> list[Any]:
        padding = encoder.tokenizer.pad_token_id or 0
        return answers_of_file(file, batches, device=measure.device, pad_token_id=padding, output=output)

    def judge(file: Path) -> Verdict:
        assert gate is not None
        return gate.judge(package_of_file(encoder, file, threads=_threads_here(measure)))

    return export_encoder(
        encoder,
        texts=texts,
        quantize=settings.quantize,
        embeddings=settings.embeddings,
        instruction_sets=there.instruction_sets,
        x86=there.x86,
        provider=there.provider,
        answer=None if there.is_here else answer,
        judge=None if gate is None else judge,
        opset=settings.opset,
        with_tokenizer=settings.with_tokenizer,
        with_ort_format=settings.with_ort_format,
        timed_at={**timed_at, "cpu": host_of("cpu").cpu if there.emulated else there.cpu},
        held_on=measure.device,
        out_dir=out_dir,
        rank=rank,
        recipe_digest=recipe_digest,
        force=force,
        progress=progress,
    )


def _threads_here(settings: MeasureSettings) -> int:
    """Threads of what is done on this machine for a measurement that may be another's."""
    here = available_cores()
    return min(settings.threads or here, here)


def held_out_texts(student: Path) -> list[str]:
    """Held-out text that a distilled student's folder carries; none where it carries none."""
    path = student / HELD_OUT
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _resume_run(recipe: Recipe, run_dir: Path, listener: Listener) -> _Clock:
    path = run_dir / RUN_MARK
    if not path.is_file():
        raise OutputError("holds no run to resume", where=str(run_dir), mend="leave --resume out to start one")
    mark = read_json(path)
    if mark.get("recipe_digest") != recipe.digest():
        raise RecipeError(
            "the run to resume was started with another recipe",
            where=str(run_dir),
            mend="give the same recipe and overrides, or another folder",
        )
    return _Clock(path, listener, mark.get("seconds", {}))


def _done(folder: Path, kind: str) -> bool:
    """Whether a stage's artifact is there and whole."""
    if not (folder / MANIFEST).is_file():
        return False
    verify(folder, kind=kind, strict=False)
    return True
