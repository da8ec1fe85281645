"""Heads that share keys and values, and do not make up the hidden size, against Hugging Face's own models."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from homoexport.encoder import Group, Keep, family_of, load_encoder, slice_model, start_from_scratch
from homoexport.errors import ShapeError
from homoexport.shape import PartialShape, Shape, Widths, complete_shape
from tests.conftest import tiny_tokenizer
from tests.encoder.oracle import fill_by_hand, in_window, outputs, random_keep
from tests.grouped import CLASSES, KINDS, grouped

WINDOWS = {  # of a local and of a global layer
    "eurobert": [(None, None)] * 2,
    "qwen3": [(None, None)] * 2,
    "qwen3 windows": [(2, 2), (None, None)],
    "qwen3 causal": [(1, 0), (None, 0)],
    "gemma3_text": [(2, 2), (None, None)],
    "gemma3_text causal": [(3, 0), (None, 0)],
}
SHAPES = {"narrow": (20, 40, 4), "narrow, fewer heads": (20, 64, 2), "ffn": (32, 10, 8), "heads": (32, 64, 6)}


def keep_of(model: PreTrainedModel, hidden: int, ffn: int, heads: int) -> Keep:
    """Drawn at random; of two heads that share a key both stay."""
    widths = family_of(model.config).widths(model)
    return random_keep(model, hidden, ffn, heads // widths.queries_per_key, widths.head_dim)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "head"), [(kind, head) for kind in KINDS for head in CLASSES if head != "token" or "gemma3" not in kind]
)
def test_slice_equals_small_model_filled_by_hand(kind, shape, head, token_batch):
    model = grouped(kind, head)
    family = family_of(model.config)
    keep = keep_of(model, *SHAPES[shape])
    expected = fill_by_hand(model, keep, kind=model.config.model_type, old_head_dim=keep.head_dim)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)
    hidden, ffn, heads = SHAPES[shape]
    assert family.widths(model).shape == Shape(4, hidden, ffn, heads, keep.head_dim)
    assert family.widths(model).queries_per_key == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_lost_layers_is_stock(kind, tmp_path, token_batch):
    model = grouped(kind, "sequence")
    family = family_of(model.config)
    keep = keep_of(model, 20, 40, 4)
    expected = fill_by_hand(model, keep, kind=model.config.model_type, old_head_dim=keep.head_dim, kept_layers=(1, 2))
    slice_model(model, family, keep)
    family.keep_layers(model, (1, 2))
    family.write_config(model.config, family.widths(model).shape)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded, info = CLASSES["sequence"].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(outputs(loaded.eval(), token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_from_scratch_has_the_slices_shapes(kind):
    model = grouped(kind)
    family = family_of(model.config)
    fresh = start_from_scratch(model, family, Shape(2, 20, 40, 4, family.widths(model).head_dim))
    slice_model(model, family, keep_of(model, 20, 40, 4))
    family.keep_layers(model, (0, 1))
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (fresh, model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_from_taps_is_the_models_own(kind, token_batch):
    model = grouped(kind, attention="eager")
    family = family_of(model.config)
    slice_model(model, family, keep_of(model, 20, 40, 4))
    calls: dict[torch.nn.Module, torch.Tensor] = {}
    for module in (module for modules in family.taps(model).projections for module in modules):
        module.register_forward_hook(lambda module, _inputs, output: calls.__setitem__(module, output))
    with torch.no_grad():
        expected = model(**token_batch, output_attentions=True).attentions
    mask = token_batch["attention_mask"].bool()
    widths = family.widths(model)
    for layer, modules in enumerate(family.taps(model).projections):
        with torch.no_grad():
            query, key, bias = family.scored(model, layer, calls[modules[0]], calls[modules[1]])
        assert bias is None
        query, key = (side.unflatten(-1, (-1, widths.head_dim)).transpose(1, 2) for side in (query, key))
        scores = query @ key.transpose(2, 3) / math.sqrt(widths.head_dim)
        attended = mask[:, None, None, :] & in_window(family.window(model, layer), mask.shape[1])
        maps = scores.masked_fill(~attended, -1e9).softmax(-1)
        torch.testing.assert_close(maps.transpose(1, 2)[mask], expected[layer].transpose(1, 2)[mask])
    assert [tuple(family.window(model, layer)) for layer in (0, 1)] == WINDOWS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_follow_their_parameters(kind, token_batch):
    """A moment that is a copy of its parameter stays one, but for word vectors that are scaled by their width."""
    model = grouped(kind)
    family = family_of(model.config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**token_batch).last_hidden_state.square().sum().backward()
    optimizer.step()
    for parameter, state in optimizer.state.items():
        state["exp_avg"].copy_(parameter.data)
    slice_model(model, family, keep_of(model, 20, 40, 4), optimizer=optimizer)
    words = model.get_input_embeddings().weight
    for parameter, state in optimizer.state.items():
        factor = 20 / 32 if model.config.model_type == "gemma3_text" and parameter is words else 1
        torch.testing.assert_close(state["exp_avg"], parameter.data * factor)
    model(**token_batch).last_hidden_state.square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_belongs_to_a_group(kind):
    """But for the norms of a head's queries and keys, which all heads share."""
    model = grouped(kind, "sequence")
    slots = [slot for _, held in family_of(model.config).layout(model).groups() for slot in held]
    covered = [(slot.parameter, slot.axis, slot.part) for slot in slots]
    assert len(set(covered)) == len(covered)
    free = {name for name, _ in model.named_parameters()} - {slot.parameter for slot in slots}
    assert all("_norm" in name or (name == "classifier.bias") for name in free)


def test_heads_of_a_live_model_leave_by_keys():
    from homoexport.stages.distill.importance import choose, zero_scores

    model = grouped("qwen3 causal")
    family = family_of(model.config)
    scores = zero_scores(model, family.layout(model))
    for layer in range(4):
        scores[Group("query_key", layer)].view(4, 12)[:] = torch.tensor([1.0, 4.0, 2.0, 3.0])[:, None]
    widths = family.widths(model)
    keep = choose(scores, widths, Widths(32, 64, (5, 5, 5, 4), 12))
    kept = [(keep.indices[Group("query_key", layer)].view(-1, 12)[:, 0] // 12).tolist() for layer in range(4)]
    assert sorted(map(len, kept)) == [2, 2, 3, 3]  # 19 queries are due, which ten keys have
    assert all(heads in ([1, 3], [1, 2, 3]) for heads in kept)


def test_widths_that_a_config_cannot_say_are_refused():
    model = grouped("gemma3_text causal")
    family = family_of(model.config)
    with pytest.raises(ShapeError, match=r"5 heads are no multiple of the 2 that share .*; the nearest is 4"):
        family.check_target(model.config, Shape(4, 20, 40, 5, 12))
    with pytest.raises(ShapeError, match=r"20 is not divisible by 8 heads, .*; the nearest that is: 16"):
        family.check_target(model.config, Shape(4, 20, 40, 8, 12))


def test_heads_and_hidden_size_are_asked_for_apart():
    model = grouped("qwen3 causal")
    teacher = family_of(model.config).widths(model).shape
    asked = PartialShape(hidden_size=20)
    prune = ("hidden", "heads", "head-width", "ffn")
    shape = complete_shape(asked, teacher, prune=prune, prunes_head_width=False, heads_make_hidden=False)
    assert shape == Shape(4, 20, 40, 8, 12)
    assert PartialShape.of(shape) == PartialShape(
        hidden_size=20, intermediate_size=40, num_attention_heads=8, num_hidden_layers=4
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 6])
def test_a_config_has_a_kind_for_each_layer(kind, layers):
    """Of more layers than there are, too: a plan measures deeper models than a teacher of few."""
    model = grouped(kind)
    family = family_of(model.config)
    fresh = start_from_scratch(model, family, Shape(layers, 20, 40, 4, family.widths(model).head_dim))
    assert family.widths(fresh).num_hidden_layers == layers
    if kinds := getattr(model.config, "layer_types", None):
        assert fresh.config.layer_types == (kinds * 2)[:layers]
    outputs(fresh, {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)})


def test_a_window_from_the_first_layer_on_is_a_config_of_its_own(tmp_path):
    """`max_window_layers: 0`, where other numbers of layers are 1 or more."""
    model = grouped("qwen3 causal")
    model.config.max_window_layers = 0
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert family_of(load_encoder(str(tmp_path)).model.config).window(model, 0) == (1, 0)
