"""Encoders of families without an adapter: what is read off them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Data2VecTextConfig,
    Data2VecTextModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Model,
    ViTConfig,
    ViTModel,
)

from homoexport.documents.package import Pooling
from homoexport.encoder import (
    family_of,
    input_names,
    load_classifier,
    load_encoder,
    max_length_of,
    pool,
    torch_answers,
    traits_of,
)
from homoexport.encoder.vocabulary import with_words
from homoexport.errors import TeacherError
from tests.conftest import WORDS, tiny_model, tiny_tokenizer

SMALL = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"vocab_size": len(WORDS), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
QWEN = SMALL | {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64}


def write(model: PreTrainedModel, folder: Path, *, pooling: str | None = None) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer(max_length=1000).save_pretrained(folder)
    if pooling is not None:
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return str(folder)


def test_positions_are_counted_from_where_the_model_counts_them(tmp_path):
    config = Data2VecTextConfig(**SMALL, max_position_embeddings=40, pad_token_id=3)
    encoder = load_encoder(write(Data2VecTextModel(config), tmp_path))
    traits, model = traits_of(config), encoder.model
    assert (traits.settled_ids(model), traits.longest_sequence(model)) == (4, 36)
    assert max_length_of(encoder) == encoder.tokenizer.model_max_length == 36
    tokens = torch.full((1, 37), 7)
    with torch.no_grad():
        assert model(tokens[:, 1:]).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            model(tokens)


def test_of_a_pair_the_encoder_is_loaded_and_answers_as_its_own_class(tmp_path, token_batch):
    torch.manual_seed(0)
    pair = T5Model(T5Config(**T5, num_decoder_layers=1)).eval()
    encoder = load_encoder(write(pair, tmp_path, pooling="mean"))
    assert isinstance(encoder.model, T5EncoderModel)
    assert max_length_of(encoder) == 1000  # relative positions have no end
    with torch.no_grad():
        expected = pair.encoder(**token_batch).last_hidden_state
    torch.testing.assert_close(torch_answers(encoder, token_batch)["last_hidden_state"], expected)


def test_a_model_whose_files_name_no_longest_sequence_has_a_usual_one(tmp_path):
    write(T5Model(T5Config(**T5, num_decoder_layers=1)), tmp_path)
    tiny_tokenizer(max_length=int(1e30)).save_pretrained(tmp_path)
    assert max_length_of(load_encoder(str(tmp_path))) == 512


def test_last_tokens_are_pooled_whichever_side_the_padding_is_at(tmp_path):
    torch.manual_seed(0)
    encoder = load_encoder(write(Qwen3Model(Qwen3Config(**QWEN)), tmp_path, pooling="lasttoken"))
    assert encoder.pooling == Pooling(mode="lasttoken", normalize=False)
    assert input_names(encoder) == ("input_ids", "attention_mask")
    states = torch.randn(2, 3, 4)
    right, left = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    for mask, first in ((right, 1), (left, 2)):
        pooled = pool(states, mask, encoder.pooling)
        torch.testing.assert_close(pooled, torch.stack([states[0, first], states[1, 2]]))


def _vit() -> PreTrainedModel:
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32)
    return ViTModel(config)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_vit, "names no vocab_size or no hidden_size; name an encoder of text"),
        (
            lambda: AutoModel.from_config(AutoConfig.for_model("bart", **{**SMALL, "d_model": 32}, encoder_layers=1)),
            "is a pair of encoder and decoder; name an encoder of text",
        ),
        (
            lambda: AutoModel.from_config(AutoConfig.for_model("fnet", **SMALL, intermediate_size=64)),
            "its FNetModel takes no attention_mask; name an encoder of text",
        ),
    ],
)
def test_what_is_no_encoder_of_text_is_refused(tmp_path, make, words):
    with pytest.raises(TeacherError, match=words):
        load_encoder(write(make(), tmp_path))


def _opt() -> PreTrainedModel:
    more = {"ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0}
    return AutoModel.from_config(AutoConfig.for_model("opt", **SMALL, **more))


def _qwen_causal() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(Qwen3Config(**QWEN))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_opt, "its states are 2 x 4 x 16 where 2 x 4 x 32 were expected"),
        (_qwen_causal, "the head of a Qwen3ForCausalLM is not supported, and would be lost"),
        (
            lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=100, n_embd=8, n_head=1)),
            "the head of a GPT2LMHeadModel is not supported, and would be lost",
        ),
    ],
)
def test_what_would_answer_otherwise_is_refused(tmp_path, make, words):
    with pytest.raises(TeacherError, match=words):
        load_encoder(write(make(), tmp_path))


def test_a_decoders_classifier_knows_what_padding_is(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(Qwen3Config(**QWEN, num_labels=3)).eval()
    encoder = load_encoder(write(model, tmp_path))
    tokens = encoder.tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    logits = torch_answers(encoder, {name: tokens[name] for name in input_names(encoder)})["logits"]
    alone = encoder.tokenizer(["w4"], return_tensors="pt")
    expected = torch_answers(encoder, {name: alone[name] for name in input_names(encoder)})["logits"][0]
    torch.testing.assert_close(logits[1], expected)


def test_what_transformers_makes_no_classifier_of_is_refused(tmp_path):
    folder = write(T5Model(T5Config(**T5, num_decoder_layers=1)), tmp_path)
    with pytest.raises(TeacherError, match="transformers makes no classifier of a 't5'"):
        load_classifier(folder, ["good", "bad"])


def test_layers_by_any_name_are_counted_before_a_model_is_made(tmp_path):
    write(Data2VecTextModel(Data2VecTextConfig(**SMALL)), tmp_path)
    path = tmp_path / "config.json"
    for changes in ({"n_layer": 100_000}, {"num_hidden_groups": 100_000}, {"block_sizes": [1] * 100_000}):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(TeacherError, match="100000"):
            load_encoder(str(tmp_path))
        for name in changes:
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))


def test_ids_beyond_the_vocabulary_stay_as_they_are():
    model = tiny_model("bert", "masked-lm")
    model.config.eos_token_id = -1
    trimmed = with_words(model, range(50))
    assert (trimmed.config.eos_token_id, trimmed.config.vocab_size) == (-1, 50)


def test_code_of_a_folder_is_not_asked_for_a_family_that_nobody_knows(tmp_path):
    write(Data2VecTextModel(Data2VecTextConfig(**SMALL)), tmp_path)
    path = tmp_path / "config.json"
    changes: dict[str, Any] = {"model_type": "own", "auto_map": {"AutoModel": "own.Model"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(TeacherError, match=r"'own' is not one that transformers .* knows by itself"):
        load_encoder(str(tmp_path))


def test_only_pruning_asks_for_an_adapter(tmp_path):
    encoder = load_encoder(write(Data2VecTextModel(Data2VecTextConfig(**SMALL)), tmp_path))
    with pytest.raises(TeacherError, match=r"'data2vec-text' cannot be pruned.*vectors_from, any encoder will do"):
        family_of(encoder.model.config)
