"""`homoexport gate`: a package against the one that is in use, for a CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import EVALUATION_TASKS
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Flag, Provider, RunsIn, flags, on_provider, parsed
from homoexport.documents.output import output_errors
from homoexport.documents.recipe import GateRecipe, Tree, looked_for
from homoexport.errors import UserError
from homoexport.units import parse_percent

_QUALITY = ("data", "data_dir", "text_column", "pair_column", "label_column", "metric")
_TASK = Flag("quality.task", help=f"Judge the answers, too, as `eval` does: {', '.join(EVALUATION_TASKS)}, or GLUE's.")
Baseline = Annotated[
    Path, typer.Argument(metavar="BASELINE", help="The package in use, or what `homoexport bench --json` says of it.")
]
Newer = Annotated[Path, typer.Argument(metavar="PACKAGE", help="The package that is to take its place.")]
Slower = Annotated[
    str, typer.Option("--fail-if-slower", metavar="5%", help="By how much its median latency may be higher.")
]
Bigger = Annotated[
    str, typer.Option("--fail-if-bigger", metavar="1%", help="By how much the files of its runtime may be larger.")
]
Worse = Annotated[
    str, typer.Option("--fail-if-worse", metavar="1%", help="By how much its figure of --task may be lower.")
]
Summary = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Add the table to this file, as Markdown, for a CI's summary.")
]


@flags(
    GateRecipe,
    "measure.device",
    "measure.threads",
    "measure.batch_size",
    "measure.length",
    "measure.text",
    "measure.min_seconds",
    _TASK,
    *(f"quality.{name}" for name in _QUALITY),
)
def gate(
    baseline: Baseline,
    package: Newer,
    given: Tree,
    provider: Provider = None,
    runtime: RunsIn = "auto",
    fail_if_slower: Slower = "5%",
    fail_if_bigger: Bigger = "1%",
    fail_if_worse: Worse = "1%",
    summary: Summary = None,
    as_json: AsJson = False,
) -> None:
    """Hold a package against the one in use: is it slower, bigger or worse by more than is allowed?

    homoexport gate main/package package --task sts --data dev.tsv

    Both are measured in turns, and judged on the same examples. Exit code 3: it is, or it is too noisy to call;
    `verdict` of --json says which (kept, worse, undecided). On an emulated device, instructions are counted in place
    of time.
    """
    slower, bigger, worse = (
        parse_percent(text, where=f"--fail-if-{name}")
        for name, text in (("slower", fail_if_slower), ("bigger", fail_if_bigger), ("worse", fail_if_worse))
    )
    if worse >= 1:
        raise UserError(f"nothing is worse by {fail_if_worse}", where="--fail-if-worse", hint="write it as 1%")
    asked = parsed(GateRecipe, on_provider(_with_floor(given, worse), provider), command="gate")
    screen.stage_line(f"Measuring on {asked.measure.device}")
    from homoexport.report import release_lines, release_page, release_table
    from homoexport.workflow.progress import Progress
    from homoexport.workflow.release import hold_against

    with looked_for(baseline, package, asked), screen.Bars() as bars:
        release = hold_against(
            baseline,
            package,
            settings=asked.measure,
            quality=asked.quality,
            runtime=runtime,
            slower=slower,
            bigger=bigger,
            progress=Progress(on_share=bars.on_measure),
        )
    if summary is not None:
        with output_errors(summary), summary.open("a", encoding="utf-8") as file:
            file.write(release_page(release))
    screen.show(release, release_table(release), *release_lines(release), as_json=as_json)
    if release.verdict != "kept":
        raise typer.Exit(3)


def _with_floor(given: Tree, worse: float) -> Tree:
    """The flags, with the floor that a share of the baseline's figure is.

    Raises:
        UserError: data to judge on, and no task.
    """
    quality = given.get("quality")
    if quality is None:
        return given
    if "task" not in quality:
        flag = next(iter(quality)).replace("_", "-")
        raise UserError("is for --task", where=f"--{flag}", hint="name the task, or leave it out")
    return given | {"quality": quality | {"floor": f"{100 * (1 - worse):.10g}%"}}
