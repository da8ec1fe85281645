"""Importance against a sum written out neuron by neuron; choice against small cases worked by hand."""

from __future__ import annotations

import pytest
import torch

from homoexport.distill.importance import LayerScores, Scores, choose, keep_scores, update_scores, zero_scores
from homoexport.encoder import Widths, family_of
from tests.conftest import tiny_bert


def sensitivity(parameter: torch.nn.Parameter) -> torch.Tensor:
    return (parameter * parameter.grad).abs().detach()


def test_scores_are_sums_of_sensitivity_over_each_group(token_batch):
    torch.manual_seed(0)
    model = tiny_bert(masked_lm=True)
    family = family_of(model.config)
    model(**token_batch).logits.square().mean().backward()
    scores = zero_scores(family.widths(model), torch.device("cpu"))
    update_scores(scores, model, family, beta=0.0, token_ids=None)

    layer = model.bert.encoder.layer[1]
    ffn = layer.intermediate.dense
    expected_ffn = [
        sensitivity(ffn.weight)[j].sum() + sensitivity(ffn.bias)[j] + sensitivity(layer.output.dense.weight)[:, j].sum()
        for j in range(64)
    ]
    torch.testing.assert_close(scores.layers[1].ffn, torch.stack(expected_ffn))
    attention = layer.attention.self
    expected_qk = [
        sum(sensitivity(part.weight)[j].sum() + sensitivity(part.bias)[j] for part in (attention.query, attention.key))
        for j in range(32)
    ]
    torch.testing.assert_close(scores.layers[1].query_key, torch.stack(expected_qk))
    value, out = attention.value, layer.attention.output.dense
    expected_vo = [
        sensitivity(value.weight)[j].sum() + sensitivity(value.bias)[j] + sensitivity(out.weight)[:, j].sum()
        for j in range(32)
    ]
    torch.testing.assert_close(scores.layers[1].value_out, torch.stack(expected_vo))

    reads = ("query.weight", "key.weight", "value.weight", "intermediate.dense.weight", "embeddings.weight")
    expected_hidden = torch.zeros(32)
    for name, parameter in model.named_parameters():
        if parameter.grad is None or name == "cls.predictions.bias":
            continue
        if "transform.dense.weight" in name:
            expected_hidden += sensitivity(parameter).sum(0) + sensitivity(parameter).sum(1)
        elif name.endswith(reads):
            expected_hidden += sensitivity(parameter).sum(0)
        elif "output.dense.weight" in name:
            expected_hidden += sensitivity(parameter).sum(1)
        elif "LayerNorm" in name or name.endswith(("output.dense.bias", "transform.dense.bias")):
            expected_hidden += sensitivity(parameter)
    torch.testing.assert_close(scores.hidden, expected_hidden)


def test_only_the_batchs_rows_of_the_word_embeddings_count(token_batch):
    """The rows that the batch did not touch have no gradient: leaving them out is exact."""
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    model(**token_batch).last_hidden_state.square().mean().backward()
    results = []
    for token_ids in (None, token_batch["input_ids"].unique()):
        scores = zero_scores(family.widths(model), torch.device("cpu"))
        update_scores(scores, model, family, beta=0.0, token_ids=token_ids)
        results.append(scores.hidden)
    torch.testing.assert_close(results[0], results[1])


def test_scores_are_smoothed_over_steps(token_batch):
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    model(**token_batch).last_hidden_state.square().mean().backward()
    once = zero_scores(family.widths(model), torch.device("cpu"))
    update_scores(once, model, family, beta=0.0, token_ids=None)
    smoothed = zero_scores(family.widths(model), torch.device("cpu"))
    for _ in range(3):
        update_scores(smoothed, model, family, beta=0.85, token_ids=None)
    for now, smooth in zip(once.tensors(), smoothed.tensors(), strict=True):
        torch.testing.assert_close(smooth, now * (1 - 0.85**3))


def scores_of(hidden: list[float], layers: list[tuple[list[float], list[float], list[float]]]) -> Scores:
    return Scores(torch.tensor(hidden), [LayerScores(*(torch.tensor(vector) for vector in layer)) for layer in layers])


def test_the_most_important_stay():
    # Two layers, two heads of two dimensions, three ffn neurons, four residual dimensions.
    scores = scores_of(
        [1.0, 4.0, 2.0, 3.0],
        [
            ([1.0, 2.0, 9.0, 8.0], [2.0, 1.0, 5.0, 6.0], [3.0, 1.0, 2.0]),
            ([4.0, 3.0, 1.0, 1.0], [1.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0]),
        ],
    )
    widths = Widths(4, 3, (2, 2), 2)
    keep = choose(scores, widths, hidden_size=2, ffn=2, total_heads=2, head_dim=1)
    assert keep.hidden.tolist() == [1, 3]
    assert [layer.ffn.tolist() for layer in keep.layers] == [[0, 2], [1, 2]]
    # Layer 0 keeps head 1 (its best dimensions: query-key 2, value-out 3), layer 1 head 0.
    assert [layer.query_key.tolist() for layer in keep.layers] == [[2], [0]]
    assert [layer.value_out.tolist() for layer in keep.layers] == [[3], [1]]
    left = keep_scores(scores, keep)
    assert left.hidden.tolist() == [4.0, 3.0]
    assert left.layers[0].query_key.tolist() == [9.0]


def test_heads_leave_one_at_a_time_where_the_next_one_counts_least():
    """Three heads over two layers: the layer whose second head counts more keeps two."""
    weak, strong = ([9.0, 1.0], [9.0, 1.0], [1.0]), ([9.0, 2.0], [9.0, 2.0], [1.0])
    widths = Widths(1, 1, (2, 2), 1)
    keep = choose(scores_of([1.0], [weak, strong]), widths, hidden_size=1, ffn=1, total_heads=3, head_dim=1)
    assert keep.layers[0].query_key.tolist() == [0]
    assert keep.layers[1].query_key is None  # nothing goes
    assert keep.hidden is None


def test_ties_keep_the_lower_index():
    scores = scores_of([1.0, 1.0, 1.0], [([1.0, 1.0], [1.0, 1.0], [1.0, 1.0, 1.0, 1.0])])
    keep = choose(scores, Widths(3, 4, (2,), 1), hidden_size=2, ffn=1, total_heads=1, head_dim=1)
    assert (keep.hidden.tolist(), keep.layers[0].ffn.tolist(), keep.layers[0].query_key.tolist()) == ([0, 1], [0], [0])


@pytest.mark.parametrize("total", range(2, 9))
def test_layers_numbers_of_heads_differ_by_one_at_most(total):
    torch.manual_seed(total)
    layers = [([*torch.rand(4).tolist()], [*torch.rand(4).tolist()], [1.0]) for _ in range(2)]
    keep = choose(
        scores_of([1.0], layers), Widths(1, 1, (4, 4), 1), hidden_size=1, ffn=1, total_heads=total, head_dim=1
    )
    counts = [4 if layer.query_key is None else len(layer.query_key) for layer in keep.layers]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1
