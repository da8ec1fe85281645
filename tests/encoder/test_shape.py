"""Students' shapes: completed from the teacher, refused where slicing cannot reach them; the seed's four students."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from homoexport.choices import PruneGroup
from homoexport.encoder import Widths, count_parameters, family_of, parameter_counts, slice_model, target_widths
from homoexport.errors import ShapeError
from tests.conftest import tiny_bert
from tests.encoder.oracle import fill_by_hand, outputs, random_keep

BERT_BASE = Widths(768, 3072, (12,) * 12, 64)
ALL = get_args(PruneGroup)
STUDENTS = {
    "base": (Widths(576, 2304, (12,) * 12, 48), 17.6, 47.8),
    "small": (Widths(256, 1024, (8,) * 12, 32), 7.8, 9.4),
    "xsmall": (Widths(240, 960, (12,) * 12, 20), 7.3, 8.3),
    "tiny": (Widths(224, 896, (7,) * 12, 32), 6.8, 7.2),
}  # HomoBERT (arXiv 2302.09632, table 1): widths, and millions of parameters in word vectors and in layers


def widths_of(teacher: Widths = BERT_BASE, prune: tuple[str, ...] = ALL, **arguments: object) -> Widths:
    shape = {"hidden_size": None, "intermediate_size": None, "num_attention_heads": None, **arguments}
    return target_widths(teacher, prune=prune, **shape)


@pytest.mark.parametrize("student", STUDENTS)
def test_shapes_of_the_paper(student):
    expected = STUDENTS[student][0]
    assert widths_of(hidden_size=expected.hidden_size, num_attention_heads=expected.heads[0]) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, BERT_BASE),
        ({"hidden_size": 256}, Widths(256, 1024, (4,) * 12, 64)),
        ({"hidden_size": 240}, Widths(240, 960, (12,) * 12, 20)),
        ({"hidden_size": 576, "num_attention_heads": 9}, Widths(576, 2304, (9,) * 12, 64)),
        ({"hidden_size": 576, "prune": ("hidden", "ffn", "head-width")}, Widths(576, 2304, (12,) * 12, 48)),
        ({"hidden_size": 576, "prune": ("hidden", "ffn", "heads")}, Widths(576, 2304, (9,) * 12, 64)),
        ({"hidden_size": 576, "prunes_head_width": False}, Widths(576, 2304, (9,) * 12, 64)),
        ({"hidden_size": 384, "prune": ("hidden", "heads")}, Widths(384, 3072, (6,) * 12, 64)),
        ({"intermediate_size": 1000, "prune": ("ffn",)}, Widths(768, 1000, (12,) * 12, 64)),
        ({"num_hidden_layers": 6}, Widths(768, 3072, (12,) * 6, 64)),
        ({"hidden_size": 256, "num_hidden_layers": 3, "prune": ALL}, Widths(256, 1024, (4,) * 3, 64)),
    ],
)
def test_what_is_left_out_follows_the_teacher(arguments, expected):
    assert widths_of(**arguments) == expected


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
        widths_of(**arguments)


def test_parameters_count_shared_ones_once():
    model = tiny_bert(masked_lm=True)
    assert count_parameters(model) == sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())
    counts = parameter_counts(model, family_of(model.config))
    assert (counts.embedding, counts.total) == (100 * 32, count_parameters(model))


def _config_of(widths: Widths, **settings: int) -> BertConfig:
    return BertConfig(
        hidden_size=widths.hidden_size,
        intermediate_size=widths.intermediate_size,
        num_attention_heads=widths.heads[0],
        num_hidden_layers=widths.num_hidden_layers,
        **settings,
    )


@pytest.mark.parametrize(
    ("widths", "embedding", "backbone"), [(BERT_BASE, 23.4, 85.1), *STUDENTS.values()], ids=["teacher", *STUDENTS]
)
def test_parameters_of_the_paper(widths, embedding, backbone):
    """The teacher's 85.5 M of the paper hold something beside its layers."""
    with torch.device("meta"):
        model = BertForMaskedLM(_config_of(widths))
    counts = parameter_counts(model, family_of(model.config))
    assert counts.embedding / 1e6 == pytest.approx(embedding, abs=0.1)
    assert counts.backbone / 1e6 == pytest.approx(backbone, abs=0.1)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def bert_base() -> BertForMaskedLM:
    """BERT-base's shape but for its vocabulary, with random weights."""
    torch.manual_seed(0)
    return BertForMaskedLM(_config_of(BERT_BASE, vocab_size=100, max_position_embeddings=64)).eval()


@pytest.mark.parametrize("student", STUDENTS)
def test_students_of_the_paper_are_stock(student, bert_base, tmp_path, token_batch):
    target = STUDENTS[student][0]
    model = copy.deepcopy(bert_base)
    family = family_of(model.config)
    keep = random_keep(model, target.hidden_size, target.intermediate_size, target.heads[0], target.head_dim)
    filled = fill_by_hand(model, keep, kind="bert", old_head_dim=64)
    slice_model(model, family, keep)
    family.write_config(model.config, target)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert family.widths(loaded) == target
    answers = outputs(model, token_batch)
    torch.testing.assert_close(outputs(loaded.eval(), token_batch), answers, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs(filled, token_batch), answers, rtol=0, atol=1e-5)
