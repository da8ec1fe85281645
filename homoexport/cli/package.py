"""`homoexport embed` and `verify`: packages used and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, RunsIn, Threads
from homoexport.errors import TextError, UserError, refusing
from homoexport.limits import MB, limit, raise_hint


def embed(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A sentence package.")],
    threads: Threads = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of one inference.")] = 32,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The .npy file; by default stdout.")
    ] = None,
    runtime: RunsIn = "auto",
) -> None:
    """Turn lines of text on stdin into vectors, [lines, width] float32, as a .npy file on stdout.

    homoexport embed PACKAGE < lines.txt > vectors.npy
    """
    import io

    import numpy as np

    from homoexport.documents.document import new_file
    from homoexport.documents.output import make_folder, output_errors
    from homoexport.runtime.inference import open_package
    from homoexport.text.lines import longest_text, too_long

    if output is None and sys.stdout.isatty():
        raise UserError("vectors are not for a terminal", where="embed", hint="write > vectors.npy, or -o vectors.npy")
    opened = open_package(package, threads=threads, runtime=runtime)
    with refusing(TextError, "cannot be read", where="stdin", hint="write < lines.txt"):
        given = sys.stdin.buffer.read(limit("whole_mb") * MB + 1)
    if len(given) > limit("whole_mb") * MB:
        raise TextError(f"is more than {limit('whole_mb')} MB", where="stdin", hint=raise_hint("whole_mb"))
    with refusing(TextError, "is not UTF-8", where="stdin"):
        # Only a newline ends a text: str.splitlines would also cut at form feeds and the like.
        texts = given.decode("utf-8").replace("\r\n", "\n").split("\n")
    if max(map(len, texts)) > longest_text():
        raise too_long("stdin")
    if texts[-1] == "":
        texts.pop()
    buffer = io.BytesIO()
    np.save(buffer, opened.embed(texts, batch_size=batch_size))
    if output is None:
        with output_errors(Path("stdout")):
            sys.stdout.buffer.write(buffer.getvalue())
            sys.stdout.buffer.flush()
        return
    make_folder(output.parent)
    in_place = output.exists() and not output.is_file()  # a device, or a pipe
    with output_errors(output), output.open("wb") if in_place else new_file(output) as file:
        file.write(buffer.getvalue())


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A student, package or measurement.")],
    as_json: AsJson = False,
) -> None:
    """Check every file of an artifact against its manifest."""
    from homoexport.documents.artifact import Manifest
    from homoexport.documents.artifact import verify as verify_folder

    manifest = verify_folder(folder, Manifest)
    count, digest = len(manifest.files), manifest.digest[:12]
    told = f"{folder}: a {manifest.kind}, {count} files, all as the manifest has them ({digest})"
    screen.show(manifest, told, as_json=as_json)
