"""`homoexport eval`: models judged side by side on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.choices import AskedTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Threads
from homoexport.documents.evaluation import Columns


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Packages, students' folders, or any supported models.")
    ],
    task: Annotated[
        AskedTask,
        typer.Option(
            help="sts: cosine similarities against people's scores; fidelity: what a model keeps of its teacher's "
            "search results or decisions; masked-lm: masked tokens restored; classification: labels or scores; "
            "tagging: labels of words, and entities; mteb: MTEB's tasks, by its own library; cola to wnli: GLUE's "
            "tasks with their official metrics."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="txt, jsonl, csv, tsv or parquet files, or package:DISTRIBUTION/GLOB."),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the texts (default: text; of sts: sentence1; of tagging: tokens).")
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts (of sts: sentence2).")] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of labels or scores (of sts: score, of classification: label, of tagging: ner_tags)."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="GLUE's files, a folder a task (CoLA/dev.tsv); without it the hub is asked."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="For fidelity, classification, tagging: what the others are held against."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="GLUE without fine-tuning: a linear classifier on frozen vectors."),
    ] = False,
    train: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="A probe for classification, too: labelled files that it is trained on."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Of a task of MTEB, such as STS12. Repeatable; needs `pip install 'homoexport[mteb]'`."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, masks and intervals.")] = 0,
    threads: Threads = 1,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the figures there, as an artifact.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Judge packages (through onnxruntime) and torch models on the same data, with 95 % intervals.

    homoexport eval teacher student student-onnx --task sts --data dev.tsv

    Packages are judged without torch: the very file that ships is what is judged.
    """
    from homoexport.report import evaluation_table
    from homoexport.workflow import evaluate as verb

    evaluation = verb.evaluate(
        models,
        task=task,
        data=data,
        columns=Columns(text=text_column, pair=pair_column, label=label_column),
        data_dir=data_dir,
        teacher=teacher,
        probe=probe,
        train=train,
        names=name or (),
        seed=seed,
        threads=threads,
        output=output,
        force=force,
        progress=screen.stage_line,
    )
    if as_json:
        screen.print_json(evaluation.model_dump(mode="json"))
    else:
        screen.output.print(evaluation_table(evaluation))
