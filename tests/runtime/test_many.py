"""Many texts through a package: the answers of each text by itself, in order, within bounds, ended in time."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import PackageError, UserError
from homoexport.runtime import many
from homoexport.runtime.inference import Package, open_package
from homoexport.runtime.many import answers_of, open_streams
from tests.runtime.test_session import ended_by, endless
from tests.stages.measure.tiny_onnx import weights, write_package

TEXTS = [" ".join(f"w{(row * 7 + word) % 59}" for word in range(row * row % 13)) for row in range(200)]


def vectors_of(streams: list[Package], texts, width: int = 16, batch_size: int = 4) -> np.ndarray:
    return np.concatenate(list(answers_of(streams, texts, Package.vectors_of, width=width, batch_size=batch_size)))


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("batches", [1, 5, 128])
def test_each_text_has_its_own_vector_in_its_place(tmp_path: Path, monkeypatch, streams, batches):
    monkeypatch.setattr(many, "_BATCHES", batches)
    folder = write_package(tmp_path / "package")
    alone = [open_package(folder).embed([text])[0] for text in TEXTS[:20]]
    found = vectors_of(open_streams(folder, streams=streams), iter(TEXTS))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:20], alone, atol=1e-6)
    np.testing.assert_allclose(found, open_package(folder).embed(TEXTS), atol=1e-6)


def test_texts_of_like_length_go_together(tmp_path: Path):
    (package,) = open_streams(write_package(tmp_path / "package"), streams=1)
    shapes = []

    def ask(package: Package, tokens):
        shapes.append(tokens["input_ids"].shape)
        return package.vectors_of(tokens)

    list(answers_of([package], ["w1", "w1 w2 w3 w4", "w2", "w4 w3 w2 w1"], ask, width=16, batch_size=2))
    assert shapes == [(2, 3), (2, 6)]


def test_no_more_texts_are_taken_than_some_windows_hold(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(many, "_BATCHES", 2)
    taken = []

    def texts():
        for number in range(1000):
            taken.append(number)
            yield "w1"

    answers = answers_of(
        open_streams(write_package(tmp_path / "package"), streams=2),
        texts(),
        Package.vectors_of,
        width=16,
        batch_size=4,
    )
    for given, answer in enumerate(answers, start=1):
        assert len(answer) == 8
        assert len(taken) <= (given + many._AHEAD) * 8


def test_long_texts_make_small_windows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(many, "_CHARACTERS", 10)
    streams = open_streams(write_package(tmp_path / "package"), streams=1)
    answers = answers_of(streams, ["w1 w2 w3 w4", "w1", "w2 w3 w4", "w5"], Package.vectors_of, width=16)
    assert [len(answer) for answer in answers] == [1, 2, 1]


def test_what_is_not_finite_or_of_another_width_is_refused(tmp_path: Path):
    arrays = weights()
    arrays["embedding"][5] = np.nan
    streams = open_streams(write_package(tmp_path / "package", arrays=arrays), streams=2)
    with pytest.raises(PackageError, match="not finite"):
        vectors_of(streams, ["w1", "w0"])
    streams = open_streams(write_package(tmp_path / "other"), streams=2)
    with pytest.raises(PackageError, match="not of 15 numbers"):
        vectors_of(streams, ["w1"], width=15)


def test_numbers_below_one_are_refused(tmp_path: Path):
    folder = write_package(tmp_path / "package")
    with pytest.raises(UserError, match="0 streams"):
        open_streams(folder, streams=0)
    with pytest.raises(UserError, match="a batch of 0"):
        vectors_of(open_streams(folder, streams=1), ["w1"], batch_size=0)


def test_what_goes_wrong_with_the_texts_ends_the_threads(tmp_path: Path):
    def texts():
        yield from ["w1"] * 40
        raise UserError("no more")

    before = set(threading.enumerate())
    with pytest.raises(UserError, match="no more"):
        vectors_of(open_streams(write_package(tmp_path / "package"), streams=2), texts())
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs_in_other_threads(tmp_path: Path, number):
    folder = write_package(tmp_path / "package")
    onnx.save(endless(), folder / "onnx" / "model.onnx")
    write_manifest(folder, "package", details=read_manifest(folder, PackageManifest).details)
    streams = open_streams(folder, streams=2)
    before = set(threading.enumerate())
    with ended_by(number):
        vectors_of(streams, ["w1", "w2 w3"] * 40)
    assert set(threading.enumerate()) <= before
