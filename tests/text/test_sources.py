from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from homoexport.documents.recipe import TextSource
from homoexport.errors import TextError
from homoexport.text.sources import check_files, find_files, load_files, load_hub, read_rows

ROWS = ['A row, with "quotes".', "Zweite Zeile: Äpfel.", "x" * 200_000]


def _delimited(delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([["id", "body"], *enumerate(ROWS)])
    return file.getvalue().encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    datasets.Dataset.from_dict({"id": [0, 1, 2], "body": ROWS}).to_parquet(file)
    return file.getvalue()


CONTENT: dict[str, Callable[[], bytes]] = {
    "txt": lambda: "\n\n".join(ROWS).encode(),
    "jsonl": lambda: "\n".join(json.dumps({"body": row}) for row in [*ROWS, None, " "]).encode("utf-8-sig"),
    "csv": lambda: _delimited(","),
    "tsv": lambda: _delimited("\t"),
    "parquet": _parquet,
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def _read(path: Path, column: str = "body") -> list[str]:
    return [row["text"].strip() for row in read_rows(find_files(str(path)), {"text": column})]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", CONTENT)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str, compression: str) -> None:
    path = tmp_path / f"rows.{kind}{compression}"
    path.write_bytes(COMPRESS[compression](CONTENT[kind]()))
    assert _read(path) == ROWS


def test_zip_gives_its_text_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        for kind, content in CONTENT.items():
            archive.writestr(f"inner/rows.{kind}", content())
        archive.writestr("rows.jsonl.gz", gzip.compress(CONTENT["jsonl"](), mtime=0))
        archive.writestr("README.md", "not text for us")
        archive.writestr("__MACOSX/rows.csv", "rubbish")
    assert _read(tmp_path / "rows.zip") == ROWS * 6


def test_globs_are_read_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _read(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt", "deep/c.txt"]


def test_quoted_cells_may_hold_line_breaks_and_commas(tmp_path: Path) -> None:
    rows = ["Dear all,\nI came, I saw", 'She said "1,000\r\n2,000".', "plain"]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["id", "body"], *([i, row] for i, row in enumerate(rows))])
        assert _read(tmp_path / name, "body") == rows


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_quotes_of_a_tsv_file_may_be_plain_characters(tmp_path: Path, ending: str) -> None:
    """As in GLUE's files; cells that are quoted by RFC 4180 are so beside them."""
    texts = [
        '"Oh," he said.',
        'a 5" pipe',
        '"Oh, he said',
        "and no more",
        'she"',
        '"',
        '""We"" is doubled',
        '"a" "b"',
        "x",
    ]
    rows = [["id", "text", "b"], *([str(row), text, str(row)] for row, text in enumerate(texts))]
    rows += [["9", '"whole, ""quoted"""', '"z"'], ["10", '"Over', 'cells"'], ["11", "last", '"open'], ["12", "w", "v"]]
    (tmp_path / "a.tsv").write_text(ending.join(map("\t".join, rows)) + ending, newline="")
    read = list(read_rows(find_files(str(tmp_path / "a.tsv")), {"text": "text", "label": "b"}))
    plain = [*texts, 'whole, "quoted"', '"Over', "last", "w"]
    assert [row["text"] for row in read] == plain
    assert [row["label"] for row in read] == [*map(str, range(9)), "z", 'cells"', '"open', "v"]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.tsv", b'b\ttext\tc\n1\t"Oh, he said\n2\ty"\tz\n', "text", "a.tsv, row 1: has a cell that runs over"),
        ("a.tsv", b'b\ttext\n1\t"Oh, he said\ny z\n', "text", "a.tsv, row 1: has a quoted cell that does not end"),
        ("a.csv", b'text,b\nx,1\n"Oh, he said,2\n"Ah" y,3\n', "text", "a.csv, row 2: has a quoted cell that does not"),
        ("a.csv", b'text,b\n"x,1\ny"\n', "text", "a.csv, row 1: has a cell that runs over several rows; a bare quote?"),
        ("a.csv", b"text,b,text\nx,1,y\n", "text", "a.csv: has two columns 'text'; rename one of them"),
        ("a.csv", b"text,b\nx,1\nx, y,1\n", "text", "a.csv, row 2: has 3 cells where the first line names 2"),
        ("a.csv", b"text;b\nx;1\n", "text", "has ';' where commas should be"),
        ("a.csv", b"\ntext,b\nx,1\n", "text", "a.csv: its first line is blank"),
        ("a.csv", b"id,body\n1,x\n", "text", "a.csv: has no column 'text'; set 'column' to one of: id, body"),
        ("a.jsonl", b'{"body": "x"}', "text", "a.jsonl: has no column 'text'; set 'column' to one of: body"),
        ("a.parquet", _parquet(), "text", "a.parquet: has no column 'text'; set 'column' to one of: id, body"),
        ("a.jsonl", b'{"body": 3}', "body", "a.jsonl, row 1: column 'body' holds int, not text"),
        ("a.jsonl", b'{"body": "x"}\n{"body":', "body", "a.jsonl, line 2: is not a JSON object"),
        ("a.txt", b"x", "body", "a.txt: has lines of text, and no column 'body'; leave the column out"),
        ("a.txt", "Öl".encode("latin-1"), "text", "a.txt: is not UTF-8"),
        (
            "a.docx",
            b"x",
            "text",
            "a.docx: '.docx' is no format that can be read; use .txt, .jsonl, .csv",
        ),
        ("a.zip", b"x", "text", "a.zip: cannot be read (File is not a zip file)"),
        ("a.csv.gz", gzip.compress(_delimited(","), mtime=0)[:100], "body", "a.csv.gz: cannot be read"),
        ("a.parquet", b"x", "body", "a.parquet: cannot be read"),
        ("[b].txt", b"x", "text", "no file matches"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, name: str, content: bytes, column: str, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError) as caught:
        load_files(TextSource(files=str(tmp_path / name), column=column), streaming=False, cache_dir=tmp_path / "cache")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"is a folder; name its files by a glob.*: '.*/\*\.txt'"):
        find_files(f"{tmp_path}/")


def test_missing_package_names_the_command() -> None:
    with pytest.raises(TextError, match="'no-such-package' is not installed"):
        find_files("package:no-such-package/*.txt")


def test_hub_dataset_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(TextError, match="dataset nobody/nothing: cannot be loaded"):
        load_hub(TextSource(dataset="nobody/nothing"), cache_dir=tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_of_data_files_is_read_as_a_dataset(tmp_path: Path, streaming: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(json.dumps({"id": 1, "body": row}) for row in ROWS))
    source = TextSource(dataset=str(tmp_path / "data"), column="body", streaming=streaming)
    assert list(load_hub(source, cache_dir=tmp_path / "cache")) == [{"text": row} for row in ROWS]
    with pytest.raises(TextError, match="has no column 'title'; set 'column' to one of: id, body"):
        load_hub(source.model_copy(update={"column": "title"}), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "header.csv"])
def test_files_without_text_are_found_before_anything_is_loaded(tmp_path, name):
    (tmp_path / name).write_text("text\n" if name == "header.csv" else "")
    source = TextSource(files=str(tmp_path / name))
    with pytest.raises(TextError, match=f"{name}: holds no text; name other files or another column"):
        check_files(source)
    (tmp_path / f"more-{name}").write_text("text\na line\n" if name == "header.csv" else '{"text": "a line"}\n')
    check_files(TextSource(files=str(tmp_path / f"*{name}")))
