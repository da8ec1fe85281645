"""`homoexport finetune`: a student learns a task."""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Overrides, put, resumable
from homoexport.documents.recipe import FinetuneRecipe, parse_as, read_recipe_tree
from homoexport.errors import TextError, UserError


class Learned(str, Enum):
    """What `--task` takes: the user's own tasks, GLUE's, and all of GLUE's."""

    classification = "classification"
    scores = "scores"
    glue = "glue"
    cola = "cola"
    sst2 = "sst2"
    mrpc = "mrpc"
    stsb = "stsb"
    qqp = "qqp"
    mnli = "mnli"
    qnli = "qnli"
    rte = "rte"
    wnli = "wnli"


_OWN = (Learned.classification, Learned.scores)
_FLAGS_OF_OWN = ("--train", "--dev", "--text-column", "--pair-column", "--label-column")
_GLUE = tuple(task for task in Learned if task not in (*_OWN, Learned.glue))


def finetune(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A student's folder, or any supported model.")],
    task: Annotated[
        Learned,
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
    overrides: Overrides = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the examples (default: 3).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of one step (default: 32).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (default: 1e-4).")] = None,
    max_examples: Annotated[int | None, typer.Option(help="At most so many examples, drawn by the seed.")] = None,
    int8_share: Annotated[
        float | None,
        typer.Option(
            help="Last share of the steps in which int8 is simulated, so that the int8 file may lose less; try 0.3."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable: a training each, and their median.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: what the cgroup allows).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of one example (default: 128).")] = None,
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
    tree: dict[str, Any] = read_recipe_tree(recipe) if recipe else {}
    flags = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "max_examples": max_examples,
        "int8_share": int8_share,
        "threads": threads,
        "max_length": max_length,
    }
    put(tree, "finetune", **flags)
    for other in (tree.get("tasks") or {}).values():
        if isinstance(other, dict):
            other.update({name: value for name, value in flags.items() if value is not None})
    if seed:
        tree["seeds"] = seed
    settings = parse_as(FinetuneRecipe, tree, where=str(recipe or "finetune"), overrides=overrides or ())
    files = (train, dev, text_column, pair_column, label_column, data_dir)
    _check_flags(task, {name for name, value in zip((*_FLAGS_OF_OWN, "--data-dir"), files, strict=True) if value})

    from homoexport.documents.artifact import refuse_existing
    from homoexport.report import finetuned_table
    from homoexport.workflow import finetune

    single = task is not Learned.glue and len(settings.seeds) == 1
    name = Path(student).resolve().name if Path(student).is_dir() else student.rstrip("/").rsplit("/", 1)[-1]
    out_dir = output or Path(f"{name}-{task.value}")
    if single and resume:
        raise UserError("is for several tasks or seeds", where="--resume", hint="leave it out")
    if not resume:
        refuse_existing(out_dir, force=force, kind="student" if single else finetune.KIND, inputs=[student])
    skipped: dict[str, str] = {}
    tasks = []
    if task in _OWN:
        assert train is not None
        assert dev is not None
        own = finetune.own_task(
            "classification" if task is Learned.classification else "scores",
            train,
            dev,
            text_column=text_column or "text",
            pair_column=pair_column,
            label_column=label_column or ("label" if task is Learned.classification else "score"),
        )
        tasks.append(own)
    for each in _GLUE if task is Learned.glue else (task,) * (task in _GLUE):
        try:
            tasks.append(finetune.glue_task(each.value, data_dir))
        except TextError as error:
            if task is not Learned.glue:
                raise
            skipped[each.value] = str(error)
            screen.stage_line(f"{each.value} is left out: {error}")
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


def _check_flags(task: Learned, given: set[str]) -> None:
    """Refuse flags that would make no difference, and miss those that are needed."""
    needed = {"--train", "--dev"} if task in _OWN else set()
    if missing := needed - given:
        raise UserError("on which files?", where=f"--task {task.value}", hint=f"name some with {min(missing)}")
    if wrong := given & ({"--data-dir"} if task in _OWN else set(_FLAGS_OF_OWN)):
        raise UserError("makes no difference here", where=f"{min(wrong)} with --task {task.value}", hint="leave it out")
