"""Files of vectors, written as these come."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from homoexport.errors import TextError, UserError
from homoexport.runtime.vectors_file import check_output, vectors_file

PARTS = [np.random.default_rng(number).normal(size=(number, 5)).astype(np.float32) for number in (3, 1, 4)]
WHOLE = np.concatenate(PARTS)


def write(output, *, named: bool = False, names=range(8)) -> None:
    names = iter(names)
    with vectors_file(output, 5, named=named) as file:
        for part in PARTS:
            file.write(part, [next(names) for _ in part])


def test_an_npy_file_is_what_numpy_would_have_written(tmp_path: Path):
    write(tmp_path / "new" / "vectors.npy")
    np.save(tmp_path / "numpys.npy", WHOLE)
    assert (tmp_path / "new/vectors.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


def test_no_vectors_are_a_file_too(tmp_path: Path):
    for name in ("vectors.npy", "vectors.parquet"):
        with vectors_file(tmp_path / name, 5, named=True):
            pass
    assert np.load(tmp_path / "vectors.npy").shape == (0, 5)
    table = pyarrow.parquet.read_table(tmp_path / "vectors.parquet")
    assert (table.num_rows, table.column_names) == (0, ["row", "id", "vector"])


@pytest.mark.parametrize(
    ("names", "expected"), [(range(8), list(range(8))), ([None, *"abcdefg"], [None, *"abcdefg"]), (None, None)]
)
def test_a_table_has_rows_and_names(tmp_path: Path, names, expected):
    write(tmp_path / "vectors.parquet", named=names is not None, names=names or range(8))
    table = pyarrow.parquet.read_table(tmp_path / "vectors.parquet")
    assert table["row"].to_pylist() == list(range(8))
    assert ("id" in table.column_names) == (names is not None)
    if names is not None:
        assert table["id"].to_pylist() == expected
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), WHOLE)
    assert table["vector"].type.list_size == 5


@pytest.mark.parametrize("names", [[1, "a", 2, 3, 4, 5, 6, 7], [0, 1, 2, "a", 4, 5, 6, 7], [1.5] * 8, [True] * 8])
def test_names_of_several_kinds_are_refused(tmp_path: Path, names):
    with pytest.raises(TextError, match="ids are"):
        write(tmp_path / "vectors.parquet", named=True, names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_half_of_a_file_is_not_left_and_the_old_one_stays(tmp_path: Path, name):
    def half() -> None:
        with vectors_file(tmp_path / name, 5) as file:
            file.write(PARTS[0], [0, 1, 2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        half()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_stream_gets_the_whole_file_or_nothing():
    def half() -> None:
        with vectors_file(stream, 5) as file:
            file.write(PARTS[0], [0, 1, 2])
            raise KeyboardInterrupt

    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        half()
    assert stream.getvalue() == b""
    write(stream)
    np.testing.assert_array_equal(np.load(io.BytesIO(stream.getvalue())), WHOLE)


def test_outputs_that_cannot_be_meant(tmp_path: Path):
    for output, named, told in (
        (tmp_path, False, "is a folder"),
        (tmp_path / "vectors.csv", False, "'.csv' is no kind of file"),
        (tmp_path / "vectors.npy", True, "takes no ids"),
        (io.BytesIO(), True, "stdout: takes no ids"),
    ):
        with pytest.raises(UserError, match=told):
            check_output(output, named=named)
    check_output(Path("/dev/null"), named=False)
