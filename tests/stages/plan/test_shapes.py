"""Shapes of teachers whose heads do not make up the hidden size."""

from __future__ import annotations

from pathlib import Path

import pytest

from homoexport.documents.recipe import DistillSettings
from homoexport.encoder import Encoder, Pooling, family_of, parameters_at, start_from_scratch
from homoexport.stages.plan.planner import _parameter_counter
from homoexport.stages.plan.shapes import candidates
from homoexport.stages.plan.table import shapes_to_measure
from tests.conftest import tiny_tokenizer
from tests.grouped import KINDS, grouped

SETTINGS = DistillSettings(objective="sentence-embedding", steps=1, batch_size=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_is_one_that_a_stock_model_can_have(kind):
    encoder = Encoder(grouped(kind), tiny_tokenizer(), "sentence-similarity", Pooling(), Path(), kind)
    family = family_of(encoder.model.config)
    teacher = family.widths(encoder.model).shape
    shapes = candidates(encoder, SETTINGS)
    assert teacher in shapes
    divides = {8, 4, 2} if "gemma3" in kind else {8, 6, 4, 2}  # Gemma's config asks for that
    assert {shape.num_attention_heads for shape in shapes} == divides
    assert {shape.hidden_size for shape in shapes} == {8, 16, 32}
    assert {shape.head_dim for shape in shapes} == {teacher.head_dim}
    small = shapes_to_measure(shapes)
    assert {(shape.hidden_size, shape.num_attention_heads) for shape in small} <= {
        (shape.hidden_size, shape.num_attention_heads) for shape in shapes
    }
    for shape in (*shapes[:: len(shapes) // 5], *small[:3]):
        assert family.widths(start_from_scratch(encoder.model, family, shape)).shape == shape
    count = _parameter_counter(encoder, shapes)
    assert all(count(shape) == parameters_at(encoder.model, family, shape) for shape in shapes[::7])
