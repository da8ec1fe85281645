"""Rows of text from files and hub datasets, as `datasets` objects.

Their columns are `text` and, where the source names them, `pair`, `label` and `vector`. A text may be a list
of words; then its label is a list of the same length.

Local files are read by the few lines below rather than by `datasets`' own builders: those extract
archives under a name made of the path alone, so that a changed archive would be read from its old
extraction. Everything after the reading (cache, tokenizing, streams) is `datasets`, which is imported when it is
needed: files and columns are checked before.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow  # type: ignore[import-untyped]
from pydantic_core import from_json

from homoexport import packaged
from homoexport.documents.recipe import TextSource
from homoexport.errors import HomoexportError, TextError, first_line, refusing
from homoexport.globs import at_home, matching
from homoexport.text.delimited import delimited_rows
from homoexport.text.lines import Lines, Unpacked, longest_text, too_long
from homoexport.text.parquet import columns_in, parquet_rows
from homoexport.text.vectors import VectorReader

FORMATS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_COMPRESSIONS: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

Row = dict[str, Any]  # cells by the names of columns, of whatever kind a file has

_FILES_LOOKED_AT = 20  # of a source, before anything is loaded
_ROWS_AT_ONCE = 200  # written together: each may be as long as the limit allows

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
    """The files that a glob or a `package:DISTRIBUTION/GLOB` names, sorted by path; archives by their members.

    There must be some, all of a format that can be read (TextError).
    """
    try:
        pattern = packaged.locate(spec) if spec.startswith(packaged.PREFIX) else at_home(spec)
    except (FileNotFoundError, ValueError) as error:
        raise TextError(str(error), where="text.sources") from None
    paths = [path for path in matching(str(pattern)) if path.is_file()]
    if not paths and Path(pattern).is_dir():
        hint = f"name its files by a glob, in quotes on a command line: '{spec.rstrip('/')}/*.txt'"
        raise TextError("is a folder", where=spec, hint=hint)
    if not paths:
        raise TextError("no file matches", where=spec, hint="give a glob of text files, in quotes on a command line")
    entries: list[FileEntry] = []
    for path in paths:
        entries += [entry_of(path, member) for member in _members(path)]
    return entries


def entry_of(path: Path | str, member: str = "") -> FileEntry:
    """A file, or a member of an archive, as it is now."""
    status = Path(path).stat()
    return str(path), member, status.st_size, status.st_mtime_ns


def _members(path: Path) -> list[str]:
    known = f"use {', '.join(FORMATS)}, plain or as .gz, .bz2, .xz, .zip"
    if path.suffix.lower() != ".zip":
        if not _format_of(path.name):
            raise TextError(f"'{path.suffix}' is no format that can be read", where=str(path), hint=known)
        return [""]
    with refusing(TextError, "cannot be read", where=str(path), hint="copy it again"), _archive(str(path)) as archive:
        names = sorted(name for name in archive.namelist() if _format_of(name) and not name.startswith("__MACOSX/"))
    if not names:
        raise TextError("holds no text file", where=str(path), hint=known)
    return names


@contextmanager
def _archive(path: str) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(path) as archive:
        packaged.check_archive(archive, Path(path).stat().st_size, path)
        yield archive


def _open(entry: FileEntry, where: str, archive: zipfile.ZipFile | None, stack: ExitStack) -> BinaryIO:
    path, member, size, *_ = entry
    raw: Any = stack.enter_context(Path(path).open("rb") if archive is None else archive.open(member))  # noqa: SIM115
    if opener := _COMPRESSIONS.get(PurePosixPath(member or path).suffix.lower()):
        size = size if archive is None else archive.getinfo(member).file_size
        unpacked = Unpacked(stack.enter_context(opener(raw)), size, where)
        raw = stack.enter_context(io.BufferedReader(unpacked))
    return cast(BinaryIO, raw)


def name_of(source: TextSource) -> str:
    return source.files or "/".join(filter(None, (source.dataset, source.config, source.split)))


def columns_of(source: TextSource) -> dict[str, str]:
    """What a source's columns are for us, and what the source calls them."""
    named = {
        "text": source.column,
        "pair": source.pair_column,
        "label": source.label_column,
        "vector": source.vector_column,
    }
    return {role: column for role, column in named.items() if column is not None}


def _check_columns(columns: dict[str, str], known: list[str], where: str) -> None:
    for role, column in columns.items():
        if column not in known:
            key = "column" if role == "text" else f"{role}_column"
            hint = f"set '{key}' to one of: {', '.join(known)}" if known else "name another file"
            raise TextError(f"has no column '{column}'", where=where, hint=hint)


def _jsonl_rows(lines: Lines, where: str) -> Iterator[Row]:
    for number, line in enumerate(lines.rows(), start=1):
        if line.isspace():
            continue
        try:
            row, why = from_json(line), ""
        except ValueError as error:  # also of half a character (a lone surrogate), and where it is nested too deeply
            row, why = None, f" ({error})"
        if not isinstance(row, dict):
            at = f"{where}, line {number}"
            raise TextError(f"is not a JSON object{why}", where=at, hint="write one object a line")
        yield row


def _rows(
    entry: FileEntry, columns: dict[str, str], where: str, archive: zipfile.ZipFile | None, stack: ExitStack
) -> Iterator[Row]:
    stream, suffix = _open(entry, where, archive, stack), _format_of(entry[1] or entry[0])
    if suffix == ".parquet":
        _check_columns(columns, list(columns_in(stream)), where)
        yield from parquet_rows(stream, list(columns.values()), size=entry[2], where=where)
        return
    lines = Lines(stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")), where)
    if suffix == ".txt" and len(columns) > 1:
        raise TextError("has lines of text, and no columns", where=where, hint="give jsonl, csv, tsv or parquet files")
    if suffix == ".txt":
        yield from ({columns["text"]: line} for line in lines.rows() if not line.isspace())
    elif suffix == ".jsonl":
        yield from _jsonl_rows(lines, where)
    else:
        yield from delimited_rows(lines, columns.values(), delimiter="\t" if suffix == ".tsv" else ",", where=where)


def _cells(files: Sequence[FileEntry], columns: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and its cells by what they are for, as they are read."""
    with ExitStack() as archives:
        archive, opened = None, ""
        for entry in files:
            path, member, *_ = entry
            where = f"{path} ({member})" if member else path
            with (
                ExitStack() as stack,
                refusing(TextError, "cannot be read", where=where, hint="copy or write it again"),
            ):
                if path != opened:
                    archives.close()
                    archive, opened = archives.enter_context(_archive(path)) if member else None, path
                try:
                    for number, row in enumerate(_rows(entry, columns, where, archive, stack), start=1):
                        if number == 1:
                            _check_columns(columns, [str(name) for name in row if name is not None], where)
                        yield f"{where}, row {number}", {role: row.get(column) for role, column in columns.items()}
                except UnicodeDecodeError as error:
                    what = f"is not UTF-8 ({error.reason})"
                    raise TextError(what, where=where, hint="convert it to UTF-8") from None


def _label_text(label: Any) -> str | None:
    """A label as text, so that a column has one type whatever the file's format."""
    return None if label is None else str(int(label) if isinstance(label, bool) else label)


def read_rows(
    files: Sequence[FileEntry], columns: dict[str, str], words: bool = False, vectors: FileEntry | None = None
) -> Iterator[Row]:
    """The rows of some files, as {"text": ..., "pair": ..., "label": ..., "vector": ...}; empty ones are left out.

    With `words` a text is a list of words, and a label is a list of labels. Labels are given as strings. `vectors` is
    an npy file with a vector for each row; rows are counted through all files, in the order in which these are given. A
    file that lacks a column, holds something else than text in it, or cannot be read is a TextError, and so are vectors
    that are none (see `VectorReader`).
    """
    for _, cells in placed_rows(files, columns, words, vectors):
        yield cells


def placed_rows(
    files: Sequence[FileEntry],
    columns: dict[str, str],
    words: bool = False,
    vectors: FileEntry | None = None,
    *,
    halves: bool = False,
    empty: bool = False,
) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and what `read_rows` gives of it; with `halves` also of pairs that lack one text, with
    `empty` of all."""
    reader = VectorReader(vectors[0] if vectors else None) if vectors or "vector" in columns else None
    number = -1
    for number, (where, cells) in enumerate(_cells(files, columns)):
        for role in ("text", "pair"):
            value, of_words = cells.get(role), words and role == "text"
            listed = isinstance(value, list) and all(isinstance(word, str) for word in value)
            if value is not None and not (listed if of_words else isinstance(value, str)):
                kind = "a list of words" if of_words else "text"
                what = f"column '{columns[role]}' holds {type(value).__name__}, not {kind}"
                key = "column" if role == "text" else "pair_column"
                raise TextError(what, where=where, hint=f"name another '{key}'")
            if value is not None and (sum(map(len, value)) if of_words else len(value)) > longest_text():
                raise too_long(where)
        there = ["".join(cells[role] or "").strip() != "" for role in ("text", "pair") if role in columns]
        if not (empty or (any(there) if halves else all(there))):
            continue
        if "label" in columns:
            label = cells["label"]
            if label is not None and isinstance(label, list) != words:
                kinds = f"{type(label).__name__} where the text is {type(cells['text']).__name__}"
                what = f"column '{columns['label']}' holds {kinds}"
                raise TextError(what, where=where, hint="give one label for a text, and a list for a list of words")
            cells["label"] = list(map(_label_text, label)) if isinstance(label, list) else _label_text(label)
        if reader is not None:
            cells["vector"] = reader.read(number, cells.get("vector"), where)
        yield where, cells
    if reader is not None:
        reader.end(number + 1)


def first_rows(files: str, count: int) -> list[Row]:
    """The first rows of some files with all of their columns, as they stand there; that of a txt file is `text`."""
    entry, text = find_files(files)[0], {"text": "text"}
    with (
        ExitStack() as stack,
        refusing(TextError, "cannot be read", where=entry[0], hint="copy or write it again"),
    ):
        archive = stack.enter_context(_archive(entry[0])) if entry[1] else None
        if _format_of(entry[1] or entry[0]) == ".parquet":
            stream = _open(entry, entry[0], archive, stack)
            text = {name: name for name, is_readable in columns_in(stream).items() if is_readable}
        return list(islice(_rows(entry, text, entry[0], archive, stack), count))


def refuse_column_of_lines(files: Sequence[FileEntry], column: str, where: str) -> None:
    """Refuse (TextError) a column that is named where all files are txt, whose lines are in none."""
    is_named = column != TextSource.model_fields["column"].default
    if is_named and files and all(_format_of(member or path) == ".txt" for path, member, *_ in files):
        hint = "leave the column out, or give jsonl, csv, tsv or parquet files"
        raise TextError(f"has lines of text, and no column '{column}'", where=where, hint=hint)


def _found(source: TextSource) -> tuple[list[FileEntry], dict[str, str]]:
    """A source's files and columns."""
    assert source.files is not None
    files = find_files(source.files)
    refuse_column_of_lines(files, source.column, source.files)
    return files, columns_of(source)


def check_files(source: TextSource) -> None:
    """Look at the first row of a source's first files: they must be there, be read and have the columns (TextError)."""
    files, columns = _found(source)
    rows = [next(_cells([entry], columns), None) for entry in files[:_FILES_LOOKED_AT]]
    if len(rows) == len(files) and not any(rows):
        raise _empty(source)


def _empty(source: TextSource) -> TextError:
    return TextError("holds no text", where=name_of(source), hint="name other files or another column")


def load_files(
    source: TextSource,
    *,
    words: bool = False,
    streaming: bool,
    cache_dir: Path | None,
    vectors: FileEntry | None = None,
) -> Any:
    """The rows of a source of files, as a cached `Dataset`, or as an `IterableDataset` that reads them whenever it is
    asked. Nothing in any of the files is a TextError; and see `find_files` and `read_rows`.
    """
    import datasets

    files, columns = _found(source)
    words = words and isinstance(next((c["text"] for _, c in _cells(files, columns) if c["text"]), None), list)
    if next(read_rows(files, columns, words, vectors), None) is None:
        raise _empty(source)
    given = {"files": files, "columns": columns, "words": words, "vectors": vectors}
    if not streaming:  # `datasets` reads each file of a list on its own, as a stream's shards; rows are counted here
        given["files"] = tuple(files)
    text = datasets.Value("string")
    listed = datasets.Sequence(text) if words else text
    kinds = {role: text if role == "pair" else listed for role in columns if role != "vector"}
    if vectors or source.vector_column:
        kinds["vector"] = datasets.Sequence(datasets.Value("float32"))
    features = datasets.Features(kinds)
    if streaming:
        return datasets.IterableDataset.from_generator(read_rows, features=features, gen_kwargs=given)
    cache = str(cache_dir) if cache_dir else None
    with cache_errors():
        return datasets.Dataset.from_generator(
            read_rows, features=features, gen_kwargs=given, cache_dir=cache, writer_batch_size=_ROWS_AT_ONCE
        )


@contextmanager
def cache_errors() -> Iterator[None]:
    """Tell in one line where `datasets` cannot keep what is read (TextError); what is wrong with a file is told as it
    was said."""
    import datasets

    try:
        yield
    except (OSError, pyarrow.ArrowException, datasets.exceptions.DatasetsError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HomoexportError):
            last, cause = cause, cause.__cause__
        if cause is not None:
            raise cause from None
        hint = "make room there, or name another folder with the environment variable HF_DATASETS_CACHE"
        folder = str(datasets.config.HF_DATASETS_CACHE)
        raise TextError(f"the cache cannot be used ({first_line(last)})", where=folder, hint=hint) from None


def load_hub(source: TextSource, *, cache_dir: Path | None) -> Any:
    """The rows of a hub dataset (or of a folder of data files), streamed where the source says so.

    It must be reached, and have the configuration, the split and the columns (TextError).
    """
    import datasets

    hint = "check the name, its config and split, and the network (HF_HUB_OFFLINE)"
    with refusing(TextError, "cannot be loaded", where=f"dataset {source.dataset}", hint=hint):
        rows = datasets.load_dataset(
            source.dataset,
            source.config,
            split=source.split,
            streaming=source.streaming,
            cache_dir=str(cache_dir) if cache_dir else None,
        )
        columns = rows.column_names or list(next(iter(rows), {}))
    roles = columns_of(source)
    _check_columns(roles, columns, f"dataset {source.dataset}")
    rows = rows.select_columns(list(roles.values()))
    renamed = {column: role for role, column in roles.items() if column != role}
    return rows.rename_columns(renamed) if renamed else rows


def read_on(rows: Any, where: str) -> Iterator[Row]:
    """The rows of what `datasets` streams; what goes wrong on the way is a TextError."""
    rows = iter(rows)
    hint = "look at its files, or at the network"
    while True:
        with refusing(TextError, "cannot be read on", where=where, hint=hint):
            row = next(rows, None)
        if row is None:
            return
        yield row
