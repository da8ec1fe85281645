"""A model with fewer words answers as before on those that stay: every family, every head."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from homoexport.encoder.vocabulary import needed_ids, with_words
from tests.conftest import AUTO_CLASSES, FAMILY_CONFIGS, WORDS, tiny_model
from tests.trimmed import alone, each_family, ids_alone, texts_for, trimmed_once, whole_of

KEPT = [0, 1, 2, 3, 4, *range(7, len(WORDS), 3)]


def _answers(model, ids):
    with torch.no_grad():
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return result.logits if "logits" in result else result.last_hidden_state


def _holds(smaller, model, head):
    places = torch.randint(5, len(KEPT), (3, 12), generator=torch.Generator().manual_seed(0))
    expected = _answers(model, torch.tensor(KEPT)[places])
    found = _answers(smaller, places)
    if head == "masked-lm":
        expected = expected[..., KEPT]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", AUTO_CLASSES)
@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_the_words_that_stay_answer_as_before(kind, head, tmp_path):
    model = tiny_model(kind, head)
    smaller = with_words(model, KEPT)
    assert smaller.config.vocab_size == len(KEPT)
    assert smaller.get_input_embeddings().weight.shape[0] == len(KEPT)
    _holds(smaller, model, head)
    smaller.save_pretrained(tmp_path)
    _holds(AUTO_CLASSES[head].from_pretrained(tmp_path).eval(), model, head)


@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_decoder_that_is_not_tied_loses_its_rows_too(kind):
    config = tiny_model(kind).config
    config.tie_word_embeddings = False
    model = AUTO_CLASSES["masked-lm"].from_config(config).eval()
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    _holds(with_words(model, KEPT), model, "masked-lm")


def test_as_many_words_as_the_model_is_wide():
    """What has the length of the vocabulary by chance keeps it."""
    model = tiny_model("bert", "masked-lm", hidden_size=len(WORDS), heads=5)
    _holds(with_words(model, KEPT), model, "masked-lm")


def test_the_config_counts_anew():
    config = with_words(tiny_model("bert"), [0, 2, 3, 9]).config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_what_positions_are_counted_from_stays(kind):
    """The ids up to the padding's, without which every position would be another."""
    config = copy.deepcopy(tiny_model(kind).config)
    config.pad_token_id = 1
    model = AUTO_CLASSES["model"].from_config(config).eval()
    assert needed_ids(model) >= {0, 1}
    smaller = with_words(model, sorted({*needed_ids(model), *KEPT}))
    assert smaller.config.pad_token_id == 1


def test_several_ids_of_one_kind_are_counted_anew():
    model = tiny_model("bert")
    model.config.eos_token_id = [3, 9]
    assert needed_ids(model) >= {3, 9}
    assert with_words(model, [0, 2, 3, 9]).config.eos_token_id == [2, 3]


@each_family
def test_transformers_gives_the_ids_that_the_file_has(family, tmp_path_factory):
    """Its classes make tokenizers of their own out of the file's vocabulary."""
    folder = trimmed_once(tmp_path_factory, family) / "trimmed"
    texts, tokenizer = texts_for(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer(texts, truncation=False)["input_ids"] == ids_alone(folder, texts)
    assert tokenizer.get_vocab() == alone(folder).get_vocab(with_added_tokens=True)


@each_family
def test_each_piece_keeps_its_row(family, tmp_path_factory):
    folder = trimmed_once(tmp_path_factory, family)
    whole, names = whole_of(folder), alone(folder / "trimmed").get_vocab()
    table = AutoModel.from_pretrained(folder / "trimmed").get_input_embeddings().weight
    assert sorted(names.values()) == list(range(len(table)))
    before = alone(folder / "whole").get_vocab()
    rows = whole.model.get_input_embeddings().weight[[before[name] for name in names]]
    assert torch.equal(table[list(names.values())], rows)
