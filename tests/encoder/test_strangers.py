"""Model folders of strangers: refused with a line, or loaded without what they smuggle in; none of their code runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from homoexport.encoder import load_classifier, load_encoder, max_length_of
from homoexport.encoder.folder import check_folder
from homoexport.encoder.loading import resolve_folder
from homoexport.errors import HomoexportError, TeacherError

DEEP = "[" * 100_000 + "]" * 100_000


class _Payload:
    """What a pickle runs."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (os.environ["CANARY"], "w")


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a payload makes; whoever asks the user gets "yes"."""
    path = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(path))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))
    return path


def _write_code(folder: Path) -> None:
    (folder / "evil.py").write_text("import os, pathlib\npathlib.Path(os.environ['CANARY']).touch()\n")


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _change(folder / "config.json", **changes)


def _change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _file(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def _tokenizer(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _change(folder / "tokenizer.json", **changes)


def _without_weights(then: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
        then(folder)

    return change


CODE = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
MODULES = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "code of an unknown type": (_config(model_type="evil", auto_map=CODE), "'evil' is not one that transformers"),
    "code that trusts itself": (
        _config(model_type="evil", auto_map=CODE, trust_remote_code=True),
        "'evil' is not one that",
    ),
    "kernels of a hub": (_config(attn_implementation="kernels-community/flash-attn2"), "attn_implementation"),
    "kernels, in private": (_config(_attn_implementation="some/kernel"), "attn_implementation"),
    "quantized": (_config(quantization_config={"quant_method": "bitsandbytes"}), "quantization_config"),
    "an adapter": (_file("adapter_config.json", '{"base_model_name_or_path": "/etc"}'), "adapter"),
    "a billion layers": (_config(num_hidden_layers=10**9), "num_hidden_layers"),
    "layers below none": (_config(num_hidden_layers=-1), "'num_hidden_layers' is -1; put the config.json there"),
    "no layers": (_config(num_hidden_layers=0), "'num_hidden_layers' is 0; put the config.json there"),
    "words beyond its weights": (_config(vocab_size=10**12), "the number 1000000000000"),
    "widths beyond its weights": (_config(hidden_size=4096, intermediate_size=4096), "parameters"),
    "positions beyond its weights": (_config(max_position_embeddings=900_000), "parameters"),
    "labels without end": (_config(num_labels=10**7), "num_labels"),
    "a width that is text": (_config(hidden_size="x"), "hidden_size"),
    "a type that is a list": (_config(model_type=["bert"]), "model_type"),
    "architectures that are numbers": (_config(architectures=[5]), "architectures"),
    "a method's name as a key": (_config(to_dict=5), "config"),
    "an activation that is none": (_config(hidden_act=[1]), "config"),
    "heads that are none": (_config(num_attention_heads=0), "no model can be made"),
    "a shape of chunks that does not fit": (_config(chunk_size_feed_forward=7), "cannot be run"),
    "JSON too deep": (_file("config.json", DEEP), "is no JSON"),
    "JSON that is a list": (_file("config.json", "[]"), "valid dictionary"),
    "bytes": (_file("config.json", b"\xff\0"), "is no JSON"),
    "weights elsewhere": (
        _without_weights(
            _file("model.safetensors.index.json", '{"weight_map": {"a": "../elsewhere.safetensors"}}'),
        ),
        "lies outside",
    ),
    "an index of numbers": (
        _without_weights(_file("model.safetensors.index.json", '{"weight_map": {"a": 5}}')),
        "weight_map",
    ),
    "a header without end": (_file("model.safetensors", struct.pack("<Q", 2**60) + b"{}"), "weights do not load"),
    "a pickle": (
        _without_weights(lambda folder: (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload())) and None),
        "",
    ),
    "modules that are text": (_file("modules.json", '["a"]'), "modules.json"),
    "modules too deep": (_file("modules.json", DEEP), "is no JSON"),
    "a module elsewhere": (
        _file("modules.json", json.dumps([MODULES[0], {"type": "a.Pooling", "path": "/etc"}])),
        "leads out",
    ),
    "a module's name that no file can have": (
        _file("modules.json", json.dumps([MODULES[0], {"type": "a.Pooling", "path": "a" * 5000}])),
        "cannot be read (file name too long)",
    ),
    "a module's code": (_file("modules.json", '[{"type": "evil.Evil", "path": ""}]'), "Evil is not supported"),
    "a length that is text": (_file("sentence_bert_config.json", '{"max_seq_length": "x"}'), "max_seq_length"),
    "a tokenizer that panics": (
        _tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "tokenizer.json does not load",
    ),
    "a tokenizer that doubles texts": (
        _tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 40}),
        "10000 times as long",
    ),
    "a tokenizer of bytes": (_file("tokenizer.json", b"\xff"), "tokenizer.json does not load"),
    "a tokenizer's length": (lambda folder: _change(folder / "tokenizer_config.json", model_max_length="x"), "tokens"),
    "a tokenizer's padding": (lambda folder: _change(folder / "tokenizer_config.json", pad_token=5), "tokenizer"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_folders_of_strangers_are_refused_in_one_line(tiny_folder, canary, capfd, change, told):
    folder = tiny_folder()
    _file("modules.json", json.dumps(MODULES))(folder)
    _file("1_Pooling/config.json", "{}")(folder)
    _write_code(folder)
    change(folder)
    with pytest.raises(HomoexportError) as caught:
        max_length_of(load_encoder(str(folder)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not canary.exists()
    assert "[y/N]" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        _config(auto_map=CODE),
        lambda folder: _change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}),
        lambda folder: _change(folder / "tokenizer_config.json", tokenizer_class="os.system"),
    ],
    ids=["of the model", "of the tokenizer", "a class elsewhere"],
)
def test_code_beside_a_known_model_is_not_run(tiny_folder, canary, change):
    folder = tiny_folder()
    _write_code(folder)
    change(folder)
    for load in (load_encoder, partial(load_classifier, names=["a", "b"])):
        with suppress(TeacherError):  # transformers 4 refuses a tokenizer of a class that it does not know
            load(str(folder))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("limit", "told"), [("config_mb", "config.json"), ("tokenizer_mb", "tokenizer.json"), ("layers", "layers")]
)
def test_limits_of_a_folder_can_be_changed(tiny_folder, monkeypatch, limit, told):
    folder = tiny_folder()
    _change(folder / "config.json", **({"num_hidden_layers": 1001} if limit == "layers" else {"padding": "x" * 10**6}))
    _change(folder / "tokenizer.json", padding="x" * 10**6)
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "config_mb=1" if limit == "config_mb" else "tokenizer_mb=1")
    with pytest.raises(TeacherError, match=f"{told}.*--limit {limit}=N"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_settings_are_held_to_the_limit_of_settings(tiny_folder, name):
    folder = tiny_folder()
    (folder / name).write_text("{" + " " * 5 * 10**6 + "}")
    with pytest.raises(TeacherError, match=f"{name}: is larger than 4 MB.*config_mb"):
        check_folder(folder, "a stranger's")


@pytest.mark.parametrize("name", ["\u3000模型", "می\u200cخواهم", "a\xa0b", "👩\u200d🔬"])
def test_words_of_every_language_name_a_model(tiny_folder, tmp_path, name):
    assert resolve_folder(str(tiny_folder().rename(tmp_path / name))) == tmp_path / name


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\x1b]0;t\x07", "a\nb"])
def test_names_that_no_model_has(name):
    with pytest.raises(TeacherError, match="no model can have that name"):
        load_encoder(name)
