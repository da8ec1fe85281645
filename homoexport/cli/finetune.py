"""`homoexport finetune`: a student learns a task."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import LearnedTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Overrides, Tree, flags, laid_over, resumable
from homoexport.documents.evaluation import Columns
from homoexport.documents.recipe import FinetuneRecipe, parse_as


@flags(
    FinetuneRecipe,
    "finetune.epochs",
    "finetune.batch_size",
    "finetune.learning_rate",
    "finetune.max_examples",
    "finetune.int8_share",
    "finetune.threads",
    "finetune.max_length",
)
def finetune(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A student's folder, or any supported model.")],
    task: Annotated[
        LearnedTask,
        typer.Option(
            help="classification or scores: your own --train and --dev; cola to wnli: GLUE's; glue: all nine of them, "
            "those without files left out by name."
        ),
    ],
    train: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Files to train on, as `homoexport eval` reads them.")
    ] = None,
    dev: Annotated[str | None, typer.Option(metavar="GLOB", help="Files to judge on.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts (default: text).")] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts, of pairs.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of labels or scores (default: label, of scores: score).")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="GLUE's files, a folder a task (SST-2/train.tsv); without it the hub."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A classifier of the same labels, package or torch, whose logits teach, too. With several tasks the "
            "folder of its fine-tunings, of which each task's first seed is taken.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings by task, and seeds, for example recipes/glue.yaml.")
    ] = None,
    *,
    given: Tree,
    overrides: Overrides = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable: a training each, and their median.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default STUDENT-TASK, its name alone."),
    ] = None,
    force: Force = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Of several trainings: make those that are missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a student on a task, and judge it.

    homoexport finetune STUDENT --task sst2 -o sst2-student

    Writes a stock classifier's folder, to be exported like any student's. Several tasks or seeds become folders
    TASK/seed-N and a summary. What a flag says goes before the recipe, also before what that says of the task.
    """
    tree = laid_over(given, recipe)
    for other in (tree.get("tasks") or {}).values():
        if isinstance(other, dict):
            other.update(given.get("finetune", {}))
    if seed:
        tree["seeds"] = seed
    settings = parse_as(FinetuneRecipe, tree, where=str(recipe or "finetune"), overrides=overrides or ())

    from homoexport.report import finetuned_table
    from homoexport.workflow import finetune as verb

    name = Path(student).resolve().name if Path(student).is_dir() else student.rstrip("/").rsplit("/", 1)[-1]
    out_dir, single = output or Path(f"{name}-{task}"), verb.is_single(task, settings)
    with nullcontext() if single else resumable(out_dir), screen.Bars() as bars:
        tuning = verb.finetune(
            student,
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
            listener=verb.Listener(on_stage=bars.on_stage, on_progress=bars.on_finetune),
        )
    if as_json:
        screen.print_json(tuning.model_dump(mode="json"))
        return
    screen.output.print(finetuned_table(tuning))
    screen.output.print(f"{'Student' if single else 'Students'}: {out_dir}", soft_wrap=True)
