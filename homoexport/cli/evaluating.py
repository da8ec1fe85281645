"""`homoexport eval`: models judged side by side on data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Threads
from homoexport.errors import UserError
from homoexport.recipe import GLUE_TASKS


class Judged(str, Enum):
    """What `--task` takes: the general tasks, and GLUE's."""

    sts = "sts"
    fidelity = "fidelity"
    masked_lm = "masked-lm"
    classification = "classification"
    tagging = "tagging"
    cola = "cola"
    sst2 = "sst2"
    mrpc = "mrpc"
    stsb = "stsb"
    qqp = "qqp"
    mnli = "mnli"
    mnli_mm = "mnli-mm"
    qnli = "qnli"
    rte = "rte"
    wnli = "wnli"


def eval_command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Packages, students' folders, or any supported models.")
    ],
    task: Annotated[
        Judged,
        typer.Option(
            help="sts: cosine similarities against people's scores; fidelity: what a model keeps of its teacher's "
            "search results or decisions; masked-lm: masked tokens restored; classification: labels or scores; "
            "tagging: labels of words, and entities; cola to wnli: GLUE's tasks with their official metrics."
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
    from homoexport.artifact import refuse_existing
    from homoexport.evaluate import evaluate_models, judged_data, write_evaluation

    flags = {
        "--data": data,
        "--text-column": text_column,
        "--pair-column": pair_column,
        "--label-column": label_column,
        "--train": train,
        "--data-dir": data_dir,
        "--probe": probe or None,
    }
    _check_flags(task, {name for name, value in flags.items() if value is not None})
    if output is not None:
        refuse_existing(output, force=force, kind="evaluation", inputs=[*models, *filter(None, (data, train))])
    columns: dict[str, Any] = {
        "text_column": text_column,
        "pair_column": pair_column,
        "label_column": label_column,
        "data_dir": data_dir,
    }
    examples, judged_as, metrics = judged_data(task.value, data=data, **columns)
    trained_on = None
    if train is not None or probe:
        trained_on, _, _ = judged_data(task.value, data=train, split="train", **columns)
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
    document = {
        "task": task.value,
        "data": {"source": examples.source, "examples": len(examples.texts), "digest": examples.digest},
        "teacher": teacher,
        "seed": seed,
        "results": results,
    }
    if output is not None:
        write_evaluation(output, document, force=force)
    if as_json:
        screen.print_json(document)
        return
    from homoexport.report import evaluation_table

    screen.output.print(evaluation_table(document))


def _check_flags(task: Judged, given: set[str]) -> None:
    """Refuse flags that would make no difference."""
    glue = task.value in GLUE_TASKS
    if not glue and "--data" not in given:
        raise UserError("judged on what?", where=f"--task {task.value}", mend="name files with --data")
    own = {"--data", "--text-column", "--pair-column", "--label-column", "--train"}
    ignored = own if glue else {"--data-dir", "--probe"}
    if task in (Judged.fidelity, Judged.masked_lm):
        ignored = ignored | {"--label-column", "--pair-column"}
    if task is Judged.tagging:
        ignored = ignored | {"--pair-column"}
    if task is not Judged.classification:
        ignored = ignored | {"--train"}
    if task is Judged.stsb:
        ignored = ignored | {"--probe"}
    if wrong := sorted(given & ignored):
        raise UserError("makes no difference here", where=f"{wrong[0]} with --task {task.value}", mend="leave it out")
