"""`homoexport finetune`: a model learns a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import LearnedTask
from homoexport.cli import screen
from homoexport.cli.options import (
    AsJson,
    DataDir,
    Force,
    LabelColumn,
    Overrides,
    PairColumn,
    TextColumn,
    flags,
    laid_over,
    name_of,
    resumable,
)
from homoexport.documents.evaluation import Columns
from homoexport.documents.layout import HTML_REPORT
from homoexport.documents.recipe import FinetuneRecipe, Tree, looked_for, parse_as

_FIELDS = ("epochs", "batch_size", "learning_rate", "max_examples", "int8_share", "threads", "max_length")
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A student, or any encoder that transformers has a classifier for: hub name or folder."
    ),
]
Task = Annotated[
    LearnedTask,
    typer.Option(
        help="classification or scores: your own --train and --dev; cola to wnli: GLUE's; glue: all nine of them, "
        "those without files left out by name."
    ),
]
Train = Annotated[str | None, typer.Option(metavar="GLOB", help="Files to train on, as `homoexport eval` reads them.")]
Dev = Annotated[str | None, typer.Option(metavar="GLOB", help="Files to judge on.")]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A classifier of the same labels, package or torch, whose logits teach, too. With several tasks the "
        "folder of its fine-tunings, of which each task's first seed is taken.",
    ),
]
RecipeFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings by task, and seeds, for example recipes/glue.yaml.")
]
Seeds = Annotated[list[int] | None, typer.Option(help="Repeatable: a training each, and their median.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default MODEL-TASK, its name alone."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Of several trainings: make those that are missing.")]


@flags(FinetuneRecipe, *(f"finetune.{name}" for name in _FIELDS))
def finetune(
    model: Model,
    task: Task,
    train: Train = None,
    dev: Dev = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    data_dir: DataDir = None,
    teacher: Teacher = None,
    recipe: RecipeFile = None,
    *,
    given: Tree,
    overrides: Overrides = None,
    seed: Seeds = None,
    output: Output = None,
    force: Force = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on a task, and judge it: a student, or a teacher for one.

    homoexport finetune MODEL --task sst2 -o sst2-classifier

    Writes a stock classifier's folder, to be exported or to be a teacher (a run's recipe with `finetune` makes its
    teacher so). Several tasks or seeds become folders TASK/seed-N and a summary. What a flag says goes before the
    recipe, also before what that says of the task.
    """
    settings = _settings(given, recipe, overrides, seed)
    out_dir = output or Path(f"{name_of(model)}-{task}")
    named = looked_for(model, train, dev, data_dir, teacher)
    with named, resumable(out_dir), screen.Bars() as bars:
        screen.stage_line(f"Fine-tuning {model} on {task}")
        from homoexport.report import finetuned_table
        from homoexport.workflow import finetune as verb
        from homoexport.workflow.progress import Progress

        tuning = verb.finetune(
            model,
            task=task,
            output=out_dir,
            train=train,
            dev=dev,
            columns=Columns(text=text_column, pair=pair_column, label=label_column),
            data_dir=data_dir,
            teacher=teacher,
            recipe=settings,
            force=force,
            resume=resume,
            progress=Progress(on_stage=bars.on_stage, on_finetune=bars.on_finetune),
        )
    kind = "Model" if verb.is_single(task, settings) else "Models"
    told = [f"{kind}: {out_dir}", f"Report: {out_dir / HTML_REPORT}"]
    screen.show(tuning, finetuned_table(tuning), *told, as_json=as_json)


def _settings(given: Tree, recipe: Path | None, overrides: list[str] | None, seeds: list[int] | None) -> FinetuneRecipe:
    """The recipe under the flags; these go before what it says of one task, too."""
    tree = laid_over(given, recipe)
    for other in (tree.get("tasks") or {}).values():
        if isinstance(other, dict):
            other.update(given.get("finetune", {}))
    if seeds:
        tree["seeds"] = seeds
    return parse_as(FinetuneRecipe, tree, where=str(recipe or "finetune"), overrides=overrides or ())
