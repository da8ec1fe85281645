"""The supported model families, by the `model_type` of their configs."""

from __future__ import annotations

from typing import Any

from homoexport.encoder.bert import BERT
from homoexport.encoder.distilbert import DISTILBERT
from homoexport.encoder.electra import ELECTRA
from homoexport.encoder.layout import Family
from homoexport.encoder.modernbert import MODERNBERT
from homoexport.encoder.mpnet import MPNET
from homoexport.encoder.roberta import ROBERTA
from homoexport.errors import TeacherError

_FAMILIES: tuple[Family, ...] = (BERT, ROBERTA, ELECTRA, DISTILBERT, MPNET, MODERNBERT)


def supported_model_types() -> tuple[str, ...]:
    """Every `model_type` that has an adapter."""
    return tuple(name for family in _FAMILIES for name in family.model_types)


def family_of(config: Any) -> Family:
    """The adapter of a config's family; refuses (TeacherError) a `model_type` without one."""
    for family in _FAMILIES:
        if config.model_type in family.model_types:
            return family
    raise refuse_family(config.model_type, str(getattr(config, "name_or_path", "") or "config.json"))


def refuse_family(model_type: str, source: str) -> TeacherError:
    """What is said of a `model_type` without an adapter, whatever code its folder names (`auto_map`)."""
    return TeacherError(
        f"model family '{model_type}' is not supported",
        where=source,
        hint=f"supported: {', '.join(supported_model_types())}",
    )
