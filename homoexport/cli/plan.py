"""`homoexport plan`: what a budget can afford on a target, before any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import (
    BUDGET,
    DATA,
    AsJson,
    Flag,
    Force,
    Overrides,
    RecipeFile,
    TargetFile,
    flags,
    parsed,
)
from homoexport.documents.layout import HTML_REPORT
from homoexport.documents.recipe import PlanRecipe, Tree, looked_for

_FIELDS = (
    "teacher",
    *BUDGET,
    "measure.device",
    "measure.threads",
    "measure.batch_size",
    "measure.length",
    "export.quantize",
    "export.embeddings",
    "export.runtime",
    Flag(
        "vocabulary.sizes",
        "--vocab-size",
        help="Plan with so many words, too (such as 12k): those that the text of --data has most. Repeatable.",
        repeatable=True,
    ),
    replace(
        DATA,
        help="Glob of text to sum the teacher's sensitivity over, and to choose words by (default: packaged sentences, "
        "which choose none). Repeatable.",
    ),
)
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what an earlier plan has measured on this target.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the plan, its report and a plot there.")
]


@flags(PlanRecipe, *_FIELDS)
def plan(
    given: Tree,
    recipe: RecipeFile = None,
    target: TargetFile = None,
    fresh: Fresh = False,
    output: Output = None,
    overrides: Overrides = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Say which student shapes keep a budget on a target, and which of them keeps most of the teacher.

    Nothing is trained: small models with random weights are measured on the target, whole ones are predicted from
    them, and the choice is measured whole. Takes some minutes the first time, and seconds when it is asked again. A
    budget that no student keeps is refused, with what the smallest one needs (exit code 2). With --vocab-size the words
    are planned, too: fewer leave more room for width, and keep less of the text.

    Example: homoexport plan --teacher MODEL --latency-p95 8ms --size 12MB --memory 120MB --threads 1
    """
    from homoexport.documents.output import refuse_existing
    from homoexport.workflow.plan import plan as make
    from homoexport.workflow.progress import Progress

    asked = parsed(PlanRecipe, given, command="plan", recipe=recipe, target=target, overrides=overrides)
    if output is not None:
        refuse_existing(output, force=force, kind="plan", inputs=[asked.teacher])
    screen.stage_line(f"Planning a student of {asked.teacher}")
    with looked_for(asked, recipe=recipe), screen.Bars() as bars:
        found = make(
            asked.teacher,
            budget=asked.budget,
            measure=asked.measure,
            export=asked.export,
            distill=asked.distill,
            text=asked.text,
            vocabulary=asked.vocabulary,
            seed=asked.seed,
            fresh=fresh,
            progress=Progress(on_share=bars.on_measure, on_note=bars.on_note),
        )
    from homoexport.report import plan_lines, plan_tables, write_plan_report

    if output is not None:
        write_plan_report(output, found, force=force)
    kept_in = [f"Report: {output / HTML_REPORT}"] if output else []
    screen.show(found, *plan_tables(found), *plan_lines(found), *kept_in, as_json=as_json)
