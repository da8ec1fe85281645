"""Exporting a model for a target, its graph chosen by measuring there.

Nothing heavy is imported before what was asked for is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from homoexport.choices import OUTPUT_NAMES, EmbeddingChoice, GraphChoice, ModelTask, Quantization
from homoexport.documents.artifact import PackageManifest, read_manifest, refuse_existing
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import first_fault
from homoexport.documents.package import TimedAt
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.documents.run_folder import HELD_OUT
from homoexport.errors import UserError
from homoexport.host import available_cores
from homoexport.schemes import SCHEMES, embeddings_of, refuse_scales_without_text
from homoexport.stages.measure import answers_of_file, check_measurement, host_of, rank_files
from homoexport.workflow.measure import read_lines

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.workflow.gate import Gate

OLDEST_OPSET = 18


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
    seconds: float = 1.0,
    task: ModelTask | None = None,
    text: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 1,
    length: int = 128,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> PackageManifest:
    """Export a model to an ONNX package: the fastest candidate graph that answers as the model does.

    Candidates are the graph in several forms (which operators) and schemes (how many bits), held against torch on real
    text and timed in turns on the device.

    Args:
        model: a student's folder, or any supported model: a folder, a name on the hub, or `package:NAME/PATH`.
        output: becomes the package's folder.
        quantize: `auto`: the fastest scheme that passes the accuracy gate; `none`: fp32; or the scheme to use.
        embeddings: how embedding tables are stored; `auto`: in 8 bits where the weights are quantized.
        graph: how the graph computes attention: `auto`: the fastest form; or the one to use.
        opset: of the standard operators, and nothing newer; by default 18, and newer ones where they pay.
        with_tokenizer: write strings/text_model.onnx, too, which takes texts.
        with_ort_format: write ort/model.ort, too, for small builds of onnxruntime.
        seconds: that each candidate is timed for at the least.
        task: what the model is for; by default what its folder says.
        text: file of real text, one a line, for the checks and for calibration; by default a student's held-out text,
            else sentences of our own, for the checks alone.
        device: the target that it is for, and measured on; see `homoexport devices`.
        threads: threads of one inference; by default as many as the target gives cores.
        batch_size: sequences of one inference.
        length: tokens of one sequence; at most the model's longest text is taken.
        force: replace `output` where homoexport wrote a package there.
        progress: called with what is being done.

    Returns:
        The package's manifest: the graph that ships, and every candidate with its figures.

    Raises:
        UserError: settings that cannot be, a device that cannot be used, or a model that cannot be exported; what can
            be told without the model is told before it is loaded.
        ParityError: no graph answers as the model does.
        OutputError: `output` exists, or cannot be written.

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
            seconds=seconds,
        )
        measure = MeasureSettings(device=device, threads=threads, batch_size=batch_size, length=length)
    except ValidationError as error:
        raise UserError(first_fault(error), where="export") from None
    texts = read_lines(Path(text)) if text else held_out_texts(Path(model))
    export_folder(
        str(model),
        Path(output),
        settings=settings,
        measure=measure,
        task=task,
        texts=texts,
        force=force,
        progress=progress,
    )
    return read_manifest(Path(output), PackageManifest)


def export_folder(
    source: str,
    out_dir: Path,
    *,
    settings: ExportSettings,
    measure: MeasureSettings,
    task: ModelTask | None = None,
    texts: Sequence[str] = (),
    recipe_digest: str | None = None,
    gate: Gate | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Load a model and export it, see `export_loaded`; what cannot be is refused before it is loaded.

    Args:
        source: a student's folder, or any model that `load_encoder` takes.
        task: what the model is for; by default what its folder says.
    """
    refuse_existing(out_dir, force=force, kind="package", inputs=[source])
    refuse_impossible(settings, measure, texts)
    from homoexport.encoder import load_encoder

    return export_loaded(
        load_encoder(source, task=task),
        out_dir,
        settings=settings,
        measure=measure,
        texts=texts,
        recipe_digest=recipe_digest,
        gate=gate,
        force=force,
        progress=progress,
    )


def refuse_impossible(settings: ExportSettings, measure: MeasureSettings, texts: Sequence[str]) -> None:
    """Refuse what can be seen to be impossible without the model.

    Raises:
        UserError: an opset that there is not, calibrated scales without text, or embedding tables that the scheme
            cannot have.
        DeviceError: a device that is unknown or cannot be used, or more threads than it has cores.
    """
    if settings.opset is not None:
        import onnx

        if settings.opset > onnx.defs.onnx_opset_version():
            raise UserError(f"there is no opset {settings.opset}", where="opset", hint=f"give {OLDEST_OPSET}")
    refuse_scales_without_text(settings.quantize, calibrated=bool(texts))
    for scheme, facts in SCHEMES.items():
        if facts.asked_as == settings.quantize:
            embeddings_of(settings.embeddings, scheme)
    if not host_of(measure.device).emulated:
        workload = measure.threads, measure.batch_size, measure.length
        check_measurement(measure.device, [workload], min_seconds=settings.seconds)


def export_loaded(
    encoder: Encoder,
    out_dir: Path,
    *,
    settings: ExportSettings,
    measure: MeasureSettings,
    texts: Sequence[str] = (),
    recipe_digest: str | None = None,
    gate: Gate | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model, choosing among the candidate graphs by measuring them on the target.

    Args:
        encoder: what `load_encoder` gave.
        out_dir: becomes the package's folder.
        settings: quantization, opset, and how long candidates are timed.
        measure: the target, and the threads, batch and length that the candidates are ranked at.
        texts: real text for the parity ladder; by default sentences of the project's own.
        recipe_digest: of the recipe that this is part of.
        gate: a floor of quality, which a candidate must keep to be chosen.
        force: replace `out_dir` where homoexport wrote it.
        progress: is told each step.
    """
    from homoexport.encoder import max_length_of
    from homoexport.stages.evaluate import package_of_file
    from homoexport.stages.export.package import export_encoder

    there, longest = host_of(measure.device), max_length_of(encoder)
    if measure.length > longest and progress:
        progress(f"timing with {longest} tokens, the model's longest text")
    output = OUTPUT_NAMES[encoder.task][0]
    # An emulator's times say nothing of its device: graphs are ranked here, and the gate alone is held there.
    timed_at = TimedAt(
        device="cpu" if there.emulated else measure.device,
        cpu=host_of("cpu").cpu if there.emulated else there.cpu,
        threads=threads_here(measure) if there.emulated else measure.threads,
        batch_size=measure.batch_size,
        length=min(measure.length, longest),
    )

    def rank(files: Sequence[Path]) -> list[float]:
        return rank_files(
            files,
            device=timed_at.device,
            threads=timed_at.threads,
            batch_size=timed_at.batch_size,
            length=timed_at.length,
            min_seconds=settings.seconds,
            vocab_size=encoder.model.config.vocab_size,
            outputs=(output,),
        )

    def answer(file: Path, batches: Sequence[Mapping[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        padding = encoder.tokenizer.pad_token_id or 0
        return answers_of_file(file, batches, device=measure.device, pad_token_id=padding, output=output)

    def judge(file: Path) -> BudgetVerdict:
        assert gate is not None
        return gate.judge(package_of_file(encoder, file, threads=threads_here(measure)))

    return export_encoder(
        encoder,
        out_dir,
        settings=settings,
        target=there,
        timed_at=timed_at,
        rank=rank,
        texts=texts,
        answer=None if there.is_here else answer,
        held_on=measure.device,
        judge=None if gate is None else judge,
        recipe_digest=recipe_digest,
        force=force,
        progress=progress or (lambda _step: None),
    )


def threads_here(settings: MeasureSettings) -> int:
    """Threads of what is done on this machine for a measurement that may be another's."""
    here = available_cores()
    return min(settings.threads or here, here)


def held_out_texts(student: Path) -> list[str]:
    """Held-out text that a distilled student's folder carries; none where it carries none."""
    path = student / HELD_OUT
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
