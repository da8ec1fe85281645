"""`homoexport eval`: models judged side by side on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import EVALUATION_TASKS, AskedTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, DataDir, Force, LabelColumn, PairColumn, RunsIn, TextColumn, Threads
from homoexport.documents.evaluation import Columns
from homoexport.documents.layout import HTML_REPORT
from homoexport.documents.recipe import looked_for
from homoexport.errors import UserError

_TASKS = "; ".join(f"{name}: {what}" for name, what in EVALUATION_TASKS.items())
Models = Annotated[list[str], typer.Argument(metavar="MODEL...", help="Packages, students' folders, or any encoders'.")]
Task = Annotated[
    AskedTask,
    typer.Option(
        help=f"{_TASKS}; mteb: MTEB's tasks, by its own library; cola to wnli: GLUE, by its official metrics."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="GLOB", help="txt, jsonl, csv, tsv or parquet files, or package:DISTRIBUTION/GLOB."),
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="For fidelity, classification, tagging: what the others are held against."),
]
Documents = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="For search, fidelity: whose vectors are searched; by default a model's own."),
]
Dimensions = Annotated[
    str | None,
    typer.Option(metavar="N,N...", help="For sts, search, fidelity: vectors cut to so many numbers, each judged, too."),
]
Probe = Annotated[
    bool, typer.Option("--probe", help="GLUE without fine-tuning: a linear classifier on frozen vectors.")
]
Train = Annotated[
    str | None,
    typer.Option(metavar="GLOB", help="A probe for classification, too: labelled files that it is trained on."),
]
Names = Annotated[
    list[str] | None,
    typer.Option(help="Of a task of MTEB, such as STS12. Repeatable; needs `pip install 'homoexport[mteb]'`."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the figures there, with a report.")
]


def evaluate(
    models: Models,
    task: Task,
    data: Data = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    data_dir: DataDir = None,
    teacher: Teacher = None,
    documents: Documents = None,
    dimensions: Dimensions = None,
    probe: Probe = False,
    train: Train = None,
    name: Names = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, masks and intervals.")] = 0,
    threads: Threads = 1,
    runtime: RunsIn = "auto",
    output: Output = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Judge packages (in the runtime that ships) and torch models on the same data, with 95 % intervals.

    homoexport eval teacher student student-onnx --task sts --data dev.tsv

    Packages are judged without torch: the very file that ships is what is judged.
    """
    screen.stage_line(f"Judging on {task}")
    from homoexport.report import evaluation_notes, evaluation_table
    from homoexport.workflow import evaluate as verb
    from homoexport.workflow.progress import Progress

    with looked_for(*models, data, train, data_dir, teacher, documents):
        evaluation = verb.evaluate(
            models,
            task=task,
            data=data,
            columns=Columns(text=text_column, pair=pair_column, label=label_column),
            data_dir=data_dir,
            teacher=teacher,
            documents=documents,
            dimensions=_sizes(dimensions),
            probe=probe,
            train=train,
            names=name or (),
            seed=seed,
            threads=threads,
            runtime=runtime,
            output=output,
            force=force,
            progress=Progress(on_stage=screen.stage_line),
        )
    told = [*evaluation_notes(evaluation), *([] if output is None else [f"Report: {output / HTML_REPORT}"])]
    screen.show(evaluation, evaluation_table(evaluation), *told, as_json=as_json)


def _sizes(listed: str | None) -> tuple[int, ...]:
    """Of a list such as `64,128`."""
    sizes = [size.strip() for size in (listed or "").split(",") if listed]
    if not all(size.isdecimal() and 0 < int(size) < 2**20 for size in sizes):
        raise UserError(f"'{listed}' is no list of widths", where="--dimensions", hint="write such as 64,128,192")
    return tuple(dict.fromkeys(map(int, sizes)))
