"""Every family against Hugging Face's own models: slices, taps, attention, heads, positions, saved students."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config

from homoexport.encoder import family_of, slice_model, start_from_scratch, supported_model_types
from homoexport.errors import ShapeError, TeacherError
from homoexport.shape import Shape, Widths
from tests.conftest import AUTO_CLASSES, FAMILY_CONFIGS, tiny_model
from tests.encoder.oracle import fill_by_hand, in_window, outputs, random_keep

KINDS = list(FAMILY_CONFIGS)
ROTARY = [kind for kind in KINDS if not family_of(tiny_model(kind).config).prunes_head_width]
SHAPES = {
    "narrower heads": (24, 40, 4, 6),
    "fewer heads": (16, 64, 2, 8),
    "both": (12, 20, 3, 4),
    "ffn only": (32, 10, 4, 8),
}


def _shapes_of(kind: str) -> list[str]:
    return [name for name, shape in SHAPES.items() if shape[3] == 8 or kind not in ROTARY]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind in KINDS for shape in _shapes_of(kind)])
def test_slice_equals_small_model_filled_by_hand(kind, shape, head, token_batch):
    model = tiny_model(kind, head, layers=3)
    family = family_of(model.config)
    keep = random_keep(model, *SHAPES[shape])
    expected = fill_by_hand(model, keep, kind=kind, old_head_dim=8)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)
    hidden, ffn, heads, head_dim = SHAPES[shape]
    assert family.widths(model) == Widths(hidden, ffn, (heads,) * 3, head_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_that_is_not_tied_is_sliced_too(kind, token_batch):
    config = tiny_model(kind).config
    config.tie_word_embeddings = False
    model = AUTO_CLASSES["masked-lm"].from_config(config).eval()
    family = family_of(config)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    keep = random_keep(model, 24, 40, 3, 8)
    expected = fill_by_hand(model, keep, kind=kind, old_head_dim=8)
    slice_model(model, family, keep)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", ["masked-lm", "sequence"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_leave_along_with_widths(kind, head, token_batch):
    """Of six layers the 1st, 2nd, 4th and 5th stay: of global, local, local, ... that is every second one global."""
    kept = (0, 2, 4) if kind == "modernbert-biased" else (0, 1, 3, 4)
    model = tiny_model(kind, head, layers=6)
    family = family_of(model.config)
    keep = random_keep(model, 24, 40, 3, 8)
    expected = fill_by_hand(model, keep, kind=kind, old_head_dim=8, kept_layers=kept)
    slice_model(model, family, keep)
    family.keep_layers(model, kept)
    torch.testing.assert_close(outputs(model, token_batch), outputs(expected, token_batch), rtol=0, atol=1e-5)
    assert family.widths(model).num_hidden_layers == model.config.num_hidden_layers == len(kept)


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_student_is_stock(kind, head, tmp_path, token_batch):
    model = tiny_model(kind, head, layers=4)
    family = family_of(model.config)
    slice_model(model, family, random_keep(model, 24, 40, 3, 8))
    family.keep_layers(model, (0, 1))
    family.write_config(model.config, family.widths(model).shape)
    model.save_pretrained(tmp_path)
    loaded, info = AUTO_CLASSES[head].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(outputs(loaded.eval(), token_batch), outputs(model, token_batch), rtol=0, atol=1e-6)
    body = AUTO_CLASSES["model"].from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = family.body(model)(**token_batch).last_hidden_state
        torch.testing.assert_close(body(**token_batch).last_hidden_state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_belongs_to_a_group(kind, head):
    """Only what has one number a token or label has no width, and embeddings of a size of their own."""
    model = tiny_model(kind, head)
    family = family_of(model.config)
    every = range(1 if family.shares_layers else 2)
    slots = [slot for group, held in family.layout(model).groups() for slot in held if group.layer in (None, *every)]
    covered = [(id(model.get_parameter(slot.parameter)), slot.axis, slot.part) for slot in slots]
    assert len(set(covered)) == len(covered)
    places = {place for place, _, _ in covered}
    own_size = (
        "embeddings.",
        "generator_predictions.LayerNorm",
        "generator_lm_head",
        "generator_predictions.dense.bias",
        "predictions.LayerNorm",
        "predictions.dense.bias",
    )
    free = [name for name, parameter in model.named_parameters() if id(parameter) not in places]
    if kind in ("electra-projected", "albert"):
        free = [name for name in free if not any(part in name for part in own_size)]
    assert all(name.endswith("bias") and len(model.get_parameter(name)) in (3, 100) for name in free)


@pytest.mark.parametrize("kind", KINDS)
def test_taps_show_what_the_model_says_of_itself(kind, token_batch):
    model = tiny_model(kind, "masked-lm", layers=4)
    family = family_of(model.config)
    taps, states, entered = family.taps(model), [], []
    taps.embedding.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    for layer in dict.fromkeys(taps.layers):
        layer.register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))
        layer.register_forward_hook(
            lambda _module, _inputs, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.no_grad():
        result = model(**token_batch, output_hidden_states=True)
        logits = family.lm_head(model)(family.body(model)(**token_batch).last_hidden_state)
    torch.testing.assert_close(torch.stack(states[:4]), torch.stack(result.hidden_states[:4]))
    torch.testing.assert_close(torch.stack(entered[:4]), torch.stack(result.hidden_states[:4]))
    torch.testing.assert_close(logits, result.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_from_taps_is_the_models_own(kind, token_batch):
    """Projections, rotary positions, score bias, and window, against the attention maps of a sliced model."""
    model = tiny_model(kind, layers=4, attention="eager")
    family = family_of(model.config)
    slice_model(model, family, random_keep(model, 24, 40, 3, 8))
    projections, calls = family.taps(model).projections, {}
    for module in dict.fromkeys(module for modules in projections for module in modules):
        store = calls.setdefault(module, [])
        module.register_forward_hook(lambda _module, _inputs, output, store=store: store.append(output))
    with torch.no_grad():
        expected = model(**token_batch, output_attentions=True).attentions
        mask = token_batch["attention_mask"].bool()
        length = mask.shape[1]
        for layer in range(4):
            seen = [calls[module][layer if family.shares_layers else 0] for module in projections[layer]]
            query, key, _ = torch.cat(seen, dim=-1).chunk(3, dim=-1)
            query, key, bias = family.scored(model, layer, query, key)
            query, key = (side.view(3, length, -1, 8).transpose(1, 2) for side in (query, key))
            scores = query @ key.transpose(2, 3) / math.sqrt(8)
            scores = scores if bias is None else scores + bias
            attended = mask[:, None, None, :] & in_window(family.window(model, layer), length)
            maps = scores.masked_fill(~attended, -1e9).softmax(-1)
            torch.testing.assert_close(maps.transpose(1, 2)[mask], expected[layer].transpose(1, 2)[mask])
    local = {(2, 2)} if kind.startswith("modernbert") else set()
    assert {family.window(model, layer) for layer in range(4)} == {(None, None)} | local


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ROTARY and "deberta" not in kind])
def test_longest_sequence_is_the_longest_that_the_positions_allow(kind):
    model = tiny_model(kind)
    longest = family_of(model.config).longest_sequence(model)
    tokens = torch.full((1, longest + 1), 7)
    with torch.no_grad():
        assert model(tokens[:, 1:]).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_follow_their_parameters(kind, token_batch):
    """A moment that is a copy of its parameter stays one; the query's is divided where the query is multiplied."""
    model = tiny_model(kind, "masked-lm")
    family = family_of(model.config)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**token_batch).logits.square().sum().backward()
    optimizer.step()
    for parameter, state in optimizer.state.items():
        state["exp_avg"].copy_(parameter.data)
    head_dim = 8 if kind in ROTARY else 4
    slice_model(model, family, random_keep(model, 24, 40, 3, head_dim), optimizer=optimizer)
    queries = {id(model.get_parameter(name)) for layer in family.layout(model).layers for name in layer.query}
    for parameter, state in optimizer.state.items():
        factor = 8 / head_dim if id(parameter) in queries else 1
        torch.testing.assert_close(state["exp_avg"], parameter.data * factor)
        assert state["exp_avg_sq"].shape == parameter.shape
    model(**token_batch).logits.square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_start_from_scratch_is_the_slices_shape_with_other_weights(kind, token_batch):
    model = tiny_model(kind, "masked-lm", layers=4)
    family = family_of(model.config)
    target = Shape(2, 24, 40, 3)
    before = copy.deepcopy(model.config.to_dict())
    fresh = start_from_scratch(model, family, target)
    assert model.config.to_dict() == before
    slice_model(model, family, random_keep(model, 24, 40, 3, 8))
    family.keep_layers(model, (0, 1))
    sliced = model.state_dict()
    assert {name: value.shape for name, value in fresh.state_dict().items()} == {
        name: value.shape for name, value in sliced.items()
    }
    assert family.widths(fresh).shape == target
    words = family.layout(fresh).token_rows
    assert not torch.equal(fresh.get_parameter(words), model.get_parameter(words))
    with torch.no_grad():
        assert fresh(**token_batch).logits.isfinite().all()


def test_projected_embeddings_refuse_the_size_at_which_they_would_vanish():
    model = tiny_model("electra-projected")
    with pytest.raises(ShapeError, match="hidden_size 20 is the embedding size"):
        family_of(model.config).check_target(model.config, Shape(2, 20, 40, 4))


def test_rotary_heads_keep_their_width():
    model = tiny_model("modernbert")
    family = family_of(model.config)
    family.check_target(model.config, Shape(2, 24, 40, 3))
    with pytest.raises(ShapeError, match="possible: 16 with 2 heads or 24 with 3 heads"):
        family.check_target(model.config, Shape(2, 20, 40, 4))


@pytest.mark.parametrize(
    ("kept", "period"),
    [((0, 1, 2), 3), ((0, 3), 1), ((0, 1, 3, 4), 2), ((0, 2, 3, 5), 2), ((0, 1, 2, 3, 4), 3), ((0, 1, 2, 4, 5), 5)],
)
def test_layers_that_a_stock_config_can_say_may_stay(kept, period):
    model = tiny_model("modernbert", layers=6)  # global, local, local, global, local, local
    family_of(model.config).keep_layers(model, kept)
    assert (model.config.num_hidden_layers, model.config.global_attn_every_n_layers) == (len(kept), period)


@pytest.mark.parametrize("kept", [(1, 2, 3), (0, 1, 3, 4, 5), (0, 3, 4)])
def test_layers_that_no_stock_config_can_say_are_refused(kept):
    model = tiny_model("modernbert", layers=6)
    with pytest.raises(ShapeError, match=f"layers {', '.join(str(index + 1) for index in kept)} has no stock config"):
        family_of(model.config).keep_layers(model, kept)
    assert len(family_of(model.config).widths(model).heads_per_layer) == 6


@pytest.mark.parametrize(("kind", "expected"), [("bert", (0, 1, 2, 3, 4, 5)), ("modernbert", (3, 4, 5))])
def test_removable_layers_leave_a_stock_model(kind, expected):
    model = tiny_model(kind, layers=6)
    family = family_of(model.config)
    assert family.removable_layers(model) == expected
    for layer in expected:
        family.keep_layers(copy.deepcopy(model), [index for index in range(6) if index != layer])


def test_unsupported_family_is_refused_with_the_list():
    with pytest.raises(TeacherError, match="'gpt2' cannot be pruned") as caught:
        family_of(GPT2Config())
    assert f"can be: {', '.join(supported_model_types())}; to export" in str(caught.value)
    assert {kind.partition("-projected")[0] for kind in KINDS if "-" not in kind} <= {*supported_model_types()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 6])
def test_a_model_of_any_number_of_layers_is_made_of_a_config(kind, layers):
    """A plan measures deeper models than a teacher of few layers is."""
    teacher = tiny_model(kind, layers=2)
    family = family_of(teacher.config)
    shape = replace(family.widths(teacher).shape, num_hidden_layers=layers)
    fresh = start_from_scratch(teacher, family, shape)
    assert family.widths(fresh).num_hidden_layers == fresh.config.num_hidden_layers == layers
    if types := getattr(teacher.config, "layer_types", None):
        assert fresh.config.layer_types[:2] == types[:layers]
