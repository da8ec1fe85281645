"""Shapes: completed from the teacher's, refused where slicing cannot reach them; widths of live models."""

from __future__ import annotations

from typing import get_args

import pytest

from homoexport.choices import PruneGroup
from homoexport.documents.recipe import SEED_STUDENTS
from homoexport.errors import ShapeError
from homoexport.shape import PartialShape, Shape, Widths, complete_shape, spread_heads

BERT_BASE = Shape(12, 768, 3072, 12)
ALL = get_args(PruneGroup)


def completed(prune: tuple[str, ...] = ALL, prunes_head_width: bool = True, **asked: int) -> Shape:
    return complete_shape(PartialShape(**asked), BERT_BASE, prune=prune, prunes_head_width=prunes_head_width)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("base", Shape(12, 576, 2304, 12)),
        ("small", Shape(12, 256, 1024, 8)),
        ("xsmall", Shape(12, 240, 960, 12)),
        ("tiny", Shape(12, 224, 896, 7)),
    ],
)
def test_shapes_of_the_paper(student, expected):
    assert complete_shape(SEED_STUDENTS[student], BERT_BASE, prune=ALL) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, BERT_BASE),
        ({"hidden_size": 256}, Shape(12, 256, 1024, 4)),
        ({"hidden_size": 240}, Shape(12, 240, 960, 12)),
        ({"hidden_size": 576, "num_attention_heads": 9}, Shape(12, 576, 2304, 9)),
        ({"hidden_size": 576, "prune": ("hidden", "ffn", "head-width")}, Shape(12, 576, 2304, 12)),
        ({"hidden_size": 576, "prune": ("hidden", "ffn", "heads")}, Shape(12, 576, 2304, 9)),
        ({"hidden_size": 576, "prunes_head_width": False}, Shape(12, 576, 2304, 9)),
        ({"hidden_size": 384, "prune": ("hidden", "heads")}, Shape(12, 384, 3072, 6)),
        ({"intermediate_size": 1000, "prune": ("ffn",)}, Shape(12, 768, 1000, 12)),
        ({"num_hidden_layers": 6}, Shape(6, 768, 3072, 12)),
        ({"hidden_size": 256, "num_hidden_layers": 3, "prune": ALL}, Shape(3, 256, 1024, 4)),
    ],
)
def test_what_is_left_out_follows_the_teacher(arguments, expected):
    assert completed(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden_size": 1024}, "hidden_size 1024 is wider than the teacher's 768"),
        ({"hidden_size": 256, "intermediate_size": 4000}, "intermediate_size 4000 is wider"),
        ({"hidden_size": 250, "num_attention_heads": 12}, "not divisible into 12 heads; the nearest that is: 252"),
        ({"hidden_size": 250}, "not divisible into 12 heads, nor into heads of 64"),
        ({"hidden_size": 250, "prunes_head_width": False}, "not divisible into heads of 64; the nearest that is: 256"),
        ({"hidden_size": 256, "num_attention_heads": 16}, "num_attention_heads 16 is wider"),
        ({"hidden_size": 256, "num_attention_heads": 2}, "the width of a head 128 is wider"),
        ({"num_hidden_layers": 13}, "num_hidden_layers 13 is more than the teacher's 12"),
        ({"hidden_size": 256, "prune": ("ffn", "heads")}, "but hidden is not in distill.prune; add hidden"),
        ({"intermediate_size": 256, "prune": ("hidden",)}, "but ffn is not in distill.prune"),
        ({"hidden_size": 576, "prune": ("hidden", "ffn")}, "but head-width is not in distill.prune"),
        ({"hidden_size": 128, "prune": ("hidden", "head-width"), "num_attention_heads": 4}, "but heads is not in"),
        ({"hidden_size": 320, "prune": ("hidden",)}, "but heads is not in distill.prune"),
        ({"hidden_size": 576, "num_attention_heads": 12, "prunes_head_width": False}, "heads of 48: .* keep .* 64"),
    ],
)
def test_refused_shapes_say_why(arguments, words):
    with pytest.raises(ShapeError, match=words):
        completed(**arguments)


def test_a_complete_shape_asks_for_itself():
    shape = Shape(6, 192, 768, 6)
    assert complete_shape(PartialShape.of(shape), BERT_BASE, prune=ALL) == shape
    assert (Widths.of(shape).shape, shape.head_dim, shape.name) == (shape, 32, "6 x 192/768, 6 heads")


@pytest.mark.parametrize(("total", "expected"), [(6, (2, 2, 2)), (7, (3, 2, 2)), (8, (3, 3, 2))])
def test_heads_are_spread_evenly(total, expected):
    assert spread_heads(total, 3) == expected


def test_widths_are_compared_by_what_there_is_of_each():
    wide, narrow = Widths(8, 16, (2, 1), 4), Widths(4, 16, (1, 2), 2)
    assert wide.exceeds(narrow)
    assert not narrow.exceeds(wide)
    assert not wide.exceeds(wide)
    assert narrow.at_most(wide) == Widths(4, 16, (2, 1), 2)
    assert narrow.at_least(wide) == wide
