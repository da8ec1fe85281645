"""`homoexport finetune`: a student learns a task."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Overrides, Tree, flags, laid_over, resumable
from homoexport.documents.recipe import FinetuneRecipe, parse_as
from homoexport.errors import TextError, UserError

_Own = Literal["classification", "scores"]
_Glue = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
_FLAGS_OF_OWN = ("--train", "--dev", "--text-column", "--pair-column", "--label-column")


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
        Literal[_Own, "glue", _Glue],
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
    files = (train, dev, text_column, pair_column, label_column, data_dir)
    _check_flags(task, {name for name, value in zip((*_FLAGS_OF_OWN, "--data-dir"), files, strict=True) if value})

    from homoexport.documents.artifact import refuse_existing
    from homoexport.report import finetuned_table
    from homoexport.workflow import finetune

    single = task != "glue" and len(settings.seeds) == 1
    name = Path(student).resolve().name if Path(student).is_dir() else student.rstrip("/").rsplit("/", 1)[-1]
    out_dir = output or Path(f"{name}-{task}")
    if single and resume:
        raise UserError("is for several tasks or seeds", where="--resume", hint="leave it out")
    if not resume:
        refuse_existing(out_dir, force=force, kind="student" if single else finetune.KIND, inputs=[student])
    skipped: dict[str, str] = {}
    tasks = []
    if task in get_args(_Own):
        assert train is not None
        assert dev is not None
        own = finetune.own_task(
            "classification" if task == "classification" else "scores",
            train,
            dev,
            text_column=text_column or "text",
            pair_column=pair_column,
            label_column=label_column or ("label" if task == "classification" else "score"),
        )
        tasks.append(own)
    for each in get_args(_Glue) if task == "glue" else (task,) * (task in get_args(_Glue)):
        try:
            tasks.append(finetune.glue_task(each, data_dir))
        except TextError as error:
            if task != "glue":
                raise
            skipped[each] = str(error)
            screen.stage_line(f"{each} is left out: {error}")
    if not tasks:
        raise UserError(
            "no task has files", where=str(data_dir or "the hub"), hint="name GLUE's folder with --data-dir"
        )
    with nullcontext() if single else resumable(out_dir), screen.finetune_bar() as show:
        listener = finetune.Listener(on_stage=screen.stage_line, on_progress=show)
        if single:
            result = finetune.finetune_student(
                student,
                tasks[0],
                out_dir,
                settings=settings.settings_of(tasks[0].name),
                seed=settings.seeds[0],
                teacher=teacher,
                force=force,
                listener=listener,
            )
            summary = {"model": student, "runs": [result], "summary": finetune.over_seeds([result]), "skipped": {}}
        else:
            summary = finetune.finetune_many(
                student,
                tasks,
                out_dir,
                recipe=settings,
                teachers=finetune.teachers_of(teacher, tasks) if teacher else None,
                skipped=skipped,
                force=force,
                resume=resume,
                listener=listener,
            )
    if as_json:
        screen.print_json(summary)
        return
    screen.output.print(finetuned_table(summary))
    screen.output.print(f"{'Student' if single else 'Students'}: {out_dir}", soft_wrap=True)


def _check_flags(task: str, given: set[str]) -> None:
    """Refuse flags that would make no difference, and miss those that are needed."""
    needed = {"--train", "--dev"} if task in get_args(_Own) else set()
    if missing := needed - given:
        raise UserError("on which files?", where=f"--task {task}", hint=f"name some with {min(missing)}")
    if wrong := given & ({"--data-dir"} if task in get_args(_Own) else set(_FLAGS_OF_OWN)):
        raise UserError("makes no difference here", where=f"{min(wrong)} with --task {task}", hint="leave it out")
