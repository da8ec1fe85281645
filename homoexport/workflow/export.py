"""Exporting a model for a target, its graph chosen by measuring there.

Nothing heavy is imported before what was asked for is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from homoexport.choices import (
    OUTPUT_NAMES,
    BrowserProvider,
    EmbeddingChoice,
    GraphChoice,
    ModelTask,
    Quantization,
    Runtime,
    RuntimeChoice,
)
from homoexport.documents.artifact import (
    HELD_OUT,
    PackageManifest,
    StudentManifest,
    kind_of,
    read_manifest,
    refuse_links,
    verify,
)
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import first_fault
from homoexport.documents.output import refuse_existing
from homoexport.documents.package import TimedAt
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.documents.student import FinetunedDetails
from homoexport.errors import DeviceError, TextError, UserError, refusing
from homoexport.host import available_cores
from homoexport.schemes import SCHEMES, embeddings_of, refuse_scales_without_text
from homoexport.stages.evaluate import read_again
from homoexport.stages.measure import (
    answers_of_file,
    check_measurement,
    count_files,
    host_of,
    left_open,
    rank_files,
    rank_runs,
    refuse_uncounted,
)
from homoexport.workflow.measure import read_lines
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.runtimes import others_of, refuse_on, refuse_without

if TYPE_CHECKING:
    from homoexport.documents.target import TargetHost
    from homoexport.encoder import Encoder
    from homoexport.stages.export.parity import Answer
    from homoexport.workflow.gate import Gate

OLDEST_OPSET = 18
_MOST_TEXTS = 1000  # of those that a fine-tuned model was judged on


def export(
    model: str | Path,
    *,
    output: str | Path,
    quantize: Quantization = "auto",
    embeddings: EmbeddingChoice = "auto",
    graph: GraphChoice = "auto",
    opset: int | None = None,
    with_tokenizer: bool = False,
    with_ort_format: bool = False,
    runtime: RuntimeChoice = "onnxruntime",
    seconds: float = 1.0,
    task: ModelTask | None = None,
    text: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 1,
    length: int = 128,
    force: bool = False,
    progress: Progress = QUIET,
) -> PackageManifest:
    """Export a model to an ONNX package: the fastest candidate graph that answers as the model does.

    Candidates are the graph in several forms (which operators) and schemes (how many bits), held against torch on real
    text and timed in turns on the device; on an emulated one their instructions are counted. Other arguments are the
    fields of a recipe's `export` and `measure` sections. `text` is a file of real text, one a line; by default a
    student's held-out text, or what a fine-tuned model was judged on, where that is still the same; else sentences of
    our own.

    Raises:
        UserError: what cannot be, told before the model is loaded where it can be told without it.
        ParityError: no graph answers as the model does.
        OutputError: `output` exists (unless `force`), or cannot be written.

    Example:
        >>> package = export("student", output="student-onnx", quantize="int8")  # doctest: +SKIP
        >>> package.details.parity.mean_cosine  # doctest: +SKIP
        0.9934
    """
    try:
        settings = ExportSettings(
            quantize=quantize,
            embeddings=embeddings,
            graph=graph,
            opset=opset,
            with_tokenizer=with_tokenizer,
            with_ort_format=with_ort_format,
            runtime=runtime,
            seconds=seconds,
        )
        measure = MeasureSettings(device=device, threads=threads, batch_size=batch_size, length=length)
    except ValidationError as error:
        raise UserError(first_fault(error), where="export") from None
    texts = read_lines(Path(text)) if text else held_out_texts(Path(model))
    if not texts and _finetuned(Path(model)) is not None:
        progress.on_stage("what it was judged on is not there any more: answers are held on sentences of our own")
    return export_model(
        str(model),
        Path(output),
        settings=settings,
        measure=measure,
        task=task,
        texts=texts,
        force=force,
        progress=progress,
    )


def export_model(
    model: str | Encoder,
    out_dir: Path,
    *,
    settings: ExportSettings,
    measure: MeasureSettings,
    task: ModelTask | None = None,
    texts: Sequence[str] = (),
    recipe_digest: str | None = None,
    gate: Gate | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> PackageManifest:
    """`export` of a model by name or of what `load_encoder` gave; what cannot be is refused before it is loaded.

    A candidate that does not keep the gate's floor of quality ships only if none does.
    """
    refuse_existing(out_dir, force=force, kind="package", inputs=[model] if isinstance(model, str) else ())
    _refuse_impossible(settings, measure, texts)
    from homoexport.encoder import load_encoder, max_length_of
    from homoexport.stages.evaluate import package_of_file
    from homoexport.stages.export.browser import Browser
    from homoexport.stages.export.package import export_encoder

    encoder = load_encoder(model, task=task) if isinstance(model, str) else model
    there, longest, output = host_of(measure.device), max_length_of(encoder), OUTPUT_NAMES[encoder.task][0]
    open_choice = left_open(measure.device, measure.threads)
    if measure.length > longest:
        progress.on_stage(f"timing with {longest} tokens, the model's longest text")
    timed_at = _timed_at(measure, there, longest)
    padding = encoder.tokenizer.pad_token_id or 0
    answer = partial(answers_of_file, device=measure.device, pad_token_id=padding, output=output)

    conditions = timed_at.model_dump(include={"device", "threads", "batch_size", "length"})
    conditions |= {"vocab_size": encoder.model.config.vocab_size, "outputs": (output,)}

    def rank(files: Sequence[Path]) -> list[float]:
        if there.emulated:
            return count_files(files, **conditions)
        return rank_files(files, min_seconds=settings.seconds, **conditions)

    browser = None
    if open_choice is not None:
        devices = open_choice.devices
        of_a_run = {name: value for name, value in conditions.items() if name not in ("device", "threads")}

        def race(runs: Sequence[tuple[Path, BrowserProvider, int]]) -> list[float]:
            placed = [(file, devices[provider], threads) for file, provider, threads in runs]
            return rank_runs(placed, min_seconds=settings.seconds, **of_a_run)

        answers = {provider: partial(answer, device=device) for provider, device in devices.items()}
        browser = Browser(answers, race, open_choice.threads, open_choice.not_tried)

    def judge(file: Path) -> BudgetVerdict:
        assert gate is not None
        return gate.judge(package_of_file(encoder, file, threads=threads_here(measure)))

    export_encoder(
        encoder,
        out_dir,
        settings=settings,
        target=there,
        timed_at=timed_at,
        rank=rank,
        texts=texts,
        answer=None if there.is_here else answer,
        held_on=measure.device,
        beside=_beside(settings.runtime, measure.device, answer),
        browser=browser,
        judge=None if gate is None else judge,
        recipe_digest=recipe_digest,
        force=force,
        progress=progress.on_stage,
    )
    return verify(out_dir, PackageManifest)


def _refuse_impossible(settings: ExportSettings, measure: MeasureSettings, texts: Sequence[str]) -> None:
    """Refuse what can be seen to be impossible without the model."""
    if settings.opset is not None:
        import onnx

        if settings.opset > onnx.defs.onnx_opset_version():
            raise UserError(f"there is no opset {settings.opset}", where="opset", hint=f"give {OLDEST_OPSET}")
    refuse_scales_without_text(settings.quantize, calibrated=bool(texts))
    refuse_without(settings, measure.device, calibrated=bool(texts))
    for scheme, facts in SCHEMES.items():
        if facts.asked_as == settings.quantize:
            embeddings_of(settings.embeddings, scheme)
    refuse_uncounted(measure.device)
    workload = measure.threads, measure.batch_size, measure.length
    check_measurement(measure.device, [workload], min_seconds=settings.seconds)


def _beside(asked: RuntimeChoice, device: str, answer: Answer) -> Mapping[Runtime, Answer | str]:
    """What runs a file on the device in each runtime that the package may have one for; or why it cannot."""
    found: dict[Runtime, Answer | str] = {}
    for runtime in others_of(asked):
        try:
            refuse_on(device, runtime)
            found[runtime] = answer
        except DeviceError as error:
            found[runtime] = f"{error.what}; {error.hint}"
    return found


def _timed_at(measure: MeasureSettings, there: TargetHost, longest: int) -> TimedAt:
    """What candidates are timed at. An emulator's times say nothing of its device: there instructions are counted."""
    return TimedAt(
        device=measure.device,
        cpu=there.cpu,
        threads=measure.threads,
        batch_size=measure.batch_size,
        length=min(measure.length, longest),
        unit="instructions" if there.emulated else "ms",
    )


def threads_here(settings: MeasureSettings) -> int:
    """Threads of what is done on this machine for a measurement that may be another's."""
    here = available_cores()
    return min(settings.threads or here, here)


def held_out_texts(student: Path) -> list[str]:
    """Text that a model has not learned from: what a distilled student's folder carries, or what a fine-tuned model was
    judged on, of pairs the first texts, where that is still the same; else none."""
    path = student / HELD_OUT
    if not path.is_file():
        details = _finetuned(student)
        judged = None if details is None else read_again(details.finetuned)
        texts = () if judged is None else judged.texts[:_MOST_TEXTS]
        return [text if isinstance(text, str) else text[0] for text in texts]
    refuse_links(student, hidden=False)
    with refusing(TextError, "cannot be read", where=str(path)):
        return path.read_text(encoding="utf-8").splitlines()


def _finetuned(folder: Path) -> FinetunedDetails | None:
    """What is kept of a model that was fine-tuned; None of others."""
    if kind_of(folder) not in ("model", "student"):
        return None
    details = read_manifest(folder, StudentManifest).details
    return details if isinstance(details, FinetunedDetails) else None
