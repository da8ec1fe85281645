"""What a sentence-transformers folder says: pooling, the layers behind it, and the longest sequence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, PositiveInt, TypeAdapter, ValidationError

from homoexport.choices import PoolingMode
from homoexport.documents.document import first_fault
from homoexport.documents.package import Pooling
from homoexport.encoder.dense import Dense, read_dense, write_dense
from homoexport.encoder.folder import read_settings
from homoexport.errors import TeacherError, readable
from homoexport.packaged import leaves_its_folder

if TYPE_CHECKING:
    from homoexport.encoder.loading import Encoder

SENTENCE_SETTINGS = "sentence_bert_config.json"
_MOST_DENSE = 8
_POOLING: dict[str, PoolingMode] = {  # a mode by its own name, and by that of its flag
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "lasttoken",
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


class _PoolingSettings(BaseModel):
    """The pooling's config.json: a flag for each mode, or the mode's name (sentence-transformers 6)."""

    model_config = ConfigDict(strict=True, extra="allow")

    pooling_mode: str = "mean"


class _SentenceSettings(BaseModel):
    """sentence_bert_config.json; its other settings are kept as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    max_seq_length: PositiveInt | None = None


_MODULES: TypeAdapter[list[_Module]] = TypeAdapter(list[_Module])


def _parsed(check: Any, path: Path) -> Any:
    try:
        return check(read_settings(path))
    except ValidationError as error:
        what = f"is not as sentence-transformers writes it: {first_fault(error)}"
        raise TeacherError(what, where=str(path), hint="repair it, or remove it") from None


def _modules_of(folder: Path) -> tuple[list[str], list[str]]:
    """The kinds of a folder's modules, and their folders; none where it says nothing.

    Raises:
        TeacherError: modules besides Transformer, Pooling, Dense and Normalize, or in another order.
    """
    modules = folder / "modules.json"
    entries: list[_Module] = _parsed(_MODULES.validate_python, modules) if modules.is_file() else []
    kinds = [entry.type.rsplit(".", 1)[-1] for entry in entries]
    pooled = ["Transformer", "Pooling", *["Dense"] * min(kinds.count("Dense"), _MOST_DENSE)]
    if entries and kinds not in (["Transformer"], pooled, [*pooled, "Normalize"]):
        shown = ", ".join(kinds[: _MOST_DENSE + 3]) + ", ..." * (len(kinds) > _MOST_DENSE + 3)
        what = f"a sentence encoder of {shown} is not supported, and parts of it would be lost"
        hint = f"supported: Transformer, Pooling, up to {_MOST_DENSE} Dense and, perhaps, Normalize, in this order"
        raise TeacherError(what, where=str(modules), hint=hint)
    return kinds, [entry.path for entry in entries]


def read_pooling(folder: Path) -> Pooling:
    """Pooling of a sentence-transformers folder; mean and normalised where it says nothing.

    Raises:
        TeacherError: a pooling that is neither mean, cls nor lasttoken, or modules that are not supported.
    """
    kinds, paths = _modules_of(folder)
    path = folder / (paths[1] if len(kinds) > 1 else "1_Pooling") / "config.json"
    normalize = "Normalize" in kinds if kinds else True
    with readable(TeacherError, path):  # of a name that the folder's author chose
        if not path.is_file():
            return Pooling(normalize=normalize)
    settings: _PoolingSettings = _parsed(_PoolingSettings.model_validate, path)
    others = settings.model_extra or {}
    flags = (name for name, on in others.items() if name.startswith("pooling_mode_") and on is True)
    modes = [name.removeprefix("pooling_mode_") for name in flags] or [settings.pooling_mode]
    if len(modes) != 1 or modes[0] not in _POOLING:
        hint = "supported: mean, cls, lasttoken"
        raise TeacherError(f"pooling {'+'.join(modes)} is not supported", where=str(path), hint=hint)
    return Pooling(mode=_POOLING[modes[0]], normalize=normalize)


def read_dense_modules(folder: Path, hidden_size: int) -> tuple[Dense, ...]:
    """The Dense modules of a sentence-transformers folder, in their order; see `read_dense` and `read_pooling`."""
    dense: list[Dense] = []
    for kind, path in zip(*_modules_of(folder), strict=True):
        if kind == "Dense":
            width = dense[-1].linear.out_features if dense else hidden_size
            dense.append(read_dense(folder / path, width))
    return tuple(dense)


def read_sentence_settings(folder: Path) -> dict[str, JsonValue]:
    """What a sentence-transformers folder says of its longest sequence and more; empty where it says nothing."""
    path = folder / SENTENCE_SETTINGS
    if not path.is_file():
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
    pooling = {
        "word_embedding_dimension": hidden_size,
        "pooling_mode_cls_token": encoder.pooling.mode == "cls",
        "pooling_mode_mean_tokens": encoder.pooling.mode == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_lasttoken": encoder.pooling.mode == "lasttoken",
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))
    kinds = ["Transformer", "Pooling", *["Dense"] * len(encoder.dense), *["Normalize"] * encoder.pooling.normalize]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    for dense, path in zip(encoder.dense, paths[2:], strict=False):
        write_dense(dense, folder / path)
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    prompts = encoder.folder / "config_sentence_transformers.json"  # what to put before queries, and the similarity
    if prompts.is_file():
        shutil.copyfile(prompts, folder / prompts.name)
    settings = {"do_lower_case": False} | read_sentence_settings(encoder.folder)
    if max_length is not None and settings.get("max_seq_length") is None:
        settings["max_seq_length"] = max_length
    (folder / SENTENCE_SETTINGS).write_text(json.dumps(settings, indent=2))
