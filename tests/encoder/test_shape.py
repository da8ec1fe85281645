"""Students' shapes: completed from the teacher, refused where slicing cannot reach them."""

from __future__ import annotations

import pytest

from homoexport.encoder import Widths, count_parameters, target_widths
from homoexport.errors import ShapeError
from tests.conftest import tiny_bert

BERT_BASE = Widths(768, 3072, (12,) * 12, 64)


@pytest.mark.parametrize(
    ("hidden", "heads", "expected"),
    [
        (576, 12, Widths(576, 2304, (12,) * 12, 48)),
        (256, 8, Widths(256, 1024, (8,) * 12, 32)),
        (240, 12, Widths(240, 960, (12,) * 12, 20)),
        (224, 7, Widths(224, 896, (7,) * 12, 32)),
        (256, None, Widths(256, 1024, (4,) * 12, 64)),
        (240, None, Widths(240, 960, (12,) * 12, 20)),
    ],
)
def test_shapes_of_the_paper(hidden, heads, expected):
    assert target_widths(BERT_BASE, hidden_size=hidden, num_attention_heads=heads) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden_size": 1024}, "hidden_size 1024 is wider than the teacher's 768"),
        ({"hidden_size": 256, "intermediate_size": 4000}, "intermediate_size 4000 is wider"),
        ({"hidden_size": 250, "num_attention_heads": 12}, "not divisible into 12 heads"),
        ({"hidden_size": 256, "num_attention_heads": 16}, "num_attention_heads 16 is wider"),
        ({"hidden_size": 256, "num_attention_heads": 2}, "the width of a head 128 is wider"),
    ],
)
def test_refused_shapes_say_why(arguments, words):
    with pytest.raises(ShapeError, match=words):
        target_widths(BERT_BASE, **arguments)


def test_parameters_count_shared_ones_once():
    model = tiny_bert(masked_lm=True)
    assert count_parameters(model) == sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())
