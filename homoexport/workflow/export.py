"""Exporting a model's folder for a target, its graph chosen by measuring there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from homoexport.choices import ModelTask
from homoexport.distill import HELD_OUT
from homoexport.documents.artifact import refuse_existing
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.package import TimedAt
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.encoder import OUTPUT_NAMES, load_encoder, max_length_of
from homoexport.evaluate import package_of_file
from homoexport.export import export_encoder
from homoexport.host import available_cores
from homoexport.measure import answers_of_file, host_of, rank_files
from homoexport.workflow.gate import Gate


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
            vocab_size=encoder.model.config.vocab_size,
            outputs=(output,),
        )

    def answer(file: Path, batches: Sequence[Mapping[str, Any]]) -> list[Any]:
        padding = encoder.tokenizer.pad_token_id or 0
        return answers_of_file(file, batches, device=measure.device, pad_token_id=padding, output=output)

    def judge(file: Path) -> BudgetVerdict:
        assert gate is not None
        return gate.judge(package_of_file(encoder, file, threads=threads_here(measure)))

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
        timed_at=timed_at,
        held_on=measure.device,
        out_dir=out_dir,
        rank=rank,
        recipe_digest=recipe_digest,
        force=force,
        progress=progress,
    )


def threads_here(settings: MeasureSettings) -> int:
    """Threads of what is done on this machine for a measurement that may be another's."""
    here = available_cores()
    return min(settings.threads or here, here)


def held_out_texts(student: Path) -> list[str]:
    """Held-out text that a distilled student's folder carries; none where it carries none."""
    path = student / HELD_OUT
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
