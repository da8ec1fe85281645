"""What a sentence-transformers folder says: pooling, and the longest sequence."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import JsonValue

from homoexport.choices import PoolingMode
from homoexport.documents.package import Pooling
from homoexport.errors import TeacherError

SENTENCE_SETTINGS = "sentence_bert_config.json"


def read_pooling(folder: Path) -> Pooling:
    """Pooling of a sentence-transformers folder; mean and normalised where it says nothing.

    Raises:
        TeacherError: a pooling that is neither mean nor cls, or modules besides Transformer, Pooling and Normalize.
    """
    modules = folder / "modules.json"
    entries = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    kinds = [str(entry["type"]).rsplit(".", 1)[-1] for entry in entries]
    if entries and kinds not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        what = f"a sentence encoder of {', '.join(kinds)} is not supported, and parts of it would be lost"
        hint = "supported: Transformer, Pooling and, perhaps, Normalize, in this order"
        raise TeacherError(what, where=str(modules), hint=hint)
    named = [entry["path"] for entry, kind in zip(entries, kinds, strict=True) if kind == "Pooling"]
    path = folder / (named[0] if named else "1_Pooling") / "config.json"
    if not path.is_file():
        return Pooling()
    settings = json.loads(path.read_text(encoding="utf-8"))
    flags = (name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True)
    modes = [name.removeprefix("pooling_mode_") for name in flags]
    modes = modes or [settings.get("pooling_mode", "mean")]  # sentence-transformers 6 writes one string
    if len(modes) != 1 or modes[0] not in ("mean", "mean_tokens", "cls", "cls_token"):
        raise TeacherError(f"pooling {'+'.join(modes)} is not supported", where=str(path), hint="supported: mean, cls")
    mode: PoolingMode = "mean" if modes[0] in ("mean", "mean_tokens") else "cls"
    return Pooling(mode=mode, normalize="Normalize" in kinds if entries else True)


def read_sentence_settings(folder: Path) -> dict[str, JsonValue]:
    """What a sentence-transformers folder says of its longest sequence and more; empty where it says nothing."""
    path = folder / SENTENCE_SETTINGS
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise TeacherError("is no JSON object", where=str(path), hint="repair it, or remove it")
    return settings
