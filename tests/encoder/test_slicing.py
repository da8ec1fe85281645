"""Slicing against models built small and filled by hand, and against what must not change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from homoexport.encoder import Keep, LayerKeep, family_of, load_encoder, slice_model
from tests.conftest import BERT_TINY, MINILM, tiny_bert


def random_keep(model: PreTrainedModel, hidden: int, ffn: int, heads: int, head_dim: int, seed: int = 0) -> Keep:
    widths = family_of(model.config).widths(model)
    generator = torch.Generator().manual_seed(seed)

    def pick(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=generator)[:count].sort().values

    layers = []
    for old_heads in widths.heads:
        kept = pick(old_heads, heads)
        dims = [
            torch.cat([head * widths.head_dim + pick(widths.head_dim, head_dim) for head in kept]) for _ in range(2)
        ]
        layers.append(LayerKeep(dims[0], dims[1], pick(widths.intermediate_size, ffn)))
    return Keep(pick(widths.hidden_size, hidden), tuple(layers), head_dim)


def fill_by_hand(big: PreTrainedModel, keep: Keep, old_head_dim: int) -> PreTrainedModel:
    """A small model from a plain config, its weights copied name by name; knows BERT, not our layout."""
    config = copy.deepcopy(big.config)
    config.hidden_size = len(keep.hidden)
    config.intermediate_size = len(keep.layers[0].ffn)
    config.num_attention_heads = len(keep.layers[0].query_key) // keep.head_dim
    small = type(big)(config).eval()
    source = big.state_dict()
    values = {}
    for name, target in small.state_dict().items():
        value = source[name]
        rows, columns = None, None
        if "encoder.layer." in name:
            layer = keep.layers[int(name.split("encoder.layer.")[1].split(".")[0])]
            if ".query." in name or ".key." in name:
                rows, columns = layer.query_key, keep.hidden
            elif ".value." in name:
                rows, columns = layer.value_out, keep.hidden
            elif "attention.output.dense" in name:
                rows, columns = keep.hidden, layer.value_out
            elif "intermediate" in name:
                rows, columns = layer.ffn, keep.hidden
            elif "output.dense" in name:
                rows, columns = keep.hidden, layer.ffn
            else:
                rows = keep.hidden
        elif name.endswith(("embeddings.weight", "decoder.weight")):
            columns = keep.hidden
        elif "pooler" in name or "transform.dense" in name:
            rows, columns = keep.hidden, keep.hidden
        elif "LayerNorm" in name:
            rows = keep.hidden
        if rows is not None:
            value = value[rows]
        if columns is not None and value.dim() == 2:
            value = value[:, columns]
        if ".query." in name:
            value = value * math.sqrt(keep.head_dim / old_head_dim)
        assert value.shape == target.shape, name
        values[name] = value
    small.load_state_dict(values)
    return small


def outputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result = model(**batch, output_hidden_states=True)
    mask = batch["attention_mask"].bool()
    last = result.logits if hasattr(result, "logits") else result.last_hidden_state
    return torch.cat([last[mask].flatten(), *(state[mask].flatten() for state in result.hidden_states)])


@pytest.mark.parametrize("masked_lm", [False, True])
@pytest.mark.parametrize(
    ("hidden", "ffn", "heads", "head_dim"),
    [(24, 40, 4, 6), (16, 64, 2, 8), (12, 20, 3, 4), (32, 10, 4, 8)],
    ids=["narrower heads", "fewer heads", "both", "ffn only"],
)
def test_slice_equals_small_model_filled_by_hand(masked_lm, hidden, ffn, heads, head_dim, token_batch):
    torch.manual_seed(0)
    model = tiny_bert(masked_lm=masked_lm)
    keep = random_keep(model, hidden, ffn, heads, head_dim)
    expected = fill_by_hand(model, keep, old_head_dim=8)
    family = family_of(model.config)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)
    widths = family.widths(model)
    assert (widths.hidden_size, widths.intermediate_size, widths.head_dim) == (hidden, ffn, head_dim)
    assert widths.heads == (heads, heads)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("source", "hidden", "ffn", "heads", "head_dim"),
    [(MINILM, 192, 768, 6, 32), (MINILM, 192, 700, 12, 16), (BERT_TINY, 64, 256, 2, 32), (BERT_TINY, 64, 100, 1, 64)],
)
def test_slice_of_real_weights_equals_small_model_filled_by_hand(source, hidden, ffn, heads, head_dim, token_batch):
    model = load_encoder(source).model
    family = family_of(model.config)
    keep = random_keep(model, hidden, ffn, heads, head_dim)
    expected = fill_by_hand(model, keep, old_head_dim=family.widths(model).head_dim)
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
    layers = tuple(LayerKeep(alive, alive, torch.arange(30)) for _ in model.encoder.layer)
    slice_model(model, family_of(model.config), Keep(None, layers, head_dim=4))
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
    layers = tuple(
        LayerKeep(a.query_key[b.query_key], a.value_out[b.value_out], a.ffn[b.ffn])
        for a, b in zip(first.layers, second.layers, strict=True)
    )
    slice_model(once, family, Keep(first.hidden[second.hidden], layers, head_dim=4))
    torch.testing.assert_close(outputs(twice, token_batch), outputs(once, token_batch), rtol=0, atol=1e-5)


def test_layers_may_keep_different_numbers_of_heads(token_batch):
    """A live model between two events: its first layer has a head less than its second."""
    torch.manual_seed(0)
    model = tiny_bert()
    with torch.no_grad():
        model.encoder.layer[0].attention.output.dense.weight[:, :8] = 0  # head 0 says nothing
    before = outputs(model, token_batch)
    rest = torch.arange(8, 32)
    slice_model(model, family_of(model.config), Keep(None, (LayerKeep(rest, rest), LayerKeep()), head_dim=8))
    assert family_of(model.config).widths(model).heads == (3, 4)
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
    rows, columns = keep.layers[0].query_key, keep.hidden
    factor = math.sqrt(4 / 8)  # a gradient of cθ is 1/c of the gradient of θ
    torch.testing.assert_close(optimizer.state[query]["exp_avg"], old["exp_avg"][rows][:, columns] / factor)
    torch.testing.assert_close(optimizer.state[query]["exp_avg_sq"], old["exp_avg_sq"][rows][:, columns] / factor**2)
    torch.testing.assert_close(optimizer.state[ffn_out]["exp_avg"], old_ffn[keep.hidden][:, keep.layers[1].ffn])
    model(**token_batch).last_hidden_state.square().sum().backward()
    before = query.detach().clone()
    optimizer.step()
    assert query.shape == (16, 16)
    assert not torch.equal(query, before)


def test_every_parameter_belongs_to_a_group():
    """Only the decoder's bias, one number a token, has no width."""
    for masked_lm in (False, True):
        model = tiny_bert(masked_lm=masked_lm)
        layout = family_of(model.config).layout(model)
        groups = [
            layout.hidden,
            *(group for layer in layout.layers for group in (layer.query_key, layer.value_out, layer.ffn)),
        ]
        covered = {slot.parameter for group in groups for slot in group}
        assert {name for name, _ in model.named_parameters()} - covered <= {"cls.predictions.bias"}
