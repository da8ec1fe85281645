"""What is recorded of a student's neurons: where each stood in the teacher, whichever way it was pruned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from homoexport.documents.artifact import DistilledManifest
from homoexport.documents.student import bits_of, places_in
from homoexport.stages.distill import Run
from homoexport.workflow.distill import distill
from tests.stages.distill.test_loop import SHAPE, run_of, settings_of, text_of

STILL = 1e-12  # a learning rate by which nothing moves
WAYS = {
    "step by step": {"method": "homodistil"},
    "at once": {"method": "one-shot"},
    "layer by layer": {"method": "homodistil", "num_hidden_layers": 1},
    "every other layer": {"method": "layers", "num_hidden_layers": 1},
}


def still_run(folder: Path, corpus_file: Path, *, num_hidden_layers: int = 2, method: str) -> Run:
    settings = settings_of("sentence-embedding", method=method, learning_rate=STILL, repair=False)
    widths = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    run, batches = run_of(folder, corpus_file, settings, num_hidden_layers=num_hidden_layers, **widths)
    while not run.finished:
        run.advance(batches.of_step(run.step))
    return run


def left(bits: str, count: int) -> list[int]:
    return np.flatnonzero(places_in(bits, count)).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_the_students_weights_are_the_teachers_at_the_places(tiny_folder, corpus_file, way):
    run = still_run(tiny_folder(), corpus_file, **WAYS[way])
    kept, whole = run.kept(), run.family.widths(run.teacher)
    hidden = left(kept.hidden, whole.hidden_size)
    assert len(hidden) == 16
    teacher, student = run.teacher.state_dict(), run.student.state_dict()
    words = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(student[words], teacher[words][:, hidden])
    assert len(kept.layers) == run.widths.num_hidden_layers
    for index, layer in enumerate(kept.layers):
        ours, theirs = f"encoder.layer.{index}", f"encoder.layer.{layer.layer}"
        ffn = left(layer.ffn, whole.intermediate_size)
        value = left(layer.value_out, whole.hidden_size)
        assert len(ffn) == 24
        for name, rows in (("intermediate.dense.weight", ffn), ("attention.self.value.weight", value)):
            expected = teacher[f"{theirs}.{name}"][rows][:, hidden]
            torch.testing.assert_close(student[f"{ours}.{name}"], expected)
        # The softmax scale of heads that became narrower is folded into the query.
        query = teacher[f"{theirs}.attention.self.key.weight"][left(layer.query_key, whole.hidden_size)][:, hidden]
        torch.testing.assert_close(student[f"{ours}.attention.self.key.weight"], query)


def test_a_resumed_run_knows_them_too(tiny_folder, corpus_file):
    folder = tiny_folder()
    settings = settings_of("sentence-embedding", method="homodistil")
    run, batches = run_of(folder, corpus_file, settings)
    for step in range(5):
        run.advance(batches.of_step(step))
    other, _ = run_of(folder, corpus_file, settings)
    other.restore(run.state())
    assert other.kept() == run.kept()
    assert other.kept() != run_of(folder, corpus_file, settings)[0].kept()


def test_a_student_that_began_at_random_has_none(tiny_folder, corpus_file):
    assert still_run(tiny_folder(), corpus_file, method="from-scratch").kept() is None


def test_the_manifest_has_them(tiny_folder, corpus_file, tmp_path):
    settings = settings_of("sentence-embedding")
    made = distill(str(tiny_folder()), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=tmp_path / "s")
    assert isinstance(made, DistilledManifest)
    assert sum(places_in(made.details.kept.layers[0].ffn, 64)) == 24


@pytest.mark.parametrize("places", [[], [0], [9], [3, 8, 9]])
def test_bits_are_read_as_they_were_written(places):
    assert [place for place, is_left in enumerate(places_in(bits_of(places, 10), 10)) if is_left] == places
    assert places_in("", 3) == [False] * 3  # too short, in a stranger's file
