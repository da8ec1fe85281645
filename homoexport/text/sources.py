"""Rows of text from files and hub datasets, as `datasets` objects.

Their columns are `text` and, where the source names them, `pair` and `label`. A text may be a list
of words; then its label is a list of the same length.

Local files are read by the few lines below rather than by `datasets`' own builders: those extract
archives under a name made of the path alone, so that a changed archive would be read from its old
extraction. Everything after the reading (cache, tokenizing, streams) is `datasets`, which is imported when it is
needed: files and columns are checked before.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow.parquet  # type: ignore[import-untyped]

from homoexport import packaged
from homoexport.documents.recipe import TextSource
from homoexport.errors import TextError
from homoexport.text.delimited import delimited_rows

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_COMPRESSIONS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

Row = dict[str, Any]  # cells by the names of columns, of whatever kind a file has

_FILES_LOOKED_AT = 20  # of a source, before anything is loaded

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

    There must be some, all of a format that can be read (TextError).
    """
    try:
        pattern = str(packaged.locate(spec)) if spec.startswith(packaged.PREFIX) else str(Path(spec).expanduser())
    except (FileNotFoundError, ValueError) as error:
        raise TextError(str(error), where="text.sources") from None
    # Path.glob takes no absolute pattern.
    paths = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())  # noqa: PTH207
    if not paths:
        raise TextError("no file matches", where=spec, hint="give a glob of text files, in quotes on a command line")
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
            raise TextError(f"'{path.suffix}' is no format that can be read", where=str(path), hint=known)
        return [""]
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if _format_of(name) and not name.startswith("__MACOSX/"))
    except zipfile.BadZipFile:
        raise TextError("is not a zip archive", where=str(path), hint="copy it again") from None
    if not names:
        raise TextError("holds no text file", where=str(path), hint=known)
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


def columns_of(source: TextSource) -> dict[str, str]:
    """What a source's columns are for us, and what the source calls them."""
    named = {"text": source.column, "pair": source.pair_column, "label": source.label_column}
    return {role: column for role, column in named.items() if column is not None}


def _check_columns(columns: dict[str, str], known: list[str], where: str) -> None:
    for role, column in columns.items():
        if column not in known:
            key = "column" if role == "text" else f"{role}_column"
            hint = f"set '{key}' to one of: {', '.join(known)}" if known else "name another file"
            raise TextError(f"has no column '{column}'", where=where, hint=hint)


def _jsonl_rows(lines: io.TextIOBase, where: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise TextError("is not a JSON object", where=f"{where}, line {number}", hint="write one object a line")
        yield row


def _parquet_rows(stream: BinaryIO, columns: dict[str, str], where: str) -> Iterator[Row]:
    table = pyarrow.parquet.ParquetFile(stream)
    _check_columns(columns, table.schema_arrow.names, where)
    for batch in table.iter_batches(columns=list(columns.values())):
        yield from batch.to_pylist()


def _rows(entry: FileEntry, columns: dict[str, str], where: str, stack: ExitStack) -> Iterator[Row]:
    stream, suffix = _open(entry, stack), _format_of(entry[1] or entry[0])
    if suffix == ".parquet":
        yield from _parquet_rows(stream, columns, where)
        return
    lines = stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
    if suffix == ".txt":
        yield from ({columns["text"]: line} for line in lines)
    elif suffix == ".jsonl":
        yield from _jsonl_rows(lines, where)
    else:
        yield from delimited_rows(lines, columns.values(), delimiter="\t" if suffix == ".tsv" else ",", where=where)


def _cells(files: list[FileEntry], columns: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and its cells by what they are for, as they are read."""
    for entry in files:
        where = f"{entry[0]} ({entry[1]})" if entry[1] else entry[0]
        with ExitStack() as stack:
            try:
                for number, row in enumerate(_rows(entry, columns, where, stack), start=1):
                    if number == 1:
                        _check_columns(columns, [str(name) for name in row if name is not None], where)
                    yield f"{where}, row {number}", {role: row.get(column) for role, column in columns.items()}
            except UnicodeDecodeError as error:
                raise TextError(f"is not UTF-8 ({error.reason})", where=where, hint="convert it to UTF-8") from None
            except (OSError, EOFError, zipfile.BadZipFile, pyarrow.ArrowInvalid, lzma.LZMAError) as error:
                raise TextError(f"cannot be read ({error})", where=where, hint="copy or write it again") from None


def _label_text(label: Any) -> str | None:
    """A label as text, so that a column has one type whatever the file's format."""
    return None if label is None else str(int(label) if isinstance(label, bool) else label)


def read_rows(files: list[FileEntry], columns: dict[str, str], words: bool = False) -> Iterator[Row]:
    """The rows of some files, as {"text": ..., "pair": ..., "label": ...}; empty ones are left out.

    With `words` a text is a list of words, and a label is a list of labels. Labels are given as strings. A file that
    lacks a column, holds something else than text in it, or cannot be read is a TextError.
    """
    for where, cells in _cells(files, columns):
        for role in ("text", "pair"):
            value, of_words = cells.get(role), words and role == "text"
            listed = isinstance(value, list) and all(isinstance(word, str) for word in value)
            if value is not None and not (listed if of_words else isinstance(value, str)):
                kind = "a list of words" if of_words else "text"
                what = f"column '{columns[role]}' holds {type(value).__name__}, not {kind}"
                raise TextError(what, where=where, hint="name another 'column'")
        text = cells["text"]
        if not text or not "".join(text).strip() or ("pair" in columns and not (cells["pair"] or "").strip()):
            continue
        if "label" in columns:
            label = cells["label"]
            if label is not None and isinstance(label, list) != words:
                what = (
                    f"column '{columns['label']}' holds {type(label).__name__} where the text is {type(text).__name__}"
                )
                raise TextError(what, where=where, hint="give one label for a text, and a list for a list of words")
            cells["label"] = list(map(_label_text, label)) if isinstance(label, list) else _label_text(label)
        yield cells


def check_files(source: TextSource) -> None:
    """Look at the first row of a source's first files: they must be there, be read and have the columns (TextError)."""
    assert source.files is not None
    columns = columns_of(source)
    for entry in find_files(source.files)[:_FILES_LOOKED_AT]:
        next(_cells([entry], columns), None)


def load_files(source: TextSource, *, words: bool = False, streaming: bool, cache_dir: Path | None) -> Any:
    """The rows of a source of files, as a cached `Dataset`, or as an `IterableDataset` that reads them whenever it is
    asked. Nothing in any of the files is a TextError; and see `find_files` and `read_rows`.
    """
    import datasets

    assert source.files is not None
    files, columns = find_files(source.files), columns_of(source)
    words = words and isinstance(next((c["text"] for _, c in _cells(files, columns) if c["text"]), None), list)
    if next(read_rows(files, columns, words), None) is None:
        raise TextError("holds no text", where=source.files, hint="name other files or another column")
    given = {"files": files, "columns": columns, "words": words}
    text = datasets.Value("string")
    listed = datasets.Sequence(text) if words else text
    features = datasets.Features({role: text if role == "pair" else listed for role in columns})
    if streaming:
        return datasets.IterableDataset.from_generator(read_rows, features=features, gen_kwargs=given)
    try:
        cache = str(cache_dir) if cache_dir else None
        return datasets.Dataset.from_generator(read_rows, features=features, gen_kwargs=given, cache_dir=cache)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, TextError):
            raise error.__cause__ from None
        raise


def load_hub(source: TextSource, *, cache_dir: Path | None) -> Any:
    """The rows of a hub dataset (or of a folder of data files), streamed where the source says so.

    It must be reached, and have the configuration, the split and the columns (TextError).
    """
    import datasets

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
        hint = "check the name, its config and split, and the network (HF_HUB_OFFLINE)"
        raise TextError(f"cannot be loaded ({reason})", where=f"dataset {source.dataset}", hint=hint) from None
    roles = columns_of(source)
    _check_columns(roles, columns, f"dataset {source.dataset}")
    rows = rows.select_columns(list(roles.values()))
    renamed = {column: role for role, column in roles.items() if column != role}
    return rows.rename_columns(renamed) if renamed else rows
