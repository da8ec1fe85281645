"""Parameters of shapes, and the seed's four students as stock models."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from homoexport.encoder import count_parameters, family_of, parameter_counts, slice_model
from homoexport.shape import Shape, Widths
from tests.conftest import tiny_bert
from tests.encoder.oracle import fill_by_hand, outputs, random_keep

BERT_BASE = Shape(12, 768, 3072, 12)
STUDENTS = {
    "base": (Shape(12, 576, 2304, 12), 17.6, 47.8),
    "small": (Shape(12, 256, 1024, 8), 7.8, 9.4),
    "xsmall": (Shape(12, 240, 960, 12), 7.3, 8.3),
    "tiny": (Shape(12, 224, 896, 7), 6.8, 7.2),
}  # HomoBERT (arXiv 2302.09632, table 1): widths, and millions of parameters in word vectors and in layers


def test_parameters_count_shared_ones_once():
    model = tiny_bert(masked_lm=True)
    assert count_parameters(model) == sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())
    counts = parameter_counts(model, family_of(model.config))
    assert (counts.embedding, counts.total) == (100 * 32, count_parameters(model))


def _config_of(shape: Shape, **settings: int) -> BertConfig:
    return BertConfig(**asdict(shape), **settings)


@pytest.mark.parametrize(
    ("shape", "embedding", "backbone"), [(BERT_BASE, 23.4, 85.1), *STUDENTS.values()], ids=["teacher", *STUDENTS]
)
def test_parameters_of_the_paper(shape, embedding, backbone):
    """The teacher's 85.5 M of the paper hold something beside its layers."""
    with torch.device("meta"):
        model = BertForMaskedLM(_config_of(shape))
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
    keep = random_keep(model, target.hidden_size, target.intermediate_size, target.num_attention_heads, target.head_dim)
    filled = fill_by_hand(model, keep, kind="bert", old_head_dim=64)
    slice_model(model, family, keep)
    family.write_config(model.config, target)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert family.widths(loaded) == Widths.of(target)
    answers = outputs(model, token_batch)
    torch.testing.assert_close(outputs(loaded.eval(), token_batch), answers, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs(filled, token_batch), answers, rtol=0, atol=1e-5)
