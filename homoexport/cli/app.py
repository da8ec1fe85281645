"""The `homoexport` command and what its subcommands share."""

from __future__ import annotations

from typing import Annotated

import typer

from homoexport.cli import artifacts, distilling, evaluating, finetuning, journey, measuring, planning
from homoexport.host import library_versions

app = typer.Typer(
    name="homoexport",
    help="Distil a slim Transformer encoder to a deployment budget, export it to ONNX, and prove it on the target.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"homoexport {library_versions().get('homoexport', 'unknown')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


app.command("run")(journey.run)
app.command("plan")(planning.plan)
app.command("distill")(distilling.distill_command)
app.command("export")(artifacts.export)
app.command("finetune")(finetuning.finetune_command)
app.command("bench")(measuring.bench)
app.command("devices")(measuring.devices)
app.command("doctor")(measuring.doctor)
app.command("eval")(evaluating.eval_command)
app.command("embed")(artifacts.embed)
app.command("verify")(artifacts.verify_command)
app.command("report")(journey.report)
