"""`homoexport init`: a recipe to begin with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.cli.options import BUDGET, AsJson, Force, flags
from homoexport.documents.recipe import BenchRecipe, Recipe, Tree, parse_as
from homoexport.errors import UserError

Output = Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The YAML file to write.")]
Teacher = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Hub name, folder, or package:DISTRIBUTION/PATH of what you have.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Text, with labels or without: txt, jsonl, csv, tsv or parquet. Repeatable."),
]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts; by default guessed.")]
PairColumn = Annotated[str | None, typer.Option(help="Column of the second texts; by default guessed.")]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of labels or scores. A teacher that knows no labels learns them first, then."),
]
_BUDGET = ("latency_p95_ms", "file_mb", "peak_rss_mb")


@flags(Recipe, "distill.objective", "measure.device", "measure.threads", "measure.length", *BUDGET)
def init(
    output: Output = Path("recipe.yaml"),
    teacher: Teacher = None,
    data: Data = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    *,
    given: Tree,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a recipe with comments, from a teacher, text or labels, a device and a budget.

    homoexport init --teacher MODEL --data 'texts/*.csv' --latency-p95 8ms --size 12MB

    What is not said is asked where there is a terminal, and else guessed: the objective by the teacher, the columns by
    their names. Three rows of the text are shown as they will be read. Without a budget the student is about half as
    wide as its teacher.
    """
    if output.exists() and not force:  # before anything is asked
        raise UserError("already exists", where=str(output), hint="name another file, or give --force to replace it")
    teacher = teacher or _asked("Teacher (hub name, folder, or package:DISTRIBUTION/PATH)", "--teacher")
    data = data or [_asked("Text (a glob of txt, jsonl, csv, tsv or parquet files)", "--data")]
    if sys.stdin.isatty() and "budget" not in given and "measure" not in given:
        given = _asked_for_target(given)
    asked = parse_as(BenchRecipe, {name: given.get(name, {}) for name in ("measure", "budget")}, where="init")
    screen.stage_line(f"Looking at {teacher} and {', '.join(data)}")
    from homoexport.workflow.init import init as write

    named = {"text": text_column, "pair": pair_column, "label": label_column}
    draft = write(
        output,
        teacher=teacher,
        data=data,
        columns={role: column for role, column in named.items() if column},
        objective=given.get("distill", {}).get("objective"),
        measure=asked.measure,
        budget=asked.budget,
        force=force,
    )
    if as_json:
        objective = draft.recipe.distill.objective
        found = {"recipe": str(draft.path), "objective": objective, "rows": draft.rows, "not_read": draft.left_out}
        screen.print_json(found)
        return
    rows = ["  " + "  ".join(f"{role}: {cell}" for role, cell in row.items()) for row in draft.rows]
    recipe = shlex.quote(str(draft.path))
    first = ["First:  name labelled texts to judge the teacher on (finetune.dev)"] if draft.recipe.finetune else []
    if draft.left_out is not None:
        is_classifier = "classification" in draft.recipe.distill.objective
        mend = "" if is_classifier else f"; --label-column {shlex.quote(draft.left_out)} has it learn them first"
        first.append(f"Not read: '{draft.left_out}', whose labels {teacher} does not know{mend}")
    told = [f"Recipe: {draft.path} ({draft.recipe.distill.objective})", "Text as it will be read:", *rows]
    for line in [*told, *first, f"Then:   homoexport run {recipe} --check"]:
        screen.output.print(line, soft_wrap=True)


def _asked(what: str, flag: str, default: str | None = None) -> str:
    """What a person types; nobody is asked without a terminal (UserError)."""
    if not sys.stdin.isatty():
        raise UserError("is missing, and there is no terminal to ask", where=flag, hint=f"give {flag}")
    try:
        answer: str = typer.prompt(what, default=default, show_default=bool(default), err=True)
    except typer.Abort:  # what it makes of Ctrl-C, and of the end of the input
        raise KeyboardInterrupt from None
    return answer


def _asked_for_target(given: Tree) -> Tree:
    """The flags, with a device and a budget as a person types them; an empty answer is none."""
    device = _asked("Device (`homoexport devices` lists them)", "--device", "cpu")
    budget: dict[str, Any] = {}
    for name, what in zip(
        _BUDGET, ("p95 latency, such as 8ms", "size, such as 12MB", "memory, such as 120MB"), strict=True
    ):
        if answer := _asked(f"At most: {what} (empty: no matter)", f"--{name}", "").strip():
            budget[name] = answer
    return given | {"measure": {"device": device}} | ({"budget": budget} if budget else {})
