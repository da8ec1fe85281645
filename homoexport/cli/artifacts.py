"""`homoexport export`, `embed` and `verify`: packages made, used and checked."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, BatchSize, Force, Length, Provider, Threads, device_of
from homoexport.errors import TextError, UserError


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
    from homoexport.documents.artifact import read_manifest
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
    manifest = read_manifest(output)
    if as_json:
        screen.print_json(manifest)
        return
    from homoexport.report import candidate_table, export_lines

    screen.output.print(candidate_table(manifest["details"]))
    for line in export_lines(str(output), manifest) + ([f"On the hub: {address}"] if address else []):
        screen.output.print(line, soft_wrap=True)


def embed(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A sentence package.")],
    threads: Threads = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of one inference.")] = 32,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The .npy file; by default stdout.")
    ] = None,
) -> None:
    """Turn lines of text on stdin into vectors, [lines, width] float32, as a .npy file on stdout.

    homoexport embed PACKAGE < lines.txt > vectors.npy
    """
    import io

    import numpy as np

    from homoexport.documents.artifact import make_folder, output_errors
    from homoexport.runtime.inference import open_package

    if output is None and sys.stdout.isatty():
        raise UserError("vectors are not for a terminal", where="embed", hint="write > vectors.npy, or -o vectors.npy")
    opened = open_package(package, threads=threads)
    try:
        # Only a newline ends a text: str.splitlines would also cut at form feeds and the like.
        texts = sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TextError(f"is not UTF-8 ({error})", where="stdin") from None
    if texts[-1] == "":
        texts.pop()
    buffer = io.BytesIO()
    np.save(buffer, opened.embed(texts, batch_size=batch_size))
    if output is None:
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    make_folder(output.parent)
    with output_errors(output):
        output.write_bytes(buffer.getvalue())


def verify_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A student, package or measurement.")],
    as_json: AsJson = False,
) -> None:
    """Check every file of an artifact against its manifest."""
    from homoexport.documents.artifact import verify

    manifest = verify(folder)
    if as_json:
        screen.print_json(manifest)
        return
    screen.output.print(
        f"{folder}: a {manifest['kind']}, {len(manifest['files'])} files, all as the manifest has them "
        f"({manifest['digest'][:12]})",
        soft_wrap=True,
    )
