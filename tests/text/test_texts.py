"""Texts of files and of streams, a row after the other."""

from __future__ import annotations

import gzip
import io
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from homoexport.errors import TextError
from homoexport.text.texts import Given, TextFiles, lines_of


def test_lines_end_at_newlines_alone_and_blank_ones_count():
    given = "\ufeffone\r\n\n two\x0c\u2028three\rfour \nfive".encode()
    expected = ["one", "", " two\x0c\u2028three\rfour ", "five"]
    assert [row.text for row in lines_of(io.BytesIO(given), "stdin")] == expected


def test_a_stream_is_read_as_it_is_asked_for_and_stays_open():
    stream = io.BytesIO(b"some words\n" * 100_000)
    assert len(list(islice(lines_of(stream, "stdin"), 3))) == 3
    assert 0 < stream.tell() < 200_000


@pytest.mark.parametrize(
    ("given", "told"), [(b"w1 \xff\n", "stdin: is not UTF-8"), (b"w" * 2000, "a cell of more than 1000 characters")]
)
def test_what_is_no_text_is_told(monkeypatch, given, told):
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "line_characters=1000")
    with pytest.raises(TextError, match=told):
        list(lines_of(io.BytesIO(given), "stdin"))


def write(folder: Path, kind: str) -> list[Given]:
    """A file of a kind with names, where it has columns, and what should be read of it."""
    path = folder / f"some.{kind}"
    if kind == "txt":
        path.write_text("one\ntwo words\n\nthree\n")
        return [Given("one"), Given("two words"), Given("three")]
    rows = [("one", "a", 7), (None, "b", 8), ("three, four", None, 9)]
    if kind == "parquet":
        names = pyarrow.array([row[2] for row in rows])
        table = {"body": [row[0] for row in rows], "other": [row[1] for row in rows], "url": names}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
        return [Given(body or "", url) for body, _, url in rows]
    if kind == "jsonl.gz":
        lines = ['{"body": "one", "url": 7}', '{"url": 8}', '{"body": "three, four", "url": 9}']
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
        return [Given(body or "", url) for body, _, url in rows]
    path.write_text('url,body,other\n7,one,a\n8,,b\n9,"three, four",\n')
    return [Given(body or "", str(url)) for body, _, url in rows]


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl.gz", "parquet"])
def test_every_row_of_a_file_is_given(tmp_path, kind):
    expected = write(tmp_path, kind)
    column, id_column = ("text", None) if kind == "txt" else ("body", "url")
    files = TextFiles([str(tmp_path / "*")], column=column, id_column=id_column)
    assert list(files.rows()) == expected
    assert [row.is_empty for row in files.rows()] == [not row.text for row in expected]
    assert files.paths == {tmp_path / f"some.{kind}"}


def test_globs_come_in_their_order_and_files_in_that_of_their_names(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    files = TextFiles([str(tmp_path / "c.txt"), str(tmp_path / "[ab].txt")], column="text")
    assert [row.text for row in files.rows()] == ["c", "a", "b"]


def test_pairs(tmp_path):
    (tmp_path / "pairs.csv").write_text("query,passage\nq1,p1\nq2,\n")
    files = TextFiles([str(tmp_path / "pairs.csv")], column="query", pair_column="passage")
    assert [row.text for row in files.rows()] == [("q1", "p1"), ("q2", "")]


def test_a_column_that_a_later_file_lacks_is_told_before_the_first_text(tmp_path):
    (tmp_path / "1.csv").write_text("body\none\n")
    (tmp_path / "2.csv").write_text("title\ntwo\n")
    with pytest.raises(TextError, match=r"2\.csv: has no column 'body'; set 'column' to one of: title"):
        TextFiles([str(tmp_path / "*.csv")], column="body")


def test_about_how_many_rows_there_are(tmp_path):
    (tmp_path / "long.txt").write_text("a line of words\n" * 200_000)  # more than what is looked at
    assert TextFiles([str(tmp_path / "long.txt")], column="text").about() == pytest.approx(200_000, rel=1e-3)
    write(tmp_path, "parquet")
    both = [str(tmp_path / "long.txt"), str(tmp_path / "some.parquet")]
    assert TextFiles(both[1:], column="body").about() == 3
    write(tmp_path, "jsonl.gz")
    assert TextFiles([str(tmp_path / "some.*")], column="body").about() is None
