"""Text of strangers: whatever is in a file, its rows are read or it is refused in one line, within the limits."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from homoexport.documents.recipe import TextSource
from homoexport.errors import TextError, UserError
from homoexport.globs import matching
from homoexport.text.sources import columns_of, find_files, load_files, read_rows
from tests.conftest import write_sentences

LINES = [f"w{number} w{number + 1} w{number + 2}" for number in range(50)]
GOOD = "\n".join(LINES).encode()
LONG = b"w1 " * 400_000
BOMB = (b" " * 200 + b"\n") * 90_000


def _rows(path: Path) -> list[str]:
    return [row["text"] for row in read_rows(find_files(str(path)), columns_of(TextSource(files="x")))]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 4]) + content[middle + 4 :]


def _zipped(members: dict[str, bytes], flags: int = 0, method: int | None = None) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    found = bytearray(target.getvalue())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = found.find(mark)
        found[place + at] |= flags
        if method is not None:
            found[place + at + 2] = method
    return bytes(found)


def _table(texts: list[object], **options: object) -> bytes:
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), target, **options)
    return target.getvalue()


BROKEN = {
    "flipped.txt.gz": _flipped(gzip.compress(GOOD)),
    "flipped.txt.bz2": _flipped(bz2.compress(GOOD)),
    "flipped.txt.xz": _flipped(lzma.compress(GOOD)),
    "short.txt.gz": gzip.compress(GOOD)[:-20],
    "text.txt.gz": b"hello",
    "junk.txt.gz": gzip.compress(GOOD) + b"junk",
    "flipped.zip": _flipped(_zipped({"a.txt": GOOD})),
    "short.zip": _zipped({"a.txt": GOOD})[:-30],
    "secret.zip": _zipped({"a.txt": GOOD}, flags=1),
    "method.zip": _zipped({"a.txt": GOOD}, method=99),
    "outside.zip": _zipped({"../../a.txt": GOOD}),
    "inner.zip": _zipped({"a.txt.gz": b"no gzip"}),
    "half.jsonl": b'{"text": "\\ud800 w1 w2"}\n',
    "deep.jsonl": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "number.jsonl": b'{"text": ' + b"9" * 5000 + b"}\n",
    "list.jsonl": b"[1]\n",
    "object.jsonl": b'{"text": {"a": 1}}\n',
    "open.csv": b'text\n"' + GOOD,
    "bytes.txt": b"\xff\xfe",
    "utf16.txt": GOOD.decode().encode("utf-16"),
    "bytes.parquet": _table([b"\xff"] * 5),
    "objects.parquet": _table([{"a": 1}] * 5),
    "short.parquet": _table(LINES)[:-10],
    "zeros.parquet": b"PAR1" + bytes(100) + b"PAR1",
}
BEYOND = {
    "line_characters": {
        "long.txt": LONG,
        "long.jsonl": json.dumps({"text": LONG.decode()}).encode(),
        "long.csv": b'text\n"' + LONG + b'"\n',
        "swallowed.csv": b'text\n"' + b"w1\n" * 400_000,
        "cells.csv": b"text\n" + b'"a\n",' * 300_000,
        "long.txt.gz": gzip.compress(LONG),
        "long.parquet": _table([LONG.decode()]),
        "again.parquet": _table([LONG.decode()] * 50, use_dictionary=True),
        "large.parquet": _table(pyarrow.array([LONG.decode()] * 50, pyarrow.large_string()), use_dictionary=True),
        "view.parquet": _table(pyarrow.array([LONG.decode()] * 50, pyarrow.string_view()), use_dictionary=True),
        "list.parquet": _table([[LONG.decode()[:300_000]] * 50], use_dictionary=True),
    },
    "expansion": {
        "bomb.txt.gz": gzip.compress(BOMB, 1),
        "bomb.jsonl.xz": lzma.compress(BOMB, preset=0),
        "bomb.zip": _zipped({"a.txt": BOMB}),
    },
    "members": {"many.zip": _zipped({f"{number}.txt": b"" for number in range(10_001)})},
}


@pytest.mark.parametrize(("name", "content"), BROKEN.items(), ids=BROKEN)
def test_broken_files_are_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        _rows(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "name"), [(limit, name) for limit, files in BEYOND.items() for name in files], ids=lambda part: part
)
def test_files_beyond_a_limit_name_the_flag_that_raises_it(tmp_path, limit, name):
    path = tmp_path / name
    path.write_bytes(BEYOND[limit][name])
    with pytest.raises(UserError, match=f"--limit {limit}=N") as caught:
        _rows(path)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl", "long.csv", "long.parquet"])
def test_a_raised_limit_lets_a_long_text_through(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "line_characters=2000000")
    path = tmp_path / name
    path.write_bytes(BEYOND["line_characters"][name])
    assert [text.strip() for text in _rows(path)] == [LONG.decode().strip()]


@pytest.mark.parametrize(
    "pattern",
    ["**/*.txt", "a/**", "**", "a/**/b/**/*.txt", "./**/*.txt", "*/*.txt", "*/../*/?.txt", "[a]/[[]x]/7.txt", ".h*/*"],
)
def test_patterns_find_what_glob_finds(tmp_path, monkeypatch, pattern):
    for name in ("1.txt", "a/2.txt", "a/b/3.txt", "a/b/c/4.txt", ".hidden/5.txt", "a/.hidden/6.txt", "a/[x]/7.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("w1")
    monkeypatch.chdir(tmp_path)
    import glob

    expected = {Path(path) for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}  # noqa: PTH207
    assert {path for path in matching(pattern) if path.is_file()} == expected


@pytest.mark.parametrize(
    "pattern", ["**/*.txt", "**/**/*.txt", "*/" * 30 + "x", "*/../" * 30 + "x", "**/" * 20 + "*/x"]
)
def test_patterns_that_lead_everywhere_end(tmp_path, monkeypatch, pattern):
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "files=50")
    for number in range(3):
        (tmp_path / str(number)).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--limit files=N"):
        matching(pattern)


def test_patterns_that_go_the_same_ways_again_and_again_end(tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*"abcdefghijkl")
    deep.mkdir(parents=True)
    (deep / "x").write_text("w1")
    monkeypatch.chdir(tmp_path)
    assert len(matching("**/" * 20 + "x")) == 1
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "files=2000")
    with pytest.raises(UserError, match="--limit files=N"):
        matching("**/?/" * 6 + "y")


@pytest.mark.parametrize(
    "spec", ["a\0b", "~nobody-of-that-name/x.txt", "x" * 5000, "package:a/../../etc/passwd", "\ud800"]
)
def test_specs_that_name_nothing(spec):
    with pytest.raises(UserError):
        find_files(spec)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    source = TextSource(files=str(write_sentences(tmp_path / "a.txt")))
    with pytest.raises(TextError, match="the cache cannot be used"):
        load_files(source, streaming=False, cache_dir=cache)
