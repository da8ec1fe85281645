"""Folders as sentence-transformers and others leave them: what they say is done, or told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedModel

from homoexport.documents.package import Pooling, Prompts
from homoexport.encoder import (
    load_encoder,
    max_length_of,
    save_encoder,
    torch_answers,
    write_cross_encoder_files,
)
from homoexport.errors import HomoexportError
from homoexport.stages.evaluate import digest_of_source
from tests.conftest import WORDS, tiny_bert, tiny_model, tiny_tokenizer
from tests.pooling import BY_HAND, SEVERAL, pooled_by_hand, write_modules

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22"]


def vectors(folder: Path) -> np.ndarray:
    encoder = load_encoder(str(folder))
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    return torch_answers(encoder, tokens)["sentence_embedding"].numpy()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("modes", [*((mode,) for mode in BY_HAND), SEVERAL])
def test_vectors_are_pooled_as_the_mode_says(tiny_folder, modes, normalize):
    folder = write_modules(tiny_folder(), {"pooling_mode": list(modes)}, normalize=normalize)
    encoder = load_encoder(str(folder))
    assert encoder.pooling == Pooling(mode=modes[0], more=modes[1:], normalize=normalize)
    assert encoder.width == 32 * len(modes)
    np.testing.assert_allclose(vectors(folder), pooled_by_hand(encoder, TEXTS, modes, normalize=normalize), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "max"}, ("max",)),
        ({"pooling_mode": ["cls"]}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"], "pooling_mode_max_tokens": True}, ("mean", "cls")),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len_tokens",)),
    ],
)
def test_a_pooling_is_said_by_name_or_by_flags(tiny_folder, tmp_path, settings, modes):
    encoder = load_encoder(str(write_modules(tiny_folder(), settings)))
    assert encoder.pooling is not None
    assert encoder.pooling.modes == modes
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    assert load_encoder(str(tmp_path / "saved")).pooling == encoder.pooling
    written = json.loads((tmp_path / "saved/1_Pooling/config.json").read_text())
    assert ("pooling_mode" in written) == (modes == ("mean", "cls"))  # older versions know flags alone


def _cross_encoder(folder: Path, *, inner: str = "") -> PreTrainedModel:
    model = tiny_model("bert", "sequence")
    (folder / inner).mkdir(exist_ok=True)
    model.save_pretrained(folder / inner)
    tiny_tokenizer().save_pretrained(folder / inner)
    module = {
        "idx": 0,
        "name": "0",
        "path": inner,
        "type": "sentence_transformers.base.modules.transformer.Transformer",
    }
    (folder / "modules.json").write_text(json.dumps([module]))
    settings = {"transformer_task": "sequence-classification", "max_seq_length": 40}
    (folder / inner / "sentence_bert_config.json").write_text(json.dumps(settings))
    _set_prompts(folder)
    return model


def _set_prompts(folder: Path, **settings: object) -> None:
    written = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Tanh", **settings}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(written))


@pytest.mark.parametrize("inner", ["", "0_Transformer"])
def test_a_cross_encoder_is_a_classifier_of_pairs(tmp_path, inner):
    model = _cross_encoder(tmp_path, inner=inner)
    encoder = load_encoder(str(tmp_path))
    assert (encoder.task, encoder.pooling, max_length_of(encoder)) == ("text-classification", None, 40)
    tokens = encoder.tokenizer(["w1 w2", "w3"], ["w4", "w5 w6 w7"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).logits
    torch.testing.assert_close(torch_answers(encoder, tokens)["logits"], expected, rtol=0, atol=1e-6)
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    assert (again.task, max_length_of(again)) == ("text-classification", 40)
    (tmp_path / "written").mkdir()
    write_cross_encoder_files(again.model.config, tmp_path / "written", file_name="model.onnx", max_length=40)
    name = "config_sentence_transformers.json"
    assert json.loads((tmp_path / "written" / name).read_text()) == json.loads((tmp_path / name).read_text())


def test_a_prompt_that_stands_before_every_pair_is_not_lost_in_silence(tmp_path):
    _cross_encoder(tmp_path)
    _set_prompts(tmp_path, prompts={"query": "w3 ", "": ""}, default_prompt_name="")
    encoder = load_encoder(str(tmp_path))
    assert encoder.prompts == Prompts(texts={"query": "w3 ", "": ""}, default="")
    (tmp_path / "written").mkdir()
    write_cross_encoder_files(
        encoder.model.config, tmp_path / "written", file_name="model.onnx", max_length=40, prompts=encoder.prompts
    )
    name = "config_sentence_transformers.json"
    assert json.loads((tmp_path / "written" / name).read_text()) == json.loads((tmp_path / name).read_text())
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    assert (again.task, again.prompts, max_length_of(again)) == ("text-classification", encoder.prompts, 40)
    _set_prompts(tmp_path, prompts={"query": "w3 "}, default_prompt_name="query")
    with pytest.raises(HomoexportError, match="has the prompt 'query' put before every pair"):
        load_encoder(str(tmp_path))


def test_of_a_sentence_encoder_the_pooling_decides_and_not_the_head(tmp_path):
    tiny_model("bert", "sequence").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_encoder(str(write_modules(tmp_path, {}))).task == "sentence-similarity"


def test_a_model_in_a_folder_of_its_own_is_loaded_from_there(tiny_folder, tmp_path):
    """As older sentence-transformers left it, with a config.json of nothing but its version above."""
    plain = write_modules(tiny_folder(), {})
    inside = tmp_path / "inside"
    tiny_bert().save_pretrained(inside / "0_BERT")
    tiny_tokenizer().save_pretrained(inside / "0_BERT")
    write_modules(inside, {}, inner="0_BERT")
    (inside / "config.json").write_text('{"__version__": "0.2.5"}')
    (inside / "config_sentence_transformers.json").write_text('{"prompts": {"query": "w3 "}}')
    (inside / "0_BERT/sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    np.testing.assert_array_equal(vectors(inside), vectors(plain))
    encoder = load_encoder(str(inside))
    assert (max_length_of(encoder), encoder.prompts) == (40, Prompts(texts={"query": "w3 "}))
    saved = tmp_path / "saved"
    saved.mkdir()
    save_encoder(encoder, encoder.model, saved)
    again = load_encoder(str(saved))
    assert (max_length_of(again), again.prompts) == (40, encoder.prompts)
    np.testing.assert_array_equal(vectors(saved), vectors(plain))
    before = digest_of_source(str(inside))
    tiny_bert(seed=1).save_pretrained(inside / "0_BERT")
    assert digest_of_source(str(inside)) != before


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_the_longest_sequence_is_read_under_older_names(tiny_folder, kind):
    folder = write_modules(tiny_folder(), {})
    (folder / f"sentence_{kind}_config.json").write_text('{"max_seq_length": 40}')
    assert max_length_of(load_encoder(str(folder))) == 40


def write_cased_tokenizer(folder: Path) -> None:
    """Words w0 to w94, and letters of either case that begin or go on a word."""
    letters = [f"{before}{letter}" for letter in "wWéE" for before in ("", "##")]
    words = [*WORDS[:80], *letters, *(f"##{digit}" for digit in "01")]
    (folder / "vocab.txt").write_text("\n".join(words))  # which transformers 4 and 5 both read
    BertTokenizerFast.from_pretrained(folder, do_lower_case=False, model_max_length=64).save_pretrained(folder)


def _lower_cased(tiny_folder: Callable[[], Path], said: bool) -> Path:
    folder = tiny_folder()
    for path in folder.glob("*token*"):
        path.unlink()
    write_cased_tokenizer(folder)
    write_modules(folder, {})
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": said}))
    return folder


def test_a_cased_tokenizer_is_lower_cased_where_the_folder_says_so(tiny_folder, tmp_path):
    """By one more step before all others, as sentence-transformers does: accents stay."""
    shouted, said = ["W1 W20", "É W1"], ["w1 w20", "é w1"]
    plain = load_encoder(str(_lower_cased(tiny_folder, False)))
    assert plain.tokenizer(shouted)["input_ids"] != plain.tokenizer(said)["input_ids"]
    expected = plain.tokenizer(said)["input_ids"]
    shutil.rmtree(plain.folder)
    encoder = load_encoder(str(_lower_cased(tiny_folder, True)))
    assert encoder.tokenizer(shouted)["input_ids"] == expected
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(shouted)["input_ids"] == expected
    again = load_encoder(str(tmp_path / "saved"))
    assert again.tokenizer(shouted)["input_ids"] == expected
    spec = json.loads(again.tokenizer.backend_tokenizer.to_str())["normalizer"]
    assert [part["type"] for part in spec["normalizers"]] == ["Lowercase", "BertNormalizer"]  # once


def test_a_tokenizer_that_lowers_cases_itself_stays_as_it_is(tiny_folder):
    folder = write_modules(tiny_folder(), {})
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    backend = load_encoder(str(folder)).tokenizer.backend_tokenizer
    assert isinstance(backend.normalizer, normalizers.Lowercase)


def test_padding_is_on_the_right_whatever_the_tokenizer_s_files_say(tiny_folder, tmp_path):
    folder = write_modules(tiny_folder(), {})
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    encoder = load_encoder(str(folder))
    np.testing.assert_allclose(vectors(folder), pooled_by_hand(encoder, TEXTS, ["mean"]), atol=1e-5)
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == "right"


def test_prompts_are_read_and_kept(tiny_folder, tmp_path):
    folder = write_modules(tiny_folder(), {"include_prompt": False})
    settings = {"prompts": {"query": "w3 w4: ", "document": None}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    encoder = load_encoder(str(folder))
    assert encoder.prompts == Prompts(texts={"query": "w3 w4: ", "document": ""}, default="query")
    assert encoder.pooling == Pooling(include_prompt=False)
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    assert (again.prompts, again.pooling) == (encoder.prompts, encoder.pooling)


@pytest.mark.parametrize("settings", [None, {}, {"prompts": {"query": "", "document": ""}}])
def test_no_prompts_are_none(tiny_folder, settings):
    folder = write_modules(tiny_folder(), {})
    if settings is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert load_encoder(str(folder)).prompts is None


def _file(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


def _with_mark(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())

    return write


def _quantized(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    quantized = {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": None}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantized}))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a module that is not there": (
        lambda folder: shutil.rmtree(folder / "1_Pooling"),
        "lists the module '1_Pooling', and there is no config.json in it; copy or download",
    ),
    "a model that is not there": (
        _file("modules.json", '[{"path": "0_BERT", "type": "a.Transformer"}]'),
        "it has no config.json in 0_BERT, where its modules.json has it",
    ),
    "a mark before modules": (_with_mark("modules.json"), "modules.json: is no JSON"),
    "a mark before a pooling": (_with_mark("1_Pooling/config.json"), "1_Pooling/config.json: is no JSON"),
    "half of modules": (_file("modules.json", '[{"path": "'), "modules.json: is no JSON"),
    "modules that are no list": (
        _file("modules.json", "{}"),
        "modules.json: is not as sentence-transformers writes it",
    ),
    "a pooling that is a list": (_file("1_Pooling/config.json", "[]"), "is not as sentence-transformers writes it"),
    "a pooling of none": (_file("1_Pooling/config.json", '{"pooling_mode": []}'), "pooling_mode"),
    "a pooling of another kind": (_file("1_Pooling/config.json", '{"pooling_mode": "median"}'), "pooling_mode"),
    "another flag": (
        _file("1_Pooling/config.json", '{"pooling_mode_median": true}'),
        "pooling median is not supported",
    ),
    "poolings without end": (
        _file("1_Pooling/config.json", json.dumps({"pooling_mode": ["mean"] * 10_000})),
        "pooling_mode",
    ),
    "prompts that are a list": (_file("config_sentence_transformers.json", '{"prompts": ["a"]}'), "'prompts'"),
    "a default that is not there": (
        _file("config_sentence_transformers.json", '{"prompts": {}, "default_prompt_name": "query"}'),
        "there is no prompt 'query'",
    ),
    "quantized weights": (_quantized, "its weights are quantized already"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_damage_is_told_in_one_line(tiny_folder, change, told):
    folder = write_modules(tiny_folder(), {"pooling_mode": "mean"})
    change(folder)
    with pytest.raises(HomoexportError) as caught:
        load_encoder(str(folder))
    assert caught.value.exit_code == 2
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "modules.json"])
def test_a_file_that_may_not_be_read_is_told_as_such(tiny_folder, monkeypatch, name):
    folder = write_modules(tiny_folder(), {})
    opened = Path.open

    def open_(path: Path, *arguments: object, **named: object) -> object:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(HomoexportError, match=rf"{name}: cannot be read \(permission denied\)"):
        load_encoder(str(folder))
