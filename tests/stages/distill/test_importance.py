"""Importance against a sum written out neuron by neuron; choice against small cases worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from homoexport.encoder import Group, family_of
from homoexport.shape import Widths, spread_heads
from homoexport.stages.distill.importance import Ranking, Scores, choose, keep_scores, magnitude, sensitivity
from tests.conftest import tiny_bert
from tests.stages.distill.test_loop import settings_of


def weight_sensitivity(parameter: torch.nn.Parameter) -> torch.Tensor:
    return (parameter * parameter.grad).abs().detach()


def test_scores_are_sums_of_sensitivity_over_each_group(token_batch):
    torch.manual_seed(0)
    model = tiny_bert(masked_lm=True)
    family = family_of(model.config)
    model(**token_batch).logits.square().mean().backward()
    scores = sensitivity(model, family, token_ids=None)

    layer = model.bert.encoder.layer[1]
    ffn = layer.intermediate.dense
    expected_ffn = [
        weight_sensitivity(ffn.weight)[j].sum()
        + weight_sensitivity(ffn.bias)[j]
        + weight_sensitivity(layer.output.dense.weight)[:, j].sum()
        for j in range(64)
    ]
    torch.testing.assert_close(scores["ffn", 1], torch.stack(expected_ffn))
    attention = layer.attention.self
    expected_qk = [
        sum(
            weight_sensitivity(part.weight)[j].sum() + weight_sensitivity(part.bias)[j]
            for part in (attention.query, attention.key)
        )
        for j in range(32)
    ]
    torch.testing.assert_close(scores["query_key", 1], torch.stack(expected_qk))
    value, out = attention.value, layer.attention.output.dense
    expected_vo = [
        weight_sensitivity(value.weight)[j].sum()
        + weight_sensitivity(value.bias)[j]
        + weight_sensitivity(out.weight)[:, j].sum()
        for j in range(32)
    ]
    torch.testing.assert_close(scores["value_out", 1], torch.stack(expected_vo))

    reads = ("query.weight", "key.weight", "value.weight", "intermediate.dense.weight", "embeddings.weight")
    expected_hidden = torch.zeros(32)
    for name, parameter in model.named_parameters():
        if parameter.grad is None or name == "cls.predictions.bias":
            continue
        if "transform.dense.weight" in name:
            expected_hidden += weight_sensitivity(parameter).sum(0) + weight_sensitivity(parameter).sum(1)
        elif name.endswith(reads):
            expected_hidden += weight_sensitivity(parameter).sum(0)
        elif "output.dense.weight" in name:
            expected_hidden += weight_sensitivity(parameter).sum(1)
        elif "LayerNorm" in name or name.endswith(("output.dense.bias", "transform.dense.bias")):
            expected_hidden += weight_sensitivity(parameter)
    torch.testing.assert_close(scores["hidden", None], expected_hidden)


def test_only_the_batchs_rows_of_the_word_embeddings_count(token_batch):
    """The rows that the batch did not touch have no gradient: leaving them out is exact."""
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    model(**token_batch).last_hidden_state.square().mean().backward()
    touched = token_batch["input_ids"].unique()
    results = [sensitivity(model, family, token_ids=token_ids)["hidden", None] for token_ids in (None, touched)]
    torch.testing.assert_close(results[0], results[1])


def test_scores_are_smoothed_over_steps(token_batch):
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    model(**token_batch).last_hidden_state.square().mean().backward()
    now = sensitivity(model, family, token_ids=None)
    ranking = Ranking(model, family, settings_of("masked-lm", importance="sensitivity"))
    for _ in range(3):
        ranking.update()
    for group, smooth in ranking.scores().items():
        torch.testing.assert_close(smooth, now[group] * (1 - 0.85**3))


def test_platon_is_smoothed_importance_times_smoothed_uncertainty(token_batch):
    """PLATON's equations 6 to 8, written out for two steps of different gradients."""
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    ranking = Ranking(model, family, settings_of("masked-lm", importance="platon"))
    importance = uncertainty = 0.0
    for power in (2, 4):
        model.zero_grad()
        model(**token_batch).last_hidden_state.pow(power).mean().backward()
        now = sensitivity(model, family, token_ids=None)["hidden", None]
        importance = 0.85 * importance + 0.15 * now
        uncertainty = 0.95 * uncertainty + 0.05 * (now - importance).abs()
        ranking.update()
    torch.testing.assert_close(ranking.scores()["hidden", None], importance * uncertainty)


def test_magnitude_is_the_sum_of_absolute_weights():
    torch.manual_seed(0)
    model = tiny_bert()
    family = family_of(model.config)
    layer = model.encoder.layer[1]
    ffn, out = layer.intermediate.dense, layer.output.dense
    expected = ffn.weight.abs().sum(1) + ffn.bias.abs() + out.weight.abs().sum(0)
    torch.testing.assert_close(magnitude(model, family)["ffn", 1], expected)
    ranking = Ranking(model, family, settings_of("masked-lm", importance="magnitude"))
    torch.testing.assert_close(ranking.scores()["ffn", 1], expected)
    assert not ranking.needs_gradients


def scores_of(
    hidden: list[float],
    layers: list[tuple[list[float], list[float], list[float]]],
    shared_heads: Sequence[float] = (),
) -> Scores:
    scores = {Group("hidden"): torch.tensor(hidden)}
    if shared_heads:
        scores[Group("heads")] = torch.tensor(shared_heads)
    for layer, vectors in enumerate(layers):
        for kind, vector in zip(("query_key", "value_out", "ffn"), vectors, strict=True):
            scores[Group(kind, layer)] = torch.tensor(vector)
    return scores


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
    keep = choose(scores, widths, Widths(2, 2, (1, 1), 1))
    assert keep.indices["hidden", None].tolist() == [1, 3]
    assert [keep.indices["ffn", layer].tolist() for layer in range(2)] == [[0, 2], [1, 2]]
    # Layer 0 keeps head 1 (its best dimensions: query-key 2, value-out 3), layer 1 head 0.
    assert [keep.indices["query_key", layer].tolist() for layer in range(2)] == [[2], [0]]
    assert [keep.indices["value_out", layer].tolist() for layer in range(2)] == [[3], [1]]
    left = keep_scores(scores, keep)
    assert left["hidden", None].tolist() == [4.0, 3.0]
    assert left["query_key", 0].tolist() == [9.0]


def test_heads_leave_one_at_a_time_where_the_next_one_counts_least():
    """Three heads over two layers: the layer whose second head counts more keeps two."""
    weak, strong = ([9.0, 1.0], [9.0, 1.0], [1.0]), ([9.0, 2.0], [9.0, 2.0], [1.0])
    widths = Widths(1, 1, (2, 2), 1)
    keep = choose(scores_of([1.0], [weak, strong]), widths, Widths(1, 1, (2, 1), 1))
    assert keep.indices["query_key", 0].tolist() == [0]
    assert ("query_key", 1) not in keep.indices  # nothing goes
    assert ("hidden", None) not in keep.indices


def test_ties_keep_the_lower_index():
    scores = scores_of([1.0, 1.0, 1.0], [([1.0, 1.0], [1.0, 1.0], [1.0, 1.0, 1.0, 1.0])])
    keep = choose(scores, Widths(3, 4, (2,), 1), Widths(2, 1, (1,), 1))
    assert {group.kind: index.tolist() for group, index in keep.indices.items()} == {
        "hidden": [0, 1],
        "query_key": [0],
        "value_out": [0],
        "ffn": [0],
    }


@pytest.mark.parametrize("total", range(2, 9))
def test_layers_numbers_of_heads_differ_by_one_at_most(total):
    torch.manual_seed(total)
    layers = [([*torch.rand(4).tolist()], [*torch.rand(4).tolist()], [1.0]) for _ in range(2)]
    keep = choose(scores_of([1.0], layers), Widths(1, 1, (4, 4), 1), Widths(1, 1, spread_heads(total, 2), 1))
    counts = [len(keep.indices.get(("query_key", layer), range(4))) for layer in range(2)]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


def test_heads_that_layers_share_leave_all_layers_at_once():
    """Head 1 is worth most over both layers, though head 0 is in the first; what they share counts too."""
    layers = [([5.0, 4.0, 0.0], [5.0, 4.0, 0.0], [1.0]), ([1.0, 9.0, 0.0], [1.0, 9.0, 0.0], [1.0])]
    widths = Widths(1, 1, (3, 3), 1)
    keep = choose(scores_of([1.0], layers, [0.0, 0.0, 3.0]), widths, Widths(1, 1, (1, 1), 1))
    assert keep.indices["heads", None].tolist() == [1]
    assert [keep.indices["query_key", layer].tolist() for layer in range(2)] == [[1], [1]]
    # One head too many to be shared out evenly stays for one more event.
    keep = choose(scores_of([1.0], layers, [0.0, 0.0, 30.0]), widths, Widths(1, 1, (2, 1), 1))
    assert [keep.indices["value_out", layer].tolist() for layer in range(2)] == [[1, 2], [1, 2]]
