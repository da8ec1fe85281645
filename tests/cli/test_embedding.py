"""`homoexport embed`: lines and files into vectors, whole or not at all."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest

from homoexport.runtime.inference import open_package
from tests.conftest import write_sentences
from tests.snippets import snippets
from tests.stages.measure.tiny_onnx import write_package

TEXTS = [" ".join(f"w{(row * 7 + word) % 59}" for word in range(1 + row % 9)) for row in range(50)]


@pytest.fixture
def package(tmp_path) -> Path:
    return write_package(tmp_path / "package")


@pytest.fixture
def vectors(package) -> np.ndarray:
    return open_package(package).embed(TEXTS)


def write_files(folder: Path, kind: str) -> str:
    """The texts in two files of a kind, and the glob of them."""
    for number, part in enumerate((TEXTS[:20], TEXTS[20:])):
        path, start = folder / f"{number}.{kind}", number * 20
        rows = [{"body": text, "url": f"u{start + row}"} for row, text in enumerate(part)]
        if kind == "txt":
            path.write_text("\n".join(part))
        elif kind == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        elif kind == "csv":
            path.write_text("\n".join(["body,url", *(f"{row['body']},{row['url']}" for row in rows)]))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(folder / f"*.{kind}")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_files_become_a_matrix_and_a_table(homoexport, tmp_path, package, vectors, kind):
    glob, own = write_files(tmp_path, kind), tmp_path / "out"
    columns = [] if kind == "txt" else ["--text-column", "body"]
    outcome = homoexport("embed", package, "--data", glob, *columns, "-o", own / "vectors.npy", "--batch-size", "3")
    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    assert outcome.err.startswith("50 vectors of 16 in ")
    np.testing.assert_allclose(np.load(own / "vectors.npy"), vectors, atol=1e-6)

    names = [] if kind == "txt" else ["--id-column", "url"]
    outcome = homoexport("embed", package, "--data", glob, *columns, *names, "-o", own / "v.parquet", "--streams", "3")
    assert outcome.code == 0, outcome.err
    table = pyarrow.parquet.read_table(own / "v.parquet")
    assert table["row"].to_pylist() == list(range(50))
    if names:
        assert table["id"].to_pylist() == [f"u{row}" for row in range(50)]
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, atol=1e-6)


def stdin_of(monkeypatch, given: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))


def test_lines_of_stdin_become_a_matrix_on_stdout(package, vectors):
    command = [sys.executable, "-m", "homoexport", "embed", str(package)]
    given = "\n".join([TEXTS[0], "", *TEXTS[1:]]) + "\n"
    done = subprocess.run(command, input=given.encode(), capture_output=True, check=True)
    found = np.load(io.BytesIO(done.stdout))
    np.testing.assert_allclose(found[[0, *range(2, 51)]], vectors, atol=1e-6)
    assert b"51 vectors of 16" in done.stderr
    assert b"1 of the texts are empty" in done.stderr


def test_with_json_what_was_done_is_on_stdout(homoexport, tmp_path, package):
    (tmp_path / "some.txt").write_text("w1\nw2 w3\n")
    done = homoexport("embed", package, "--data", tmp_path / "some.txt", "-o", tmp_path / "vectors.npy", "--json")
    found = json.loads(done.out)
    assert (found["texts"], found["width"], found["labels"], found["runtime"]) == (2, 16, [], "onnxruntime")
    refused = homoexport("embed", package, "--data", tmp_path / "some.txt", "--json")
    told = "--json: has stdout for itself; name a file for the vectors with -o"
    assert (refused.code, json.loads(refused.out)["error"]["message"]) == (2, told)


def test_no_line_is_a_matrix_of_no_rows(homoexport, tmp_path, monkeypatch, package):
    stdin_of(monkeypatch, b"")
    assert homoexport("embed", package, "-o", tmp_path / "vectors.npy").code == 0
    assert np.load(tmp_path / "vectors.npy").shape == (0, 16)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--data", "nothing*.txt"], "in quotes on a command line; looked in /"),
        (["--data", "some.csv"], "some.csv: has no column 'text'; set --text-column to one of: body, url"),
        (
            ["--data", "some.csv", "--text-column", "body", "--id-column", "uri", "-o", "vectors.parquet"],
            "has no column 'uri'; set --id-column to",
        ),
        (["--data", "some.csv", "--text-column", "body", "--id-column", "url"], "vectors.npy: takes no ids"),
        (["--data", "bad.jsonl"], "bad.jsonl, line 2: is not a JSON object"),
        (["--data", "some.txt", "--text-column", "body"], "some.txt: has lines of text, and no column 'body'; leave"),
        (["--id-column", "url", "-o", "vectors.parquet"], "--id-column: the lines of stdin have no columns"),
        (["-o", "vectors.csv"], "'.csv' is no kind of file for vectors"),
        (["-o", "folder"], "folder: is a folder"),
        (["-o", "/proc/x.npy"], "/proc/x.npy: no file can be made there"),
        (
            ["--data", "vectors.npy.parquet", "--text-column", "body", "-o", "vectors.npy.parquet"],
            "one of the files that",
        ),
        (["--streams", "0"], "--streams"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(homoexport, tmp_path, monkeypatch, package, flags, told):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("some.csv").write_text("body,url\nw1,u1\n")
    Path("some.txt").write_text("w1\n")
    Path("bad.jsonl").write_text('{"text": "w1"}\n[]\n')
    pyarrow.parquet.write_table(pyarrow.table({"body": ["w1"]}), "vectors.npy.parquet")
    stdin_of(monkeypatch, b"w1\n")
    before = sorted(Path().rglob("*"))
    outcome = homoexport("embed", package, *([] if "-o" in flags else ["-o", "vectors.npy"]), *flags)
    assert (outcome.code, outcome.err.count("error:")) == (2, 1), outcome.err
    assert told in outcome.err
    assert sorted(Path().rglob("*")) == before


def test_a_static_scheme_answers_each_text_as_it_would_alone(homoexport, tmp_path, tiny_folder):
    """Its activations' scales are the graph's own, so that a batch's other texts do not matter."""
    texts = write_sentences(tmp_path / "texts.txt", count=120)
    quick = ("--graph", "standard", "--seconds", "0.02", "--quantize", "int8-static", "--text", texts)
    done = homoexport("export", "--onnx", tiny_folder(), *quick, "--task", "sentence-similarity", "-o", tmp_path / "p")
    assert done.code == 0, done.err
    flags = ("--data", texts, "--streams", "2", "--batch-size", "8", "-o", tmp_path / "vectors.npy")
    assert homoexport("embed", tmp_path / "p", *flags).code == 0
    package = open_package(tmp_path / "p")
    assert package.details.model_file == "onnx/model_quantized.onnx"
    alone = np.concatenate([package.embed([text]) for text in texts.read_text().splitlines()])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), alone, atol=1e-5)


def test_the_pages_snippets(homoexport, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    package = write_package(tmp_path / "package")
    (tmp_path / "docs").mkdir()
    for number, text in enumerate(TEXTS[:3]):
        Path(f"docs/{number}.jsonl").write_text(json.dumps({"body": text, "url": f"u{number}"}))
    (command,) = snippets("embedding.md", "From files", "bash")
    assert homoexport(*shlex.split(command)[1:]).code == 0
    assert pyarrow.parquet.read_table("vectors.parquet")["id"].to_pylist() == ["u0", "u1", "u2"]
    (code,) = snippets("embedding.md", "In Python", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert "3 vectors of 16" in capsys.readouterr().out
    np.testing.assert_allclose(np.load("vectors.npy"), open_package(package).embed(TEXTS[:3]), atol=1e-6)
    assert names["vectors"].shape == (2, 16)
