"""The same model for CTranslate2: its encoder as CTranslate2's own converter writes it, and what comes behind as ours.

CTranslate2 gives states alone. How the task's output is made of them lies beside, in head.json, for numpy. Weights in
int8 have a scale for each row, and the activations one for each token, as they come.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from homoexport.choices import OUTPUT_NAMES, EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import RUNTIME_FILES
from homoexport.encoder import Encoder, behind_states, input_names
from homoexport.runtime.worker.head import Head, Layer, write_head
from homoexport.stages.export.beside import Converted, Converter, hold, right
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.forms import NotThisForm
from homoexport.stages.export.parity import Answer
from homoexport.stages.export.quiet import quiet

_KNOWN = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")  # encoders that its converter has
_STORED: dict[Scheme, WeightPrecision] = {"int8": "int8", "fp32": "fp32"}
_QUANTIZATION: dict[WeightPrecision, str] = {"int8": "int8", "fp32": "float32"}
_MODEL_NAME = Path(RUNTIME_FILES["ctranslate2"][0]).name


def _why_not(encoder: Encoder) -> str | None:
    config = encoder.model.config
    if config.model_type not in _KNOWN:
        return f"CTranslate2 has no encoder of the family {config.model_type} (it has {', '.join(_KNOWN)})"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return f"CTranslate2 has no {config.position_embedding_type} position embeddings for {config.model_type}"
    if behind_states(encoder) is None:
        return f"CTranslate2 gives states alone, and those of a {encoder.task} model need more than linear layers"
    return None


def _convert(maker: Maker, schemes: Mapping[Scheme, EmbeddingPrecision], answer: Answer) -> list[Converted]:
    made = []
    for scheme, embeddings in schemes.items():

        def write(scheme: Scheme = scheme, embeddings: EmbeddingPrecision = embeddings) -> Path:
            folder, stored = maker.folder / f"ctranslate2-{scheme}", stored_as(scheme, embeddings)
            return write_folder(maker.encoder, folder, stored, work=maker.folder)

        converted = hold(maker, scheme, write, runtime="ctranslate2", precision=_STORED[scheme], answer=answer)
        made.append(right(maker, converted, runtime="ctranslate2"))
    return [converted for converted in made if converted is not None]


def stored_as(scheme: Scheme, embeddings: EmbeddingPrecision) -> WeightPrecision:
    """The precision of all weights in a scheme; NotThisForm where the embedding tables are to be in another."""
    stored = _STORED[scheme]
    if embeddings != stored:
        raise NotThisForm(f"its embedding tables are stored as its weights are, in {stored}")
    return stored


def write_folder(encoder: Encoder, folder: Path, stored: WeightPrecision, *, work: Path) -> Path:
    """The model in a new folder; the path of its weights."""
    from ctranslate2.converters import TransformersConverter

    body, words = _body(encoder), _words(encoder)

    class Loaded(TransformersConverter):  # type: ignore[misc]  # the library has no types
        """CTranslate2's converter, of a model that is loaded already."""

        def load_model(self, *_names: object, **_settings: object) -> SimpleNamespace:
            return body

        def load_tokenizer(self, *_names: object, **_settings: object) -> SimpleNamespace:
            return words

        def _load(self) -> Any:
            spec = super()._load()
            for name in ("pooler_dense", "pooler_activation"):  # computed with every answer, and nobody's
                vars(spec).pop(name, None)
            return spec

    config = work / "ctranslate2-config"
    body.config.save_pretrained(config)
    with quiet():
        Loaded(str(config)).convert(str(folder), quantization=_QUANTIZATION[stored])
    write_head(folder, head_of(encoder))
    return folder / _MODEL_NAME


def _body(encoder: Encoder) -> SimpleNamespace:
    """A copy of the model's encoder, for the converter scales weights where they lie; as each of its loaders asks."""
    body = copy.deepcopy(encoder.model.base_model)
    body.config.position_embedding_type = "absolute"  # which newer configs do not say
    places = body.embeddings.position_embeddings
    if places.padding_idx is not None:  # RoBERTa's count from behind it; its loader knows that of indices above 0 alone
        used = places.weight.detach()[places.padding_idx + 1 :]
        body.embeddings.position_embeddings = nn.Embedding(len(used), used.shape[1], padding_idx=0, _weight=used)
    parts = SimpleNamespace(config=body.config, embeddings=body.embeddings, pooler=None)
    if body.config.model_type == "bert":
        parts.pooler = SimpleNamespace(dense=nn.Linear(1, 1))  # that loader takes one, and it is dropped
    parts.encoder = parts.transformer = body.transformer if body.config.model_type == "distilbert" else body.encoder
    parts.roberta = parts
    return parts


def _words(encoder: Encoder) -> SimpleNamespace:
    """A tokenizer with as many words as the model has rows for them, as CTranslate2 asks."""
    known = {number: word for word, number in encoder.tokenizer.get_vocab().items()}
    words = {known.get(number, f"<extra_id_{number}>"): number for number in range(_rows(encoder))}
    return SimpleNamespace(get_vocab=lambda: words, unk_token=encoder.tokenizer.unk_token or next(iter(words)))


def _rows(encoder: Encoder) -> int:
    return int(encoder.model.get_input_embeddings().weight.shape[0])


def head_of(encoder: Encoder) -> Head:
    """How numpy makes the task's output of the states of an encoder that `behind_states` knows."""
    behind = behind_states(encoder)
    assert behind is not None
    pooling, layers = behind
    return Head(
        output=OUTPUT_NAMES[encoder.task][0],
        vocab_size=_rows(encoder),
        token_types=encoder.model.config.type_vocab_size if "token_type_ids" in input_names(encoder) else 0,
        pooling=None if pooling is None else pooling.modes if pooling.more else pooling.mode,
        normalize=pooling is not None and pooling.normalize,
        layers=tuple(Layer(*dense.arrays()) for dense in layers),
    )


def _version() -> str:
    import ctranslate2

    return str(ctranslate2.__version__)


CTRANSLATE2 = Converter(_convert, _version, _why_not)
