"""The model families that can be pruned, by the `model_type` of their configs."""

from __future__ import annotations

from typing import Any

from homoexport.encoder.albert import ALBERT
from homoexport.encoder.bert import BERT
from homoexport.encoder.deberta_v2 import DEBERTA_V2
from homoexport.encoder.distilbert import DISTILBERT
from homoexport.encoder.electra import ELECTRA
from homoexport.encoder.gemma3 import GEMMA3
from homoexport.encoder.layout import Family
from homoexport.encoder.modernbert import MODERNBERT
from homoexport.encoder.mpnet import MPNET
from homoexport.encoder.nomic_bert import NOMIC_BERT
from homoexport.encoder.prenorm import EUROBERT, QWEN3
from homoexport.encoder.roberta import ROBERTA
from homoexport.encoder.traits import Traits
from homoexport.errors import TeacherError

_FAMILIES: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    ELECTRA,
    DISTILBERT,
    MPNET,
    MODERNBERT,
    ALBERT,
    DEBERTA_V2,
    NOMIC_BERT,
    EUROBERT,
    QWEN3,
    GEMMA3,
)
_ANY = Traits()


def supported_model_types() -> tuple[str, ...]:
    """Every `model_type` that has an adapter."""
    return tuple(name for family in _FAMILIES for name in family.model_types)


def traits_of(config: Any) -> Traits:
    """What is known of a config's family; of a `model_type` without an adapter, what holds for any."""
    return _adapter_of(config) or _ANY


def family_of(config: Any) -> Family:
    """The adapter of a config's family; refuses (TeacherError) a `model_type` without one."""
    if family := _adapter_of(config):
        return family
    raise TeacherError(
        f"model family '{config.model_type}' cannot be pruned, for that asks for an adapter",
        where=str(getattr(config, "name_or_path", "") or "config.json"),
        hint=f"can be: {', '.join(supported_model_types())}; to export, bench, eval and trim, and as "
        "distill.vectors_from, any encoder will do",
    )


def _adapter_of(config: Any) -> Family | None:
    return next((family for family in _FAMILIES if config.model_type in family.model_types), None)
