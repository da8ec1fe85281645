"""`homoexport eval`: models judged side by side on data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Threads
from homoexport.errors import UserError


class Judged(str, Enum):
    """What `--task` takes."""

    sts = "sts"
    fidelity = "fidelity"
    masked_lm = "masked-lm"
    classification = "classification"


def eval_command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Packages, students' folders, or any supported models.")
    ],
    task: Annotated[
        Judged,
        typer.Option(
            help="sts: cosine similarities against people's scores; fidelity: what a model keeps of its teacher's "
            "search results or decisions; masked-lm: masked tokens restored; classification: labels or scores."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="GLOB", help="txt, jsonl, csv, tsv or parquet files, or package:DISTRIBUTION/GLOB."),
    ],
    text_column: Annotated[
        str | None, typer.Option(help="Column of the texts (default: text; of sts: sentence1).")
    ] = None,
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts (of sts: sentence2).")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of labels or scores (of sts: score, of classification: label).")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="For fidelity and classification: what the others are held against."),
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
    from homoexport.evaluate import evaluate_models, read_examples, write_evaluation

    sts, labelled = task is Judged.sts, task in (Judged.sts, Judged.classification)
    if label_column is not None and not labelled:
        raise UserError("takes no labels", where=f"--task {task.value}", mend="leave --label-column out")
    if output is not None:
        refuse_existing(output, force=force, kind="evaluation", inputs=[*models, data])
    examples = read_examples(
        data,
        column=text_column or ("sentence1" if sts else "text"),
        pair_column=pair_column or ("sentence2" if sts else None),
        label_column=label_column or (("score" if sts else "label") if labelled else None),
    )
    results = evaluate_models(
        models,
        examples,
        task=task.value,
        teacher=teacher,
        seed=seed,
        threads=threads,
        progress=screen.stage_line,
    )
    document = {
        "task": task.value,
        "data": {"source": data, "examples": len(examples.texts), "digest": examples.digest},
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
