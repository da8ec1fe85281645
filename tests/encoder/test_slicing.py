"""Slicing real weights, in steps, unevenly, and with an optimizer; `test_families` slices every family."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from homoexport.encoder import Group, Keep, Pooling, family_of, load_encoder, slice_model
from homoexport.shape import Widths
from tests.conftest import BERT_TINY, MINILM, tiny_bert
from tests.encoder.oracle import fill_by_hand, outputs, random_keep
from tests.encoder.weights import MPNET, needs_mpnet


@pytest.mark.weights
@pytest.mark.parametrize(
    ("source", "hidden", "ffn", "heads", "head_dim"),
    [(MINILM, 192, 768, 6, 32), (MINILM, 192, 700, 12, 16), (BERT_TINY, 64, 256, 2, 32), (BERT_TINY, 64, 100, 1, 64)],
)
def test_slice_of_real_weights_equals_small_model_filled_by_hand(source, hidden, ffn, heads, head_dim, token_batch):
    model = load_encoder(source).model
    family = family_of(model.config)
    keep = random_keep(model, hidden, ffn, heads, head_dim)
    expected = fill_by_hand(model, keep, kind="bert", old_head_dim=family.widths(model).head_dim)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)


@needs_mpnet
@pytest.mark.weights
def test_slice_of_real_relative_positions_equals_small_model_filled_by_hand(token_batch):
    encoder = load_encoder(MPNET)
    model, family = encoder.model, family_of(encoder.model.config)
    assert (encoder.task, encoder.pooling) == ("sentence-similarity", Pooling(mode="mean", normalize=True))
    assert family.widths(model) == Widths(768, 3072, (12,) * 12, 64)
    keep = random_keep(model, 256, 1024, 8, 32)
    expected = fill_by_hand(model, keep, kind="mpnet", old_head_dim=64)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)


def test_taking_away_neurons_that_do_nothing_changes_nothing(token_batch):
    """Half of each head's query-key and value dimensions and of the ffn are dead; they go."""
    torch.manual_seed(0)
    model = tiny_bert()
    alive = torch.cat([head * 8 + torch.arange(4) for head in range(4)])
    dead = torch.tensor([index for index in range(32) if index not in alive.tolist()])
    with torch.no_grad():
        for layer in model.encoder.layer:
            for linear in (layer.attention.self.query, layer.attention.self.value):
                linear.weight[dead] = 0
                linear.bias[dead] = 0
            layer.output.dense.weight[:, 30:] = 0
    before = outputs(model, token_batch)
    keep = {Group(kind, layer): alive for kind in ("query_key", "value_out") for layer in range(2)}
    keep |= {Group("ffn", layer): torch.arange(30) for layer in range(2)}
    slice_model(model, family_of(model.config), Keep(keep, head_dim=4))
    torch.testing.assert_close(outputs(model, token_batch), before, rtol=0, atol=1e-5)


def test_two_slices_in_a_row_equal_one(token_batch):
    torch.manual_seed(0)
    once = tiny_bert()
    twice = copy.deepcopy(once)
    family = family_of(once.config)
    first = random_keep(twice, 24, 48, 4, 6, seed=1)
    slice_model(twice, family, first)
    second = random_keep(twice, 16, 32, 4, 4, seed=2)
    slice_model(twice, family, second)
    both = {group: index[second.indices[group]] for group, index in first.indices.items()}
    slice_model(once, family, Keep(both, head_dim=4))
    torch.testing.assert_close(outputs(twice, token_batch), outputs(once, token_batch), rtol=0, atol=1e-5)


def test_layers_may_keep_different_numbers_of_heads(token_batch):
    """A live model between two events: its first layer has a head less than its second."""
    torch.manual_seed(0)
    model = tiny_bert()
    with torch.no_grad():
        model.encoder.layer[0].attention.output.dense.weight[:, :8] = 0  # head 0 says nothing
    before = outputs(model, token_batch)
    rest = torch.arange(8, 32)
    keep = Keep({Group("query_key", 0): rest, Group("value_out", 0): rest}, head_dim=8)
    slice_model(model, family_of(model.config), keep)
    assert family_of(model.config).widths(model).heads_per_layer == (3, 4)
    torch.testing.assert_close(outputs(model, token_batch), before, rtol=0, atol=1e-5)


def test_optimizer_moments_are_sliced_and_rescaled(token_batch):
    torch.manual_seed(0)
    model = tiny_bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(**token_batch).last_hidden_state.square().sum().backward()
    optimizer.step()
    query = model.encoder.layer[0].attention.self.query.weight
    ffn_out = model.encoder.layer[1].output.dense.weight
    old = {name: optimizer.state[query][name].clone() for name in ("exp_avg", "exp_avg_sq")}
    old_ffn = optimizer.state[ffn_out]["exp_avg"].clone()
    keep = random_keep(model, 16, 32, 4, 4)
    slice_model(model, family_of(model.config), keep, optimizer=optimizer)
    rows, columns = keep.indices["query_key", 0], keep.indices["hidden", None]
    factor = math.sqrt(4 / 8)  # a gradient of cθ is 1/c of the gradient of θ
    torch.testing.assert_close(optimizer.state[query]["exp_avg"], old["exp_avg"][rows][:, columns] / factor)
    torch.testing.assert_close(optimizer.state[query]["exp_avg_sq"], old["exp_avg_sq"][rows][:, columns] / factor**2)
    torch.testing.assert_close(optimizer.state[ffn_out]["exp_avg"], old_ffn[columns][:, keep.indices["ffn", 1]])
    model(**token_batch).last_hidden_state.square().sum().backward()
    before = query.detach().clone()
    optimizer.step()
    assert query.shape == (16, 16)
    assert not torch.equal(query, before)
