"""Rows of text from files and hub datasets, as `datasets` objects with the one column `text`.

Local files are read by the few lines below rather than by `datasets`' own builders: those extract
archives under a name made of the path alone, so that a changed archive would be read from its old
extraction. Everything after the reading (cache, tokenizing, streams) is `datasets`.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import datasets
import pyarrow.parquet  # type: ignore[import-untyped]

from homoexport import packaged
from homoexport.errors import TextError
from homoexport.recipe import TextSource

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_COMPRESSIONS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ROW = datasets.Features({"text": datasets.Value("string")})

# (path, member of the archive or "", size in bytes, modification time in ns): the last two are
# there so that `datasets`' fingerprint of a changed file differs.
FileEntry = tuple[str, str, int, int]


def _format_of(name: str) -> str:
    """The format that a file name ends in, or "" where it is none of ours."""
    path = PurePosixPath(name)
    if path.suffix.lower() in _COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower() if path.suffix.lower() in FORMATS else ""


def find_files(spec: str) -> list[FileEntry]:
    """The files that a glob or a `package:DISTRIBUTION/GLOB` names; archives by their members.

    Raises:
        TextError: nothing matches, the package is not installed, a format that is not known, or a
            file that is no zip archive although it is called one.
    """
    try:
        pattern = str(packaged.locate(spec)) if spec.startswith(packaged.PREFIX) else str(Path(spec).expanduser())
    except (FileNotFoundError, ValueError) as error:
        raise TextError(str(error), where="text.sources") from None
    # Path.glob takes no absolute pattern.
    paths = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())  # noqa: PTH207
    if not paths:
        raise TextError("no file matches", where=spec, mend="give a glob of text files, in quotes on a command line")
    entries: list[FileEntry] = []
    for path in paths:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        entries += [(str(path), member, *stamp) for member in _members(path)]
    return entries


def _members(path: Path) -> list[str]:
    known = f"use {', '.join(FORMATS)}, plain or as .gz, .bz2, .xz, .zip"
    if path.suffix.lower() != ".zip":
        if not _format_of(path.name):
            raise TextError(f"'{path.suffix}' is no format that can be read", where=str(path), mend=known)
        return [""]
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if _format_of(name) and not name.startswith("__MACOSX/"))
    except zipfile.BadZipFile:
        raise TextError("is not a zip archive", where=str(path), mend="copy it again") from None
    if not names:
        raise TextError("holds no text file", where=str(path), mend=known)
    return names


def _open(entry: FileEntry, stack: ExitStack) -> BinaryIO:
    path, member, *_ = entry
    if member:
        archive = stack.enter_context(zipfile.ZipFile(path))
        raw: Any = stack.enter_context(archive.open(member))
    else:
        raw = stack.enter_context(Path(path).open("rb"))  # noqa: SIM115
    opener = _COMPRESSIONS.get(PurePosixPath(member or path).suffix.lower())
    return cast(BinaryIO, stack.enter_context(opener(raw)) if opener else raw)


def _missing_column(column: str, columns: list[str], where: str) -> TextError:
    mend = f"set 'column' to one of: {', '.join(columns)}" if columns else "name another file"
    return TextError(f"has no column '{column}'", where=where, mend=mend)


def _jsonl_rows(lines: io.TextIOBase, where: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise TextError("is not a JSON object", where=f"{where}, line {number}", mend="write one object a line")
        yield row


def _parquet_rows(stream: BinaryIO, column: str, where: str) -> Iterator[dict[str, Any]]:
    table = pyarrow.parquet.ParquetFile(stream)
    if column not in table.schema_arrow.names:
        raise _missing_column(column, table.schema_arrow.names, where)
    for batch in table.iter_batches(columns=[column]):
        yield from batch.to_pylist()


def _rows(entry: FileEntry, column: str, where: str, stack: ExitStack) -> Iterator[dict[str, Any]]:
    stream, suffix = _open(entry, stack), _format_of(entry[1] or entry[0])
    if suffix == ".parquet":
        yield from _parquet_rows(stream, column, where)
        return
    lines = stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
    if suffix == ".txt":
        yield from ({column: line} for line in lines)
    elif suffix == ".jsonl":
        yield from _jsonl_rows(lines, where)
    else:
        # A long article is more than the reader's default limit of 128 KiB for one field.
        csv.field_size_limit(sys.maxsize)
        yield from csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")


def read_rows(files: list[FileEntry], column: str) -> Iterator[dict[str, str]]:
    """The rows of some files, as {"text": ...}; empty ones are left out.

    Raises:
        TextError: a file lacks the column, holds something else than text in it, or cannot be read.
    """
    for entry in files:
        where = f"{entry[0]} ({entry[1]})" if entry[1] else entry[0]
        with ExitStack() as stack:
            try:
                for number, row in enumerate(_rows(entry, column, where, stack), start=1):
                    if number == 1 and column not in row:
                        raise _missing_column(column, [str(name) for name in row if name is not None], where)
                    text = row.get(column)
                    if text is not None and not isinstance(text, str):
                        what = f"column '{column}' holds {type(text).__name__}, not text"
                        raise TextError(what, where=f"{where}, row {number}", mend="name another 'column'")
                    if text and not text.isspace():
                        yield {"text": text}
            except UnicodeDecodeError as error:
                raise TextError(f"is not UTF-8 ({error.reason})", where=where, mend="convert it to UTF-8") from None
            except (OSError, EOFError, zipfile.BadZipFile, csv.Error, pyarrow.ArrowInvalid, lzma.LZMAError) as error:
                raise TextError(f"cannot be read ({error})", where=where, mend="copy or write it again") from None


def load_files(source: TextSource, *, streaming: bool, cache_dir: Path | None) -> Any:
    """The rows of a source of files, as a cached `Dataset` or an `IterableDataset`.

    Raises:
        TextError: nothing in any of the files; and see `find_files` and `read_rows`.
    """
    assert source.files is not None
    given: dict[str, Any] = {"files": find_files(source.files), "column": source.column}
    if next(read_rows(**given), None) is None:
        raise TextError("holds no text", where=source.files, mend="name other files or another column")
    if streaming:
        return datasets.IterableDataset.from_generator(read_rows, features=_ROW, gen_kwargs=given)
    try:
        cache = str(cache_dir) if cache_dir else None
        return datasets.Dataset.from_generator(read_rows, features=_ROW, gen_kwargs=given, cache_dir=cache)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, TextError):
            raise error.__cause__ from None
        raise


def load_hub(source: TextSource, *, cache_dir: Path | None) -> Any:
    """The rows of a hub dataset (or of a folder of data files), streamed where the source says so.

    Raises:
        TextError: it cannot be reached, has no such configuration or split, or no such column.
    """
    try:
        rows = datasets.load_dataset(
            source.dataset,
            source.config,
            split=source.split,
            streaming=source.streaming,
            cache_dir=str(cache_dir) if cache_dir else None,
        )
        columns = rows.column_names or list(next(iter(rows), {}))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        mend = "check the name, its config and split, and the network (HF_HUB_OFFLINE)"
        raise TextError(f"cannot be loaded ({reason})", where=f"dataset {source.dataset}", mend=mend) from None
    if source.column not in columns:
        raise _missing_column(source.column, columns, f"dataset {source.dataset}")
    rows = rows.select_columns([source.column])
    return rows if source.column == "text" else rows.rename_column(source.column, "text")
