"""`homoexport export`: packages made."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, BatchSize, Force, Length, Provider, device_of
from homoexport.errors import UserError


class Quantization(str, Enum):
    """What `--quantize` takes."""

    auto = "auto"
    none = "none"
    int8 = "int8"
    int8_static = "int8-static"
    int4 = "int4"
    fp16 = "fp16"


class EmbeddingBits(str, Enum):
    """What `--embeddings` takes."""

    auto = "auto"
    fp32 = "fp32"
    int8 = "int8"
    int4 = "int4"


class ModelTask(str, Enum):
    """What `--task` takes."""

    sentence_similarity = "sentence-similarity"
    feature_extraction = "feature-extraction"
    text_classification = "text-classification"
    token_classification = "token-classification"
    fill_mask = "fill-mask"


def export(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A student's folder, or any supported model.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Export to ONNX (the one format there is).")] = True,
    task: Annotated[
        ModelTask | None,
        typer.Option(help="What the model is for (default: what its folder says); a bare encoder does the first two."),
    ] = None,
    quantize: Annotated[
        Quantization,
        typer.Option(
            help="auto: the fastest that passes the accuracy gate; none: fp32; int8: scales follow the values as they "
            "come; int8-static: calibrated scales, the same answer in any batch; int4: 4-bit weights, for size; "
            "fp16: for GPUs and browsers."
        ),
    ] = Quantization.auto,
    embeddings: Annotated[
        EmbeddingBits,
        typer.Option(
            help="Embedding tables; auto: int8 where weights are quantized. The word table is most of a "
            "small student's file."
        ),
    ] = EmbeddingBits.auto,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default the student's name with -onnx."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="A txt file of real text, a line each, for the parity checks and for calibration (default: a "
            "student's held-out text; else a few English sentences, for the checks alone)."
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(min=18, help="ONNX opset, and nothing newer (default: 18, and newer operators where they pay)."),
    ] = None,
    with_tokenizer: Annotated[
        bool,
        typer.Option(
            "--with-tokenizer",
            help="Write strings/text_model.onnx, too, which takes texts (needs onnxruntime-extensions).",
        ),
    ] = False,
    with_ort_format: Annotated[
        bool,
        typer.Option(
            "--with-ort-format",
            help="Write ort/model.ort, too, for small builds of onnxruntime, and the list of operators that it needs.",
        ),
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the package to this model repository of the Hugging Face hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository private, if it is new.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="Target that it is for, and measured on; see `homoexport devices` (default: cpu)."),
    ] = None,
    provider: Provider = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one inference (default: all cores).")] = None,
    batch_size: BatchSize = 1,
    length: Length = 128,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to an ONNX package: the fastest candidate graph that answers as the model does.

    Candidates are the graph in several forms (which operators) and schemes (how many bits), held against torch on real
    text and timed in turns on the device. The package holds the ONNX file, config, tokenizer, and a manifest with
    every candidate's figures. Threads, batch size and length say what the candidates are timed at.
    """
    if not onnx:
        raise UserError("there is no other format than ONNX", where="export", hint="give --onnx")
    if private and push_to_hub is None:
        raise UserError("nothing is pushed", where="--private", hint="give --push-to-hub, too")
    name = Path(student).resolve().name if Path(student).is_dir() else student.rstrip("/").rsplit("/", 1)[-1]
    output = output or Path(f"{name}-onnx")
    from homoexport.documents.artifact import PackageManifest, read_manifest
    from homoexport.documents.recipe import ExportSettings, MeasureSettings
    from homoexport.workflow.export import export_folder, held_out_texts
    from homoexport.workflow.measure import read_lines

    target = device_of(device, provider) or "cpu"
    if push_to_hub is not None:
        from homoexport.export.hub import check_repository

        check_repository(push_to_hub)
    texts = read_lines(text) if text else []
    export_folder(
        student,
        output,
        settings=ExportSettings(
            quantize=quantize.value,
            embeddings=embeddings.value,
            opset=opset,
            with_tokenizer=with_tokenizer,
            with_ort_format=with_ort_format,
        ),
        measure=MeasureSettings(device=target, threads=threads, batch_size=batch_size, length=length),
        task=None if task is None else task.value,
        texts=texts or held_out_texts(Path(student)),
        force=force,
        progress=screen.stage_line,
    )
    address = None
    if push_to_hub is not None:
        from homoexport.export.hub import push_to_hub as push

        screen.stage_line(f"uploading to {push_to_hub}")
        address = push(output, push_to_hub, private=private)
    manifest = read_manifest(output, PackageManifest)
    if as_json:
        screen.print_json(manifest.model_dump(mode="json"))
        return
    from homoexport.report import candidate_table, export_lines

    screen.output.print(candidate_table(manifest.details.model_dump(mode="json")))
    for line in export_lines(str(output), manifest) + ([f"On the hub: {address}"] if address else []):
        screen.output.print(line, soft_wrap=True)
