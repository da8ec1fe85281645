"""`homoexport eval`: models judged side by side on data."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from homoexport.choices import JudgedTask
from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Threads
from homoexport.errors import UserError

if TYPE_CHECKING:
    from homoexport.evaluate import Examples


Judged = Literal[JudgedTask, "mteb"]


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Packages, students' folders, or any supported models.")
    ],
    task: Annotated[
        Judged,
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
    from homoexport.documents.artifact import refuse_existing
    from homoexport.evaluate import (
        MAX_COMPARED,
        MAX_TRAIN,
        columns_of_task,
        digest_of_source,
        evaluate_models,
        evaluate_on_mteb,
        judged_data,
        read_for,
        write_evaluation,
    )

    flags = {
        "--data": data,
        "--text-column": text_column,
        "--pair-column": pair_column,
        "--label-column": label_column,
        "--train": train,
        "--data-dir": data_dir,
        "--probe": probe or None,
        "--name": name or None,
        "--teacher": teacher,
    }
    _check_flags(task, {name for name, value in flags.items() if value is not None})
    if output is not None:
        refuse_existing(output, force=force, kind="evaluation", inputs=[*models, *filter(None, (data, train))])
    document: dict[str, Any] = {"task": task, "teacher": teacher, "seed": seed}
    if task == "mteb":
        names = list(name or ())
        results = evaluate_on_mteb(models, names, threads=threads, progress=screen.stage_line)
        document |= {"data": {"source": "MTEB", "tasks": names}, "results": results}
    else:
        columns: dict[str, Any] = {
            "text_column": text_column,
            "pair_column": pair_column,
            "label_column": label_column,
            "data_dir": data_dir,
        }
        examples, judged_as, metrics = judged_data(task, data=data, **columns)
        trained_on = None
        if train is not None or probe:
            with read_for("--train") if train is not None else nullcontext():
                trained_on, _, _ = judged_data(task, data=train, split="train", **columns)
        results = evaluate_models(
            models,
            examples,
            task=judged_as,
            teacher=teacher,
            train=trained_on,
            metrics=metrics,
            seed=seed,
            threads=threads,
            progress=screen.stage_line,
        )
        named = columns_of_task(task, text_column, pair_column, label_column)
        document |= {
            "teacher_digest": None if teacher is None else digest_of_source(teacher),
            "columns": dict(zip(("text", "pair", "label"), named, strict=True)),
            "data": _data_of(examples, MAX_COMPARED if judged_as == "fidelity" else None),
            "train": None if trained_on is None else _data_of(trained_on, MAX_TRAIN),
            "results": results,
        }
    if output is not None:
        write_evaluation(output, document, force=force)
    if as_json:
        screen.print_json(document)
        return
    from homoexport.report import evaluation_table

    screen.output.print(evaluation_table(document))


def _data_of(examples: Examples, limit: int | None) -> dict[str, Any]:
    """What data were; `drawn` is how many of them were taken, by the seed."""
    count = len(examples.texts)
    drawn = count if limit is None else min(limit, count)
    return {"source": examples.source, "examples": count, "digest": examples.digest, "drawn": drawn}


_FILES = {"--data", "--text-column"}
_TAKES = {
    "sts": _FILES | {"--pair-column", "--label-column"},
    "fidelity": _FILES | {"--teacher"},
    "masked-lm": _FILES,
    "classification": _FILES | {"--pair-column", "--label-column", "--train", "--teacher"},
    "tagging": _FILES | {"--label-column", "--teacher"},
    "mteb": {"--name"},
    "stsb": {"--data-dir"},
}
_GLUE_TAKES = {"--data-dir", "--probe", "--teacher"}


def _check_flags(task: Judged, given: set[str]) -> None:
    """Refuse flags that would make no difference, and miss those that are needed."""
    taken = _TAKES.get(task, _GLUE_TAKES)
    for needed, hint in (("--data", "name files with --data"), ("--name", "name tasks of MTEB with --name")):
        if needed in taken - given:
            raise UserError("judged on what?", where=f"--task {task}", hint=hint)
    if wrong := sorted(given - taken):
        raise UserError("makes no difference here", where=f"{wrong[0]} with --task {task}", hint="leave it out")
