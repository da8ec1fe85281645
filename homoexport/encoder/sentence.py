"""What a sentence-transformers folder says: modules, pooling and layers behind it, prompts, the longest sequence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from homoexport.choices import PoolingMode
from homoexport.documents.document import first_fault
from homoexport.documents.package import Pooling, Prompts
from homoexport.encoder.dense import Dense, read_dense, write_dense
from homoexport.encoder.folder import TOKENIZER_FILES, WEIGHTS, read_settings
from homoexport.errors import TeacherError, readable
from homoexport.packaged import leaves_its_folder
from homoexport.plain import visible

if TYPE_CHECKING:
    from homoexport.encoder.loading import Encoder

MODULES, SENTENCE_SETTINGS = "modules.json", "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
SENTENCE_FILES = (MODULES, PROMPTS, "*_Pooling/*", "*_Dense/config.json", "*_Dense/model.safetensors")
MODEL_FILES = ("config.json", "sentence_*_config.json", *TOKENIZER_FILES)  # beside the weights
_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")  # of settings' older names
_MOST_DENSE = 8
_FLAGS: dict[str, PoolingMode] = {  # in the order of their vectors, where several are on
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _inside(path: str) -> str:
    if leaves_its_folder(path) or not path.isprintable():
        raise ValueError("leads out of the model's folder")
    return path


class _Module(BaseModel):
    """One of modules.json."""

    model_config = ConfigDict(strict=True)

    type: str
    path: Annotated[str, AfterValidator(_inside)] = ""

    @property
    def kind(self) -> str:
        """The name of its class."""
        return self.type.rsplit(".", 1)[-1]


class _PoolingSettings(BaseModel):
    """The pooling's config.json: a flag for each mode, or the names of modes, which come first."""

    model_config = ConfigDict(strict=True, extra="allow")

    pooling_mode: PoolingMode | Annotated[list[PoolingMode], Field(min_length=1, max_length=len(_FLAGS))] | None = None
    include_prompt: bool = True


class _SentenceSettings(BaseModel):
    """sentence_bert_config.json; its other settings are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    max_seq_length: PositiveInt | None = None
    do_lower_case: bool | None = None


class _PromptSettings(BaseModel):
    """config_sentence_transformers.json, as far as it is read."""

    model_config = ConfigDict(strict=True)

    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None


_MODULES: TypeAdapter[list[_Module]] = TypeAdapter(list[_Module])


def _parsed(check: Any, path: Path) -> Any:
    try:
        return check(read_settings(path))
    except ValidationError as error:
        what = f"is not as sentence-transformers writes it: {first_fault(error)}"
        raise TeacherError(what, where=str(path), hint="repair it, or remove it") from None


def _entries_of(folder: Path) -> list[_Module]:
    modules = folder / MODULES
    entries: list[_Module] = _parsed(_MODULES.validate_python, modules) if modules.is_file() else []
    return entries


def _modules_of(folder: Path) -> tuple[list[str], list[str]]:
    """The kinds of a folder's modules, and their folders; none where it says nothing.

    Raises:
        TeacherError: modules besides Transformer, Pooling, Dense and Normalize, or in another order.
    """
    entries = _entries_of(folder)
    kinds = [entry.kind for entry in entries]
    pooled = ["Transformer", "Pooling", *["Dense"] * min(kinds.count("Dense"), _MOST_DENSE)]
    if entries and kinds not in (["Transformer"], pooled, [*pooled, "Normalize"]):
        shown = ", ".join(kinds[: _MOST_DENSE + 3]) + ", ..." * (len(kinds) > _MOST_DENSE + 3)
        what = f"a sentence encoder of {shown} is not supported, and parts of it would be lost"
        hint = f"supported: Transformer, Pooling, up to {_MOST_DENSE} Dense and, perhaps, Normalize, in this order"
        raise TeacherError(what, where=str(folder / MODULES), hint=hint)
    return kinds, [entry.path for entry in entries]


def is_transformer_alone(folder: Path) -> bool:
    """Whether a folder's modules are a Transformer and nothing behind it, as a CrossEncoder's are."""
    return [entry.kind for entry in _entries_of(folder)] == ["Transformer"]


def transformer_folder(folder: Path) -> Path:
    """Where a folder's model lies: there, or where sentence-transformers' modules say, as older ones do
    (0_Transformer). TeacherError where their file is not as it writes it."""
    entries = _entries_of(folder)
    return folder / entries[0].path if entries else folder


def files_of(folder: Path) -> set[Path]:
    """All files that are read of a model's folder: weights, config, tokenizer, and sentence-transformers' settings."""
    patterns = {folder: SENTENCE_FILES}
    inner = transformer_folder(folder)
    patterns[inner] = (*patterns.get(inner, ()), *MODEL_FILES, *WEIGHTS)
    return {path for place, names in patterns.items() for name in names for path in place.glob(name) if path.is_file()}


def read_pooling(folder: Path) -> Pooling:
    """Pooling of a sentence-transformers folder; mean and normalised where it says nothing.

    Raises:
        TeacherError: a pooling that sentence-transformers does not have, or one that is listed and not there; or
            modules that are not supported.
    """
    kinds, paths = _modules_of(folder)
    name = paths[1] if len(kinds) > 1 else "1_Pooling"
    path = folder / name / "config.json"
    normalize = "Normalize" in kinds if kinds else True
    with readable(TeacherError, path):  # of a name that the folder's author chose
        if not path.is_file():
            if len(kinds) > 1:
                what = f"lists the module '{name}', and there is no config.json in it"
                raise TeacherError(what, where=str(folder / MODULES), hint="copy or download the folder again, whole")
            return Pooling(normalize=normalize)
    settings: _PoolingSettings = _parsed(_PoolingSettings.model_validate, path)
    asked = settings.pooling_mode
    mode, *more = [asked] if isinstance(asked, str) else asked or _modes_of_flags(settings.model_extra or {}, path)
    return Pooling(mode=mode, normalize=normalize, more=tuple(more), include_prompt=settings.include_prompt)


def _modes_of_flags(settings: Mapping[str, JsonValue], path: Path) -> list[PoolingMode]:
    on = {name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True}
    if odd := sorted(on - _FLAGS.keys()):
        what = f"pooling {odd[0].removeprefix('pooling_mode_')} is not supported"
        raise TeacherError(what, where=str(path), hint=f"supported: {', '.join(_FLAGS.values())}")
    return [mode for name, mode in _FLAGS.items() if name in on] or ["mean"]


def read_prompts(folder: Path) -> Prompts | None:
    """The prompts of a sentence-transformers folder; None where it has none.

    Raises:
        TeacherError: the file of them is not as sentence-transformers writes it, or its default is not among them.
    """
    path = folder / PROMPTS
    if not path.is_file():
        return None
    settings: _PromptSettings = _parsed(_PromptSettings.model_validate, path)
    texts = {name: text or "" for name, text in settings.prompts.items()}
    if not any(texts.values()) and settings.default_prompt_name is None:
        return None
    prompts: Prompts = _parsed(lambda _: Prompts(texts=texts, default=settings.default_prompt_name), path)
    return prompts


def read_prompts_of_pairs(folder: Path) -> Prompts | None:
    """The prompts of a CrossEncoder's folder; refuses (TeacherError) one that stands before every pair, where packages
    would not put it."""
    prompts = read_prompts(folder) if is_transformer_alone(folder) else None
    if prompts is not None and prompts.own:
        what = f"has the prompt '{visible(str(prompts.default))}' put before every pair (default_prompt_name)"
        hint = "remove default_prompt_name, and put it into your own texts"
        raise TeacherError(what, where=str(folder / PROMPTS), hint=hint)
    return prompts


def read_dense_modules(folder: Path, width: int) -> tuple[Dense, ...]:
    """The Dense modules of a sentence-transformers folder, in their order, for vectors of a width; see `read_dense` and
    `read_pooling`."""
    dense: list[Dense] = []
    for kind, path in zip(*_modules_of(folder), strict=True):
        if kind == "Dense":
            dense.append(read_dense(folder / path, dense[-1].linear.out_features if dense else width))
    return tuple(dense)


def read_sentence_settings(folder: Path) -> dict[str, JsonValue]:
    """What a sentence-transformers folder says of its longest sequence and more; empty where it says nothing."""
    paths = (folder / f"sentence_{kind}_config.json" for kind in _KINDS)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    settings: _SentenceSettings = _parsed(_SentenceSettings.model_validate, path)
    return settings.model_dump(exclude_unset=True)


def write_sentence_files(encoder: Encoder, folder: Path, *, hidden_size: int, max_length: int | None = None) -> None:
    """Write what sentence-transformers needs to load `folder`: modules with their weights, longest sequence, prompts.

    Of an encoder without pooling nothing is written. `max_length` holds where the encoder's own folder does not say.
    """
    if encoder.pooling is None:
        return
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(_as_written(encoder.pooling, hidden_size), indent=2))
    kinds = ["Transformer", "Pooling", *["Dense"] * len(encoder.dense), *["Normalize"] * encoder.pooling.normalize]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    for dense, path in zip(encoder.dense, paths[2:], strict=False):
        write_dense(dense, folder / path)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / MODULES).write_text(json.dumps(modules, indent=2))
    prompts = encoder.home / PROMPTS  # and the similarity
    if prompts.is_file():
        shutil.copyfile(prompts, folder / PROMPTS)
    settings = {"do_lower_case": False} | read_sentence_settings(encoder.folder)
    if max_length is not None and settings.get("max_seq_length") is None:
        settings["max_seq_length"] = max_length
    (folder / SENTENCE_SETTINGS).write_text(json.dumps(settings, indent=2))


def _as_written(pooling: Pooling, hidden_size: int) -> dict[str, JsonValue]:
    """A pooling's config.json: flags, which all versions of sentence-transformers read, as far as they can say it."""
    flags: dict[str, JsonValue] = {name: mode in pooling.modes for name, mode in _FLAGS.items()}
    settings: dict[str, JsonValue] = {"word_embedding_dimension": hidden_size, **flags}
    if pooling.modes != tuple(mode for mode in _FLAGS.values() if mode in pooling.modes):
        settings = {"word_embedding_dimension": hidden_size, "pooling_mode": list(pooling.modes)}
    return settings if pooling.include_prompt else {**settings, "include_prompt": False}
