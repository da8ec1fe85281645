"""`homoexport export`: packages made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import ModelTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Provider, Tree, flags, on_provider, parsed
from homoexport.documents.recipe import ExportRecipe
from homoexport.errors import UserError


@flags(
    ExportRecipe,
    "export.quantize",
    "export.embeddings",
    "export.graph",
    "export.opset",
    "export.with_tokenizer",
    "export.with_ort_format",
    "export.seconds",
    "measure.device",
    "measure.threads",
    "measure.batch_size",
    "measure.length",
)
def export(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A student's folder, or any supported model.")],
    given: Tree,
    onnx: Annotated[
        bool, typer.Option("--onnx", show_default=False, help="Export to ONNX (the one format there is).")
    ] = True,
    task: Annotated[
        ModelTask | None,
        typer.Option(help="What the model is for (default: what its folder says); a bare encoder does the first two."),
    ] = None,
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
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the package to this model repository of the Hugging Face hub."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make that repository private, if it is new.")] = False,
    provider: Provider = None,
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
    asked = parsed(ExportRecipe, on_provider(given, provider), command="export")
    name = Path(student).resolve().name if Path(student).is_dir() else student.rstrip("/").rsplit("/", 1)[-1]
    output = output or Path(f"{name}-onnx")
    screen.stage_line(f"Exporting {student}")
    from homoexport.stages.export import hub
    from homoexport.workflow.export import export as export_model
    from homoexport.workflow.progress import Progress

    if push_to_hub is not None:
        hub.check_repository(push_to_hub)
    manifest = export_model(
        student,
        output=output,
        task=task,
        text=text,
        force=force,
        progress=Progress(on_stage=screen.stage_line),
        **asked.export.model_dump(),
        **asked.measure.model_dump(include={"device", "threads", "batch_size", "length"}),
    )
    address = None
    if push_to_hub is not None:
        screen.stage_line(f"uploading to {push_to_hub}")
        address = hub.push_to_hub(output, push_to_hub, private=private)
    if as_json:
        screen.print_json(manifest.model_dump(mode="json"))
        return
    from homoexport.report import candidate_table, export_lines

    screen.output.print(candidate_table(manifest.details))
    for line in export_lines(str(output), manifest) + ([f"On the hub: {address}"] if address else []):
        screen.output.print(line, soft_wrap=True)
