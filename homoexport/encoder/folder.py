"""What a model's folder may hold: checked before any library makes something of it.

A folder may be a stranger's. transformers would import code that it names, load another model under its weights, fetch
kernels, and make a model of any size; nothing of that is wanted of an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import transformers
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json
from safetensors import safe_open
from transformers import CONFIG_MAPPING

from homoexport.documents.document import first_fault
from homoexport.errors import TeacherError, readable, refusing
from homoexport.growth import refuse_growth
from homoexport.limits import MB, LimitName, limit, raise_hint
from homoexport.packaged import leaves_its_folder

TOKENIZER_FILES = ("tokenizer*", "vocab*", "special_tokens_map.json", "added_tokens.json", "*.model", "merges.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")  # of these
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_PLAIN_ATTENTION = (None, "eager", "sdpa")
_OWN_CONFIG = "put the config.json there that the weights were saved with"
_OF_LAYERS = re.compile(r"layer(?!_?norm)|hidden_groups|group_num|block_sizes")  # in a key: how many there are
_LEAST_BYTES = MB  # of weights, for what a model's numbers are held against
_Size = Annotated[int, Field(ge=0)]


class _Config(BaseModel):
    """Of a config.json what is read before, or beside, transformers; the rest is its own."""

    model_config = ConfigDict(strict=True, extra="allow")

    model_type: str
    architectures: list[str] | None = Field(None, max_length=100)
    is_decoder: bool = False
    position_embedding_type: str | None = None
    hidden_size: _Size | None = None
    vocab_size: _Size | None = None
    type_vocab_size: _Size | None = None
    max_position_embeddings: _Size | None = None
    num_labels: _Size | None = Field(None, le=100_000)
    id2label: dict[str, str | int] | None = None


class _Index(BaseModel):
    """The files that sharded weights are in, by the weights' names."""

    model_config = ConfigDict(strict=True)

    weight_map: dict[str, str]


def read_settings(path: Path) -> JsonValue:
    """A JSON file that another program wrote.

    Raises:
        TeacherError: it cannot be read, is too large, or is no JSON.
    """
    check_size(path, "config_mb")
    with readable(TeacherError, path):
        content = path.read_bytes()
    with refusing(TeacherError, "is no JSON", where=str(path), hint="copy or download it again"):
        value: JsonValue = from_json(content)
    return value


def check_folder(folder: Path, source: str) -> None:
    """Refuse (TeacherError) what no encoder's folder needs.

    Code or a model of another place, kernels, quantized weights, files far too large, a tokenizer that would make texts
    endless, and numbers in its config.json that its weights cannot bear out.
    """
    where, config = str(folder / "config.json"), read_settings(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(kind, str) and kind not in CONFIG_MAPPING:  # whatever code it names (`auto_map`)
        what = f"model family '{kind}' is not one that transformers {transformers.__version__} knows by itself"
        raise TeacherError(what, where=source, hint="name a model without code of its own, or upgrade transformers")
    if isinstance(config, dict) and config.get("quantization_config") is not None:
        what = "its weights are quantized already ('quantization_config')"
        raise TeacherError(what, where=where, hint="name the model that it was made from, in floats")
    _parsed(_Config, config, where)
    assert isinstance(config, dict)
    for key, value in config.items():
        if key.endswith("attn_implementation") and value not in _PLAIN_ATTENTION:
            hint = "remove that line, for kernels of others are not run"
            raise TeacherError(f"'{key}' is '{value}'", where=where, hint=hint)
        if "layers" in key and key != "max_window_layers" and type(value) is int and value <= 0:
            raise TeacherError(f"'{key}' is {value}", where=where, hint=_OWN_CONFIG)
        count = len(value) if isinstance(value, list) else value
        if _OF_LAYERS.search(key) and type(count) is int and count > limit("layers"):
            said = f"has {count} entries" if isinstance(value, list) else f"is {count}"
            raise TeacherError(f"'{key}' {said}", where=where, hint=raise_hint("layers"))
    for path in (path for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file()):
        with readable(TeacherError, path):
            path.open("rb").close()  # which transformers would say is not there
        if path.suffix == ".safetensors":
            _check_whole(path)
    bytes_there = max(_LEAST_BYTES, weights_bytes(folder))
    if number := next((number for number in _numbers(config) if number > bytes_there), None):
        what = f"holds the number {number}, and all of its weights are {weights_bytes(folder)} bytes"
        raise TeacherError(what, where=where, hint=_OWN_CONFIG)
    if (folder / "adapter_config.json").exists():
        hint = "merge it into its model (merge_and_unload), and save that"
        raise TeacherError("is an adapter of another model", where=source, hint=hint)
    for path in (path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        check_size(path, "config_mb" if path.name in _SETTINGS else "tokenizer_mb")
    refuse_growth(folder / "tokenizer.json", TeacherError)
    for path in folder.glob("*.index.json"):
        index = _parsed(_Index, read_settings(path), str(path))
        if odd := next((name for name in index.weight_map.values() if leaves_its_folder(name) or "/" in name), None):
            raise TeacherError(
                f"names '{odd}', which lies outside of the folder", where=str(path), hint="do not use it"
            )


def _check_whole(path: Path) -> None:
    """Refuse (TeacherError) a file of weights that ends before its header says: else config.json would be blamed."""
    what = "its weights do not load, for the file is damaged or was cut short"
    with refusing(TeacherError, what, where=str(path), hint="copy or download it again"), safe_open(path, "numpy"):
        pass


def weights_bytes(folder: Path) -> int:
    """Bytes of all files of weights."""
    return sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern) if path.is_file())


def check_size(path: Path, name: LimitName) -> None:
    """Refuse (TeacherError) a file beyond a limit in megabytes."""
    if path.is_file() and path.stat().st_size > limit(name) * MB:
        raise TeacherError(f"is larger than {limit(name)} MB", where=str(path), hint=raise_hint(name))


def _parsed(kind: Any, value: JsonValue, where: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        hint = "put the file there that the model was saved with"
        raise TeacherError(f"does not have what a model needs: {first_fault(error)}", where=where, hint=hint) from None


def _numbers(value: JsonValue) -> Iterator[int]:
    """All whole numbers in a JSON value; its depth is from_json's."""
    if type(value) is int:
        yield abs(value)
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
