"""Many texts by a package, into a file: vectors, which fill an index, or the scores of a classifier or reranker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from homoexport.choices import Runtime, RuntimeChoice
from homoexport.errors import OutputError, PackageError, UserError
from homoexport.host import available_cores
from homoexport.runtime.inference import Package, Text, behind
from homoexport.runtime.many import Ask, answers_of, open_streams
from homoexport.runtime.vectors_file import check_output, vectors_file
from homoexport.text.texts import Given, TextFiles, lines_of
from homoexport.workflow.progress import QUIET, EmbedProgress, Progress


@dataclass(frozen=True)
class Answered:
    """What was done: answers [texts, width], in so many seconds after the package was opened.

    `empty` texts have no words, and the answer that the model has for that. `labels` name the columns of scores, where
    they have names.
    """

    texts: int
    width: int
    empty: int
    seconds: float
    runtime: Runtime
    streams: int
    labels: tuple[str, ...] = ()


def embed(
    package: Path | str,
    *,
    data: str | Sequence[str] | BinaryIO,
    output: Path | BinaryIO,
    column: str = "text",
    id_column: str | None = None,
    batch_size: int = 32,
    threads: int = 1,
    streams: int | None = None,
    runtime: RuntimeChoice = "auto",
    prompt: str | None = None,
    progress: Progress = QUIET,
) -> Answered:
    """Write the vectors of many texts, in their order and in bounded memory.

    Args:
        package: a sentence package's folder.
        data: a glob, or several, of txt, jsonl, csv, tsv and parquet files; or a stream, each of whose lines is a text.
        output: an `.npy` file of a matrix, or a `.parquet` file of a table (row, id, vector); a stream gets npy.
        column: of the texts; txt files have none.
        id_column: of what texts are called, for parquet.
        batch_size: texts of one inference; texts of like length go together.
        threads: of one inference.
        streams: inferences at once; by default as many as the cores have threads for.
        prompt: the name of what is put before each text; by default what the model has for that.

    Raises:
        PackageError: not a package, or one that gives no vectors.
        TextError: files or columns that are not there, or what is no text.
        UserError, OutputError: numbers below 1, no such prompt, or an output that cannot be written. It is whole, or as
            it was before.

    Example:
        >>> embed("student-onnx", data=["docs/*.jsonl"], column="body", output=Path("vectors.npy"))
        ... # doctest: +SKIP
    """
    texts = _Texts(data, output, column=column, id_column=id_column)
    opened = _open(package, streams, threads=threads, runtime=runtime)
    before, skipped = opened[0].prompt(prompt)
    texts.before = before
    ask, width = partial(Package.vectors_of, skipped=skipped), opened[0].embed([]).shape[1]
    return _write(opened, ask, "vector", width, texts, batch_size=batch_size, progress=progress)


def score(
    package: Path | str,
    *,
    data: str | Sequence[str] | BinaryIO,
    output: Path | BinaryIO,
    column: str = "text",
    pair_column: str | None = None,
    id_column: str | None = None,
    batch_size: int = 32,
    threads: int = 1,
    streams: int | None = None,
    runtime: RuntimeChoice = "auto",
    progress: Progress = QUIET,
) -> Answered:
    """Write what a reranker or a classifier says of many pairs or texts: its logits, one for each label.

    Args:
        package: a text classifier's folder; of a reranker there is one logit, the score.
        pair_column: of the second texts.

    The others, and what is raised, are as of `embed`.

    Raises:
        PackageError: not a package, or no text classifier.

    Example:
        >>> score("reranker-onnx", data="pairs.csv", column="query", pair_column="passage", output=Path("scores.npy"))
        ... # doctest: +SKIP
    """
    texts = _Texts(data, output, column=column, pair_column=pair_column, id_column=id_column)
    opened = _open(package, streams, threads=threads, runtime=runtime)
    details = opened[0].details
    if details.task != "text-classification":
        what, hint = f"is a {details.task} model, which gives no scores", "name a reranker or a text classifier"
        raise PackageError(what, where=str(details.folder), hint=hint)
    width = len(details.labels)
    done = _write(opened, Package.logits_of, "scores", width, texts, batch_size=batch_size, progress=progress)
    return replace(done, labels=tuple(details.labels))


class _Texts:
    """The rows on their way from what was given to where their answers go, checked before anything is loaded."""

    def __init__(
        self,
        data: str | Sequence[str] | BinaryIO,
        output: Path | BinaryIO,
        *,
        column: str,
        pair_column: str | None = None,
        id_column: str | None = None,
    ) -> None:
        self.output, self.named = output, id_column is not None
        check_output(output, named=self.named)
        self.about: int | None = None
        self._rows: Iterator[Given]
        if isinstance(data, str | Sequence):
            globs = [data] if isinstance(data, str) else data
            files = TextFiles(globs, column=column, pair_column=pair_column, id_column=id_column)
            if isinstance(output, Path) and output.resolve() in files.paths:
                raise OutputError("is one of the files that are read", where=str(output), hint="name another file")
            self._rows, self.about = files.rows(), files.about()
        else:
            for flag, name in (("--pair-column", pair_column), ("--id-column", id_column)):
                if name is not None:
                    raise UserError("the lines of stdin have no columns", where=flag, hint="name files with --data")
            self._rows = lines_of(data, "stdin")
        self.before = ""  # each text
        self.empty = 0  # of those that were taken
        self._names = deque[Any]()

    def __iter__(self) -> Iterator[Text]:
        for row in self._rows:
            self._names.append(row.name)
            self.empty += row.is_empty
            yield behind(self.before, row.text)

    def names(self, count: int) -> list[Any]:
        """What the next ones that are answered are called."""
        return [self._names.popleft() for _ in range(count)]


def _open(package: Path | str, streams: int | None, *, threads: int, runtime: RuntimeChoice) -> list[Package]:
    fitting = max(1, available_cores() // max(1, threads))
    return open_streams(package, streams=fitting if streams is None else streams, threads=threads, runtime=runtime)


def _write(
    opened: Sequence[Package], ask: Ask, called: str, width: int, texts: _Texts, *, batch_size: int, progress: Progress
) -> Answered:
    """Ask for all answers, and write them as they come."""
    with vectors_file(texts.output, width, called=called, named=texts.named) as file:
        began, done = time.monotonic(), 0  # not before: libraries for a table take seconds to import
        for answers in answers_of(opened, texts, ask, width=width, batch_size=batch_size):
            file.write(answers, texts.names(len(answers)))
            done += len(answers)
            progress.on_embed(EmbedProgress(done, texts.about, time.monotonic() - began))
    return Answered(done, width, texts.empty, time.monotonic() - began, opened[0].details.runtime, len(opened))
