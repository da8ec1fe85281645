"""Vectors that lie beside the text of several files: each text gets its own, whose angle says which row it is of."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError
from homoexport.text.corpus import MapCorpus
from homoexport.text.prepare import prepare_text

ROWS = 40  # of two files together
TEXTS = [f"w{row} w{row + 1} w{row + 2}" for row in range(ROWS)]


def angled(rows: int) -> NDArray[np.float32]:
    angles = np.arange(rows) / 20
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def write_files(folder: Path, kind: str, *, first: int = ROWS // 2) -> str:
    """The texts in two files, of which the second one is written before the first; a glob of both."""
    parts = {"p2": range(first, ROWS), "p10": range(first)}  # sorted by the letters of their names
    for name, rows in parts.items():
        cells = [{"text": TEXTS[row], "vector": angled(ROWS)[row].tolist()} for row in rows]
        if kind == "parquet":
            column = pyarrow.array([cell["vector"] for cell in cells], type=pyarrow.list_(pyarrow.float16()))
            table = pyarrow.table({"text": [cell["text"] for cell in cells], "vector": column})
            pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
            continue
        lines = [cell["text"] for cell in cells] if kind == "txt" else list(map(json.dumps, cells))
        (folder / f"{name}.{kind}").write_text("\n\n".join(lines))
    return str(folder / f"*.{kind}")


def corpus_of(
    files: str, tokenizer: PreTrainedTokenizerFast, vectors: Path | None = None, column: str | None = None
) -> MapCorpus:
    source = TextSource(files=files, unit="row", vector_column=column)
    settings = TextSettings(sources=(source,), max_length=16, held_out=5)
    given = None if vectors is None else str(vectors)
    corpus = prepare_text(settings, tokenizer, objective="sentence-embedding", seed=0, vectors=given)
    assert isinstance(corpus, MapCorpus)
    return corpus


def assert_texts_have_their_own(corpus: MapCorpus, vectors: NDArray[np.float32], atol: float = 1e-6) -> None:
    seen = corpus.sequences[:]
    assert sorted(seen["text"]) == sorted(TEXTS)
    for text, vector in zip(seen["text"], seen["vector"], strict=True):
        np.testing.assert_allclose(vector, vectors[TEXTS.index(text)], atol=atol)


@pytest.mark.parametrize("first", [ROWS // 2, 7])
def test_a_file_s_vectors_are_counted_through_all_files(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, first: int
) -> None:
    files, path = write_files(tmp_path, "txt", first=first), tmp_path / "vectors.npy"
    np.save(path, angled(ROWS))
    corpus = corpus_of(files, tokenizer, path)
    assert_texts_have_their_own(corpus, angled(ROWS))
    described = corpus.description.vectors
    assert described is not None
    assert (described.source, described.width) == (str(path), 2)
    assert described.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    np.save(path, angled(ROWS)[::-1])  # others in the same place
    assert_texts_have_their_own(corpus_of(files, tokenizer, path), angled(ROWS)[::-1])


def test_an_archive_s_members_come_in_the_order_of_their_names(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_files(tmp_path, "txt")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("p2.txt", "p10.txt"):
            archive.write(tmp_path / name, name)
    np.save(tmp_path / "vectors.npy", angled(ROWS))
    corpus = corpus_of(str(tmp_path / "all.zip"), tokenizer, tmp_path / "vectors.npy")
    assert_texts_have_their_own(corpus, angled(ROWS))


@pytest.mark.parametrize(
    ("count", "told"), [(ROWS // 2, "20 vectors, and the text has more"), (ROWS + 1, "41 vectors, and the text has 40")]
)
def test_another_number_of_vectors_than_all_files_have_rows_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, count: int, told: str
) -> None:
    files = write_files(tmp_path, "txt")
    np.save(tmp_path / "vectors.npy", angled(count))
    with pytest.raises(TextError, match=told):
        corpus_of(files, tokenizer, tmp_path / "vectors.npy")


@pytest.mark.parametrize(("kind", "atol"), [("jsonl", 1e-6), ("parquet", 1e-3)])
def test_a_column_s_vectors_are_those_of_their_rows(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, kind: str, atol: float
) -> None:
    files = write_files(tmp_path, kind)
    corpus = corpus_of(files, tokenizer, column="vector")
    assert_texts_have_their_own(corpus, angled(ROWS), atol)
    assert corpus.description.vectors is not None
    assert corpus.description.vectors.source == files


def test_a_second_file_of_another_width_is_refused_by_file_and_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    files = write_files(tmp_path, "jsonl")
    rows = [json.dumps({"text": text, "vector": [1.0, 2.0, 3.0]}) for text in TEXTS]
    (tmp_path / "p2.jsonl").write_text("\n".join(rows))
    with pytest.raises(TextError, match=r"p2\.jsonl, row 1: holds a vector of 3, and those before it are of 2"):
        corpus_of(files, tokenizer, column="vector")


def test_vectors_of_one_number_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "vector": [row - 9.5]}) for row, text in enumerate(TEXTS)))
    with pytest.raises(TextError, match=r"one\.jsonl, row 1: holds a vector of one number"):
        corpus_of(str(path), tokenizer, column="vector")
