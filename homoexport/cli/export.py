"""`homoexport export`: packages made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import ModelTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Flag, Force, Provider, flags, name_of, on_provider, parsed
from homoexport.documents.recipe import ExportRecipe, Tree, looked_for
from homoexport.errors import UserError

_FIELDS = (
    "export.quantize",
    "export.embeddings",
    "export.graph",
    "export.opset",
    "export.with_tokenizer",
    "export.with_ort_format",
    "export.runtime",
    Flag("export.seconds", "--min-seconds"),
    "measure.device",
    "measure.threads",
    "measure.batch_size",
    "measure.length",
)
Student = Annotated[str, typer.Argument(metavar="STUDENT", help="A student's folder, or any encoder's.")]
Onnx = Annotated[bool, typer.Option("--onnx", show_default=False, help="Export to ONNX (the one format there is).")]
Task = Annotated[
    ModelTask | None,
    typer.Option(help="What the model is for (default: what its folder says); a bare encoder does the first two."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default the student's name with -onnx."),
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        help="A txt file of real text, a line each, for the parity checks and for calibration (default: a student's "
        "held-out text, or what a fine-tuned model was judged on, where that is still the same; else a few English "
        "sentences, for the checks alone)."
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(metavar="OWNER/NAME", help="Upload the package to this model repository of the Hugging Face hub."),
]
Private = Annotated[bool, typer.Option("--private", help="Make that repository private, if it is new.")]


@flags(ExportRecipe, *_FIELDS)
def export(
    student: Student,
    given: Tree,
    onnx: Onnx = True,
    task: Task = None,
    output: Output = None,
    text: TextFile = None,
    push_to_hub: PushToHub = None,
    private: Private = False,
    provider: Provider = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to an ONNX package: the fastest candidate graph that answers as the model does.

    Candidates are the graph in several forms (which operators) and schemes (how many bits), held against torch on real
    text and timed in turns on the device; on an emulated one instructions are counted. The package holds the ONNX
    file, config, tokenizer, and a manifest with every candidate's figures. Threads, batch size and length say what
    the candidates are timed at.
    """
    if not onnx:
        raise UserError("there is no other format than ONNX", where="export", hint="give --onnx")
    if private and push_to_hub is None:
        raise UserError("nothing is pushed", where="--private", hint="give --push-to-hub, too")
    asked = parsed(ExportRecipe, on_provider(given, provider), command="export")
    output = output or Path(f"{name_of(student)}-onnx")
    screen.stage_line(f"Exporting {student}")
    from homoexport.report import candidate_table, export_lines
    from homoexport.stages.export import hub
    from homoexport.workflow.export import export as export_model
    from homoexport.workflow.progress import Progress

    if push_to_hub is not None:
        hub.check_repository(push_to_hub)
    with looked_for(student, text):
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
    told = export_lines(str(output), manifest)
    if push_to_hub is not None:
        screen.stage_line(f"uploading to {push_to_hub}")
        told.append(f"On the hub: {hub.push_to_hub(output, push_to_hub, private=private)}")
    screen.show(manifest, candidate_table(manifest.details), *told, as_json=as_json)
