"""Terms against plain formulas, and against what Hugging Face's own attention computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from transformers import BertModel

from homoexport.stages.distill import objective
from homoexport.stages.distill.layerwise import Projections
from tests.conftest import tiny_bert


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_hidden_error_is_the_mean_over_tokens_and_dimensions():
    student, teacher, projection = torch.randn(3, 5, 4), torch.randn(3, 5, 6), torch.randn(6, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    rows = [(student[b, s] - teacher[b, s] @ projection) for b in range(3) for s in range(5) if mask[b, s]]
    expected = torch.stack(rows).square().mean()
    torch.testing.assert_close(objective.hidden_error(teacher, student, projection, mask, 8), expected)


def test_attention_scores_are_hugging_faces_averaged_over_heads(token_batch, monkeypatch):
    """Oracle: the softmax's input in the eager attention of a random BERT."""
    config = tiny_bert(layers=1).config
    config._attn_implementation = "eager"
    model = BertModel(config).eval()
    seen = []
    plain_softmax = functional.softmax

    def spy(scores, *args, **kwargs):
        seen.append(scores)
        return plain_softmax(scores, *args, **kwargs)

    attention = model.encoder.layer[0].attention.self
    outputs = {}
    attention.query.register_forward_hook(lambda _m, _i, out: outputs.update(query=out))
    attention.key.register_forward_hook(lambda _m, _i, out: outputs.update(key=out))
    monkeypatch.setattr(functional, "softmax", spy)
    model(**token_batch)
    ours = objective.attention_scores(objective.Attention(outputs["query"], outputs["key"], 4, 8))
    mask = token_batch["attention_mask"].bool()
    pairs = mask[:, :, None] & mask[:, None, :]
    torch.testing.assert_close(ours[pairs], seen[0].mean(1)[pairs])


def test_attention_error_leaves_padding_out():
    student, teacher = torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    pairs = mask[:, :, None] & mask[:, None, :]
    expected = torch.cat([(student[0] - teacher[0]).flatten(), (student[1, :2, :2] - teacher[1, :2, :2]).flatten()])
    torch.testing.assert_close(objective.attention_error(student, teacher, pairs, 20), expected.square().mean())


def test_each_heads_attention_is_compared_as_tinybert_writes_it():
    sides = [(torch.randn(2, 4, 6), torch.randn(2, 4, 6)), (torch.randn(2, 4, 9), torch.randn(2, 4, 9))]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    pairs = mask[:, :, None] & mask[:, None, :]
    expected = []
    for head in range(3):
        of_sides = []
        for (query, key), width in zip(sides, (2, 3), strict=True):
            part = slice(head * width, (head + 1) * width)
            of_sides.append((query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width))[pairs])
        expected.append((of_sides[0] - of_sides[1]).square().mean())
    student, teacher = (objective.Attention(*side, 3, width) for side, width in zip(sides, (2, 3), strict=True))
    ours = objective.attention_heads_error(student, teacher, pairs, int(pairs.sum()))
    torch.testing.assert_close(ours, torch.stack(expected).mean())


@pytest.mark.parametrize("learner", ["states", "targets"])
def test_hidden_errors_gradients_are_autograds(learner):
    states, targets, projection = torch.randn(3, 5, 4), torch.randn(3, 5, 6), torch.randn(4, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    inputs = [{"states": states, "targets": targets}[learner].requires_grad_(), projection.requires_grad_()]
    plain = (targets - states @ projection)[mask].square().mean()
    ours = objective.hidden_error(states, targets, projection, mask, 8)
    torch.testing.assert_close(torch.autograd.grad(ours * 3, inputs), torch.autograd.grad(plain * 3, inputs))


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_scores_errors_gradients_are_autograds(with_bias):
    query, key = torch.randn(2, 4, 6, requires_grad=True), torch.randn(2, 4, 6, requires_grad=True)
    bias = torch.randn(3, 4, 4, requires_grad=True) if with_bias else None
    teacher = torch.randn(2, 4, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    pairs = mask[:, :, None] & mask[:, None, :]
    inputs = [query, key] if bias is None else [query, key, bias]
    attention = objective.Attention(query, key, 3, 2, bias)
    scores = objective.attention_scores(attention)
    plain = objective.attention_error(scores, teacher, pairs, 20)
    ours = objective.attention_scores_error(attention, teacher, pairs, 20)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours * 3, inputs), torch.autograd.grad(plain * 3, inputs))


def test_kl_is_torchs_at_temperature_one_and_grows_flat_at_a_high_one():
    student, teacher = torch.randn(7, 11), torch.randn(7, 11)
    p, q = teacher.softmax(-1), student.softmax(-1)
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(objective.logits_error(student, teacher, 7, temperature=1.0), expected)
    # Hinton et al., section 2.1: at a high temperature T²·KL tends to half the variance-like MSE of centred logits.
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = centred.square().sum(-1).mean() / (2 * 11)
    torch.testing.assert_close(objective.logits_error(student, teacher, 7, temperature=100.0), limit, rtol=1e-2, atol=0)


def test_label_loss_is_the_mean_cross_entropy():
    logits, labels = torch.randn(9, 11), torch.randint(11, (9,))
    torch.testing.assert_close(objective.label_loss(logits, labels, 9), functional.cross_entropy(logits, labels))


def test_pooling_leaves_padding_out_and_normalises():
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]])
    mean = objective.pool(states, mask, modes=["mean"])
    torch.testing.assert_close(mean[0], states[0].mean(0) / states[0].mean(0).norm())
    torch.testing.assert_close(mean[1], states[1, 0] / states[1, 0].norm())
    torch.testing.assert_close(objective.pool(states, mask, modes=["cls"])[0], states[0, 0] / states[0, 0].norm())


def test_similarity_error_is_zero_for_turned_vectors_and_a_kl_otherwise():
    teacher = functional.normalize(torch.randn(6, 8), dim=-1)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    assert objective.similarity_error(teacher @ turn, teacher, temperature=0.1).item() == pytest.approx(0, abs=1e-5)
    student = functional.normalize(torch.randn(6, 4), dim=-1)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        p = ((teacher[i] @ teacher[others].T) / 0.1).softmax(-1)
        q = ((student[i] @ student[others].T) / 0.1).softmax(-1)
        total += float((p * (p / q).log()).sum())
    assert objective.similarity_error(student, teacher, temperature=0.1).item() == pytest.approx(total / 6, rel=1e-4)


def test_match_error_reads_the_matrix_from_both_sides():
    queries, documents = (functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    same = objective.match_error((queries @ turn, documents @ turn), (queries, documents), temperature=0.1)
    assert same.item() == pytest.approx(0, abs=1e-5)
    others = tuple(functional.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    total = 0.0
    for theirs, ours in (
        (queries @ documents.T, others[0] @ others[1].T),
        (documents @ queries.T, others[1] @ others[0].T),
    ):
        p, q = (theirs / 0.1).softmax(-1), (ours / 0.1).softmax(-1)
        total += float((p * (p / q).log()).sum(-1).mean()) / 2
    error = objective.match_error(others, (queries, documents), temperature=0.1)
    assert error.item() == pytest.approx(total, rel=1e-4)


def test_one_output_is_compared_by_its_square():
    student, teacher = torch.randn(6, 1), torch.randn(6, 1)
    expected = functional.mse_loss(student, teacher)
    torch.testing.assert_close(objective.logits_error(student, teacher, 6, temperature=3.0), expected)


def test_probabilities_are_hugging_faces_averaged_over_heads(token_batch):
    """Oracle: the attention maps that a random BERT returns."""
    config = tiny_bert(layers=1).config
    config._attn_implementation = "eager"
    model = BertModel(config).eval()
    attention = model.encoder.layer[0].attention.self
    outputs = {}
    attention.query.register_forward_hook(lambda _m, _i, out: outputs.update(query=out))
    attention.key.register_forward_hook(lambda _m, _i, out: outputs.update(key=out))
    expected = model(**token_batch, output_attentions=True).attentions[0].mean(1)
    mask = token_batch["attention_mask"].bool()
    pairs = mask[:, :, None] & mask[:, None, :]
    ours = objective.attention_probabilities(objective.Attention(outputs["query"], outputs["key"], 4, 8), pairs)
    torch.testing.assert_close(ours[pairs], expected[pairs])


def test_relations_are_the_papers_written_out():
    """MiniLMv2's equations with loops over sequences, heads and tokens."""
    student, teacher = torch.randn(2, 5, 32), torch.randn(2, 5, 64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    heads = objective.relation_heads(32, 64)
    assert heads == 4  # the teacher's are 16 wide
    total = 0.0
    for row in range(2):
        length = int(mask[row].sum())
        for head in range(heads):
            distributions = []
            for projected in (student, teacher):
                width = projected.shape[-1] // heads
                part = projected[row, :length, head * width : (head + 1) * width]
                distributions.append((part @ part.T / math.sqrt(width)).softmax(-1))
            q, p = distributions
            total += float((p * (p / q).log()).sum())
    error = objective.relation_error(student, teacher, mask, tokens=8)
    assert error.item() == pytest.approx(total / (heads * 8), rel=1e-4)


@pytest.mark.parametrize(("compare_in", "axis"), [("teacher", 0), ("student", 1)])
def test_projections_start_as_the_identity_and_follow_the_students_width(compare_in, axis):
    projections = Projections(5, 3, compare_in)
    assert all(torch.equal(parameter, torch.eye(5)) for parameter in projections.parameters())
    assert [followed for _, followed in projections.followers()] == [axis] * 4
    projections.start_at_random(2)
    assert {tuple(parameter.shape) for parameter in projections.parameters()} == {(2, 5) if axis == 0 else (5, 2)}
    assert all(0.3 < column.norm() < 3 for parameter in projections.parameters() for column in parameter.T)


def test_pooling_goes_through_the_layers_behind_it():
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]])
    layer = torch.nn.Linear(4, 6)
    found = objective.pool(states, mask, modes=["mean"], dense=lambda pooled: layer(pooled).tanh())
    expected = layer(torch.stack([states[0].mean(0), states[1, 0]])).tanh()
    torch.testing.assert_close(found, functional.normalize(expected, dim=-1))
