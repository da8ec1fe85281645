"""`homoexport run` and `homoexport report`: the whole journey, and its report again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from homoexport.cli import screen
from homoexport.cli.options import (
    BUDGET,
    AsJson,
    Flag,
    Force,
    OutDir,
    Overrides,
    Resume,
    TargetFile,
    flags,
    laid_over,
    resumable,
    run_folder,
)
from homoexport.documents.artifact import kind_of
from homoexport.documents.layout import HTML_REPORT, PACKAGE
from homoexport.documents.recipe import Recipe, Tree, looked_for, parse_as
from homoexport.errors import UserError

if TYPE_CHECKING:
    from homoexport.documents.summary import Summary
    from homoexport.workflow.progress import Progress

Check = Annotated[
    bool,
    typer.Option(
        "--check", help="Find in seconds what would stop the run; say what it would do and how long that would take."
    ),
]


@flags(Recipe, *BUDGET, Flag("quality.floor", "--quality"))
def run(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A YAML recipe, for example recipes/quickstart.yaml.")
    ],
    given: Tree,
    target: TargetFile = None,
    planned: Annotated[
        bool, typer.Option("--plan", help="Find the student's shape by the budget, whatever the recipe's student is.")
    ] = False,
    output: OutDir = None,
    overrides: Overrides = None,
    force: Force = False,
    resume: Resume = False,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Do the whole journey: plan, distil, export, quantize, measure, report.

    A recipe with `finetune` has the teacher learn its labels first. Where the recipe names no student, or with --plan,
    the student is the shape that the budget allows and that keeps most of the teacher; if its measured package misses a
    line all the same, it is pruned further. The run's folder holds the student, its ONNX package, the measurement,
    report.html and summary.json. Of several students or budgets each has such a folder below the run's, whose
    report.html compares them. Exits with 3 where a line of a budget is missed (of one budget and several students by
    all) or a student does not fit the device (of several students none).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("run is one process's", where="run", hint="launch `distill` with many, then `export`")
    tree = laid_over(given, recipe, target)
    if planned:
        tree = {key: value for key, value in tree.items() if key not in ("student", "students")}
    settings = parse_as(Recipe, tree, where=str(recipe), overrides=overrides or ())
    if check:
        _check(settings, recipe, output, force=force, resume=resume, as_json=as_json)
        return
    run_dir = run_folder(settings.name, output, resume=resume)
    with looked_for(settings, recipe=recipe), resumable(run_dir), screen.Bars() as bars:
        screen.stage_line(f"Running {settings.name}")
        from homoexport.report import summary_table
        from homoexport.workflow.run import run as run_recipe
        from homoexport.workflow.several import is_kept, run_several

        progress = _told_to(bars)
        if settings.parts:
            runs = run_several(settings, output=run_dir, force=force, resume=resume, progress=progress)
            _show_several(runs, run_dir / HTML_REPORT, of=settings.parts, as_json=as_json)
            if not is_kept(settings, runs):
                raise typer.Exit(3)
            return
        summary = run_recipe(settings, output=run_dir, force=force, resume=resume, progress=progress)
        where = [f"Package: {run_dir / PACKAGE}", f"Report:  {run_dir / HTML_REPORT}"]
        screen.show(summary, summary_table(summary), *_verdicts(summary, run_dir), *where, as_json=as_json)
    if summary.budget_kept is not True:
        raise typer.Exit(3)


def _verdicts(summary: Summary, run_dir: Path) -> list[str | Text]:
    """What the run came to, a line for each line of the budget, and what may help where one is not kept."""
    from homoexport.report import next_steps, verdict_lines

    return [*verdict_lines(summary.budget), *(f"Next: {step}" for step in next_steps(summary, run_dir))]


def _told_to(bars: screen.Bars) -> Progress:
    from homoexport.workflow.progress import Progress

    return Progress(
        on_stage=bars.on_stage,
        on_share=bars.on_measure,
        on_note=bars.on_note,
        on_distill=bars.on_distill,
        on_finetune=bars.on_finetune,
    )


def _show_several(runs: dict[str, Summary], page: Path, *, of: Sequence[Recipe] = (), as_json: bool) -> None:
    """Runs side by side, in the terminal; of one recipe, those of its parts."""
    from homoexport.report import next_steps, side_by_side_notes, side_by_side_table

    missed = [part for part in of if part.name in runs and runs[part.name].budget_kept is not True]
    if len(missed) < len(runs) and not all(part.is_planned for part in of):
        missed = []  # one student that keeps the budget is enough
    told = side_by_side_notes(runs, of=[part.name for part in of])
    for part in missed:
        steps = next_steps(runs[part.name], page.parent / part.name)
        told += [f"Next for {part.name}: {step}" for step in steps]
    told.append(f"Report: {page}")
    screen.show(list(runs.values()), side_by_side_table(runs), *told, as_json=as_json)


def _check(settings: Recipe, recipe: Path, output: Path | None, *, as_json: bool, **how: bool) -> None:
    """Say what the run would do, or what would stop it."""
    from homoexport.report import outlook_table, row_lines
    from homoexport.workflow.check import check
    from homoexport.workflow.progress import Progress

    with looked_for(settings, recipe=recipe), screen.Bars() as bars:
        screen.stage_line(f"Checking {settings.name}")
        outlook = check(settings, output=output, **how, progress=Progress(on_share=bars.on_measure))
    screen.show(outlook, outlook_table(outlook), *row_lines(outlook), as_json=as_json)


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR...", help="Folders of finished runs; or one of bench and one of eval."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Of several: their page (default: comparison.html)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report again, report.md with its plots and report.html, or lay several runs side by side.

    homoexport report runs/a runs/b runs/c -o comparison.html

    homoexport report measured judged -o models.html

    The page of several runs is one file of HTML; the runs are read and left as they are. The second line is for any
    models, peers and off-the-shelf ones among them: their quality (eval -o judged) against cost (bench -o measured).
    """
    if len(run_dirs) > 1:
        _side_by_side(run_dirs, output or Path("comparison.html"), as_json=as_json)
        return
    if output is not None:
        raise UserError("is for several runs", where="--output", hint="the report of one run lies in its own folder")
    from homoexport.report import summary_table
    from homoexport.workflow.summary import parts_of, report_several
    from homoexport.workflow.summary import report as report_again

    (run_dir,) = run_dirs
    if parts := parts_of(run_dir):
        _show_several(report_several(run_dir), run_dir / HTML_REPORT, of=parts, as_json=as_json)
        return
    summary = report_again(run_dir)
    where = f"Report: {run_dir / HTML_REPORT}"
    screen.show(summary, summary_table(summary), *_verdicts(summary, run_dir), where, as_json=as_json)


def _side_by_side(folders: list[Path], page: Path, *, as_json: bool) -> None:
    """The page of several runs, or of the models that one folder measured and another judged."""
    from homoexport.report import comparison_notes, comparison_table
    from homoexport.workflow.summary import report_comparison, report_side_by_side

    if sorted(str(kind_of(folder)) for folder in folders) == ["evaluation", "measurement"]:
        found = report_comparison(folders, output=page)
        told = [*comparison_notes(*found), f"Report: {page}"]
        screen.show(found, comparison_table(*found), *told, as_json=as_json)
        return
    _show_several(report_side_by_side(folders, output=page), page, as_json=as_json)
