"""What a sentence-transformers folder says: pooling, and the longest sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue, PositiveInt, TypeAdapter, ValidationError

from homoexport.choices import PoolingMode
from homoexport.documents.document import first_fault
from homoexport.documents.package import Pooling
from homoexport.encoder.folder import read_settings
from homoexport.errors import TeacherError, readable
from homoexport.packaged import leaves_its_folder

SENTENCE_SETTINGS = "sentence_bert_config.json"


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


def read_pooling(folder: Path) -> Pooling:
    """Pooling of a sentence-transformers folder; mean and normalised where it says nothing.

    Raises:
        TeacherError: a pooling that is neither mean nor cls, or modules besides Transformer, Pooling and Normalize.
    """
    modules = folder / "modules.json"
    entries: list[_Module] = _parsed(_MODULES.validate_python, modules) if modules.is_file() else []
    kinds = [entry.type.rsplit(".", 1)[-1] for entry in entries]
    if entries and kinds not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        what = f"a sentence encoder of {', '.join(kinds)} is not supported, and parts of it would be lost"
        hint = "supported: Transformer, Pooling and, perhaps, Normalize, in this order"
        raise TeacherError(what, where=str(modules), hint=hint)
    named = [entry.path for entry, kind in zip(entries, kinds, strict=True) if kind == "Pooling"]
    path = folder / (named[0] if named else "1_Pooling") / "config.json"
    with readable(TeacherError, path):  # of a name that the folder's author chose
        if not path.is_file():
            return Pooling()
    settings: _PoolingSettings = _parsed(_PoolingSettings.model_validate, path)
    others = settings.model_extra or {}
    flags = (name for name, on in others.items() if name.startswith("pooling_mode_") and on is True)
    modes = [name.removeprefix("pooling_mode_") for name in flags] or [settings.pooling_mode]
    if len(modes) != 1 or modes[0] not in ("mean", "mean_tokens", "cls", "cls_token"):
        raise TeacherError(f"pooling {'+'.join(modes)} is not supported", where=str(path), hint="supported: mean, cls")
    mode: PoolingMode = "mean" if modes[0] in ("mean", "mean_tokens") else "cls"
    return Pooling(mode=mode, normalize="Normalize" in kinds if entries else True)


def read_sentence_settings(folder: Path) -> dict[str, JsonValue]:
    """What a sentence-transformers folder says of its longest sequence and more; empty where it says nothing."""
    path = folder / SENTENCE_SETTINGS
    if not path.is_file():
        return {}
    settings: _SentenceSettings = _parsed(_SentenceSettings.model_validate, path)
    return settings.model_dump(exclude_unset=True)
