"""`homoexport embed`, `score` and `verify`: packages used and checked."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, RunsIn, Threads, as_flags
from homoexport.documents.recipe import looked_for
from homoexport.errors import UserError

if TYPE_CHECKING:
    from homoexport.workflow.embed import Answered


Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="txt, jsonl, csv, tsv or parquet files, plain or compressed, or package:DISTRIBUTION/GLOB; by default the "
        "lines of stdin. Repeatable.",
    ),
]
Column = Annotated[str, typer.Option("--text-column", help="Column of the texts.")]
IdColumn = Annotated[
    str | None, typer.Option(help="Column of what the texts are called, which a parquet output keeps.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts of one inference.")]
Streams = Annotated[int | None, typer.Option(min=1, help="Inferences at once (default: cores divided by --threads).")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help=".npy, or .parquet with row numbers and ids; by default npy on stdout."
    ),
]


def embed(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A sentence package.")],
    data: Data = None,
    column: Column = "text",
    id_column: IdColumn = None,
    output: Output = None,
    batch_size: BatchSize = 32,
    threads: Threads = 1,
    streams: Streams = None,
    runtime: RunsIn = "auto",
    prompt: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which of the model's prompts to put before each text; by default its own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn texts into vectors, [texts, width] float32: lines on stdin, or a column of files.

    homoexport embed PACKAGE --data 'docs/*.jsonl' --text-column body --id-column url -o vectors.parquet

    homoexport embed PACKAGE < lines.txt > vectors.npy
    """
    _refuse_stdout(output, "vectors", as_json=as_json)
    from homoexport.workflow.embed import embed as verb

    asked = partial(
        verb,
        package,
        column=column,
        id_column=id_column,
        batch_size=batch_size,
        threads=threads,
        streams=streams,
        runtime=runtime,
        prompt=prompt,
    )
    _write(asked, "vectors", data, output, as_json=as_json)


def score(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A reranker's or a text classifier's package.")],
    data: Data = None,
    column: Column = "text",
    pair_column: Annotated[str | None, typer.Option(help="Column of the second texts.")] = None,
    id_column: IdColumn = None,
    output: Output = None,
    batch_size: BatchSize = 32,
    threads: Threads = 1,
    streams: Streams = None,
    runtime: RunsIn = "auto",
    as_json: AsJson = False,
) -> None:
    """Write what a reranker or classifier says of pairs or texts, [texts, labels] float32.

    homoexport score PACKAGE --data pairs.csv --text-column query --pair-column passage -o scores.npy

    They are the model's logits as they are: of a reranker, one score a pair, higher is better.
    """
    _refuse_stdout(output, "scores", as_json=as_json)
    from homoexport.workflow.embed import score as verb

    asked = partial(
        verb,
        package,
        column=column,
        pair_column=pair_column,
        id_column=id_column,
        batch_size=batch_size,
        threads=threads,
        streams=streams,
        runtime=runtime,
    )
    _write(asked, "scores", data, output, as_json=as_json)


def _refuse_stdout(output: Path | None, what: str, *, as_json: bool) -> None:
    if output is None and as_json:
        raise UserError("has stdout for itself", where="--json", hint=f"name a file for the {what} with -o")
    if output is None and sys.stdout.isatty():
        raise UserError(f"{what} are not for a terminal", where="stdout", hint=f"write > {what}.npy, or -o {what}.npy")


def _write(asked: partial[Answered], what: str, data: list[str] | None, output: Path | None, *, as_json: bool) -> None:
    """Have a verb write its answers, under a bar, and say what was done."""
    from homoexport.workflow.progress import Progress

    with looked_for(*asked.args, *data or ()), as_flags(), screen.Bars() as bars:
        done = asked(
            data=data or sys.stdin.buffer,
            output=output or sys.stdout.buffer,
            progress=Progress(on_embed=bars.on_embed),
        )
    empty = f"; {done.empty:,} of the texts are empty" if done.empty else ""
    rate = f", {done.texts / done.seconds:,.0f} a second" if done.texts else ""
    named = f" ({', '.join(done.labels)})" if 1 < len(done.labels) <= _NAMED else ""
    screen.say(f"{done.texts:,} {what} of {done.width}{named} in {done.seconds:.1f} s{rate}{empty}")
    if as_json:
        screen.print_json(asdict(done))


_NAMED = 10  # labels, at most, in a line
_OF_STUDENTS = {"distilling": "a student", "fine-tuning": "a fine-tuned model", "trimming": "a trimmed model"}


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A model, package or measurement that homoexport wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check every file of an artifact against its manifest."""
    from homoexport.documents.artifact import Manifest, StudentManifest, with_article
    from homoexport.documents.artifact import verify as verify_folder

    manifest = verify_folder(folder, Manifest)
    count, digest, what = len(manifest.files), manifest.digest[:12], with_article(manifest.kind)
    if isinstance(manifest, StudentManifest):
        what = _OF_STUDENTS[manifest.details.made_by]
    told = f"{folder}: {what}, {count} files, all as the manifest has them ({digest})"
    screen.show(manifest, told, as_json=as_json)
