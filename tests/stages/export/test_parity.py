"""What passes and what does not, against graphs whose answers are written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from transformers import BertConfig, BertForSequenceClassification

from homoexport.encoder import load_encoder
from homoexport.stages.export.ladder import Batch, Batches, known_texts, make_batches
from homoexport.stages.export.parity import check_invariance, check_parity
from tests.conftest import tiny_tokenizer


def graph_of(path: Path, answers: np.ndarray) -> Path:
    """A graph that gives `answers` [N, C] or [N, S, C] for the rows that `input_ids` [B, 1] names."""
    shape = ["batch", *answers.shape[1:]]
    nodes = [
        helper.make_node("Squeeze", ["input_ids", "axis"], ["rows"]),
        helper.make_node("Gather", ["answers", "rows"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(answers, "answers"), numpy_helper.from_array(np.array([1]), "axis")]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "rows", inputs, outputs, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def batches_of(expected: np.ndarray, mask: np.ndarray | None = None) -> list[Batch]:
    """Two batches, of the first row and of all others."""
    rows = np.arange(len(expected))[:, None]
    mask = np.ones_like(rows) if mask is None else mask
    parts = [slice(0, 1), slice(1, None)]
    return [Batch({"input_ids": rows[at]}, {"logits": expected[at]}, mask[at].astype(bool)) for at in parts]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def flipped(logits: np.ndarray, count: int) -> np.ndarray:
    """Another likeliest label for the first texts, at nearly the same logits."""
    close = logits.copy()
    close[:, 0] = close[:, 1:].max(axis=1) + 1e-3
    moved = close.copy()
    moved[:count, 0] -= 2e-3
    return np.stack([close, moved])


@pytest.mark.parametrize(("flips", "passed"), [(4, True), (8, False)])
def test_share_of_labels_that_stay_is_what_int8_is_held_to(tmp_path, logits, flips, passed):
    expected, actual = flipped(logits, flips)
    file = graph_of(tmp_path / "graph.onnx", actual)
    parity = check_parity(file, batches_of(expected), task="text-classification", precision="int8")
    assert parity.top1_agreement == pytest.approx(1 - flips / 40)
    assert (parity.passed, parity.mean_cosine > 0.999) == (passed, True)
    assert not check_parity(file, batches_of(expected), task="text-classification", precision="fp32").passed


def test_graph_that_knows_one_label_alone_does_not_pass_on_texts_of_that_label(tmp_path, logits):
    logits[:, 0] = 5
    file = graph_of(tmp_path / "graph.onnx", np.tile(np.float32([5, -5, -5]), (40, 1)))
    parity = check_parity(file, batches_of(logits), task="text-classification", precision="int8")
    assert (parity.top1_agreement, parity.passed) == (1.0, False)


def test_padding_does_not_count_for_token_labels(tmp_path):
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(6, 4, 3)).astype(np.float32)
    mask = (np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]).astype(np.int64)
    actual = np.where(mask[..., None] == 1, expected, -expected)
    file = graph_of(tmp_path / "graph.onnx", actual)
    parity = check_parity(file, batches_of(expected, mask), task="token-classification", precision="fp32")
    assert (parity.passed, parity.top1_agreement, parity.max_difference) == (True, 1.0, 0.0)


def test_a_text_between_two_labels_is_no_alarm(tmp_path, logits):
    expected = logits[:, :1] * np.float32([1, -1])
    expected[:8] = np.float32([0.01, -0.01])  # by itself a step of 0.02 turns such a row about
    actual = expected - np.float32([0.02, -0.02])
    file = graph_of(tmp_path / "graph.onnx", actual)
    parity = check_parity(file, batches_of(expected), task="text-classification", precision="int8")
    assert (parity.passed, parity.mean_cosine) == (False, pytest.approx(1, abs=1e-3)), "for too many labels change"
    file = graph_of(tmp_path / "graph.onnx", np.where(np.arange(40)[:, None] < 4, actual, expected))
    parity = check_parity(file, batches_of(expected), task="text-classification", precision="int8")
    assert (parity.passed, parity.top1_agreement) == (True, 0.9)


def test_scores_of_one_label_are_held_together(tmp_path, logits):
    scores = logits[:, :1] + 10  # all of one sign and size: each by itself has a cosine of 1 with anything
    noise = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    for scale, passed in [(0.01, True), (1.0, False)]:
        actual = scores + scale * noise
        file = graph_of(tmp_path / "graph.onnx", actual)
        parity = check_parity(file, batches_of(scores), task="text-classification", precision="int8")
        centre = scores.mean()
        ours, theirs = (actual - centre)[:, 0], (scores - centre)[:, 0]
        expected = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert parity.mean_cosine == parity.min_cosine == pytest.approx(expected, abs=1e-5)
        assert (parity.passed, parity.top1_agreement) == (passed, None)


def test_even_one_short_text_is_checked_in_a_batch_and_to_the_last_position(tiny_encoder):
    encoder = tiny_encoder("feature-extraction")
    batches = make_batches(encoder, ["w1 w2"], max_length=64)
    shapes = [batch.tokens["input_ids"].shape for batch in batches.all]
    assert [batch.tokens["input_ids"].shape for batch in batches.few] == [(1, 4), (1, 4), (3, 4), (2, 64)]
    assert (2, 64) in shapes
    assert shapes[0] == (1, 4)


def test_answers_of_the_target_are_held_to_the_same_bounds(tmp_path, logits):
    def answer(file: Path, batches: object) -> list[np.ndarray]:
        assert file == tmp_path / "graph.onnx"
        return [sign * logits[batch["input_ids"][:, 0]] for batch in batches]

    for sign in (1, -1):
        file = tmp_path / "graph.onnx"
        parity = check_parity(file, batches_of(logits), task="text-classification", precision="int8", answer=answer)
        assert (parity.passed, parity.mean_cosine > 0.9) == (sign == 1, sign == 1)


def test_a_text_that_its_neighbours_change_is_told(tmp_path):
    """A graph that adds the batch's largest token id to every answer."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ids"], ["largest"], keepdims=0),
        helper.make_node("Add", ["ids", "largest"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", 1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])]
    graph = helper.make_graph(nodes, "neighbours", inputs, outputs)
    file = tmp_path / "graph.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)

    def batch(*numbers: int) -> Batch:
        ids = np.array(numbers)[:, None]
        return Batch({"input_ids": ids}, {"logits": ids.astype(np.float32)}, ids > 0)

    ones, company = tuple(batch(number) for number in (1, 2, 5)), (batch(1, 1),)
    batches = Batches(singles=ones, eights=(batch(1, 2, 5),), mixed=company, short_one=batch(1))
    told = check_invariance(file, batches, task="text-classification")
    assert (told.texts, told.max_difference, told.min_cosine) == (4, 4.0, None)
    same = Batches(singles=ones[2:], eights=(batch(5),), mixed=company, short_one=batch(1))
    assert check_invariance(file, same, task="text-classification").max_difference == 0.0
    alone = Batches(singles=ones[:1], eights=(batch(1),), mixed=(batch(1, 5),), short_one=batch(1))
    assert check_invariance(file, alone, task="text-classification").max_difference == 4.0


def test_labels_that_are_decisions_of_their_own_are_held_one_by_one(tmp_path):
    expected = np.full((40, 20), -4, np.float32)
    expected[:, 5] = 0.15
    actual = expected.copy()
    actual[:10, 5] = -0.15  # the likeliest label all the same
    file = graph_of(tmp_path / "graph.onnx", actual)
    arguments = {"task": "text-classification", "precision": "int8"}
    single = batches_of(expected)
    several = [replace(batch, multi_label=True) for batch in single]
    assert check_parity(file, single, **arguments).top1_agreement == 1.0
    parity = check_parity(file, several, **arguments)
    assert (parity.top1_agreement, parity.passed) == (0.75, False)


def test_scores_that_are_all_alike_pass_where_they_are_the_same(tmp_path):
    scores = np.full((40, 1), 0.3, np.float32)
    file = graph_of(tmp_path / "graph.onnx", scores)
    assert check_parity(file, batches_of(scores), task="text-classification", precision="fp32").passed
    wrong = graph_of(tmp_path / "wrong.onnx", scores + 0.1)
    assert not check_parity(wrong, batches_of(scores), task="text-classification", precision="fp32").passed


def test_masked_language_models_are_asked_for_masks_the_same_ones_alone_and_together(tiny_encoder):
    encoder = tiny_encoder("fill-mask")
    batches = make_batches(encoder, ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13", "w20 w21"], max_length=64)
    together, alone = batches.eights[0], batches.singles
    mask = encoder.tokenizer.mask_token_id
    assert together.counted.sum(axis=1).tolist() == [2, 1]
    assert ((together.tokens["input_ids"] == mask) == together.counted).all()
    for row, one in enumerate(alone):
        width = one.counted.shape[1]
        np.testing.assert_array_equal(one.tokens["input_ids"][0], together.tokens["input_ids"][row, :width])
        assert not together.counted[row, width:].any()


def test_classifiers_of_pairs_are_given_pairs(tmp_path):
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    tokenizer.save_pretrained(tmp_path)
    batches = make_batches(load_encoder(str(tmp_path)), ["w1 w2", "w3", "w4 w5 w6"], max_length=32)
    assert any(batch.tokens["token_type_ids"].any() for batch in batches.mixed)


def test_text_whose_tokens_are_unknown_gives_way_to_the_tokenizers_own_words():
    tokenizer = tiny_tokenizer()
    english = ["A cat sat on the mat.", "Why?"]
    texts = known_texts(tokenizer, english)
    assert len(texts) == 2
    assert tokenizer.unk_token_id not in [one for row in tokenizer(texts)["input_ids"] for one in row]
    assert known_texts(tokenizer, ["w1 w2", "w3 and"]) == ["w1 w2", "w3 and"]
