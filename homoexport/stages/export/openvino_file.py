"""The same model for OpenVINO's runtime.

OpenVINO fuses graphs by itself, so it is given the unfused ones: in floats, stored in fp16, which it computes in bf16
where that is fast, and with products in int8, smoothed, with scales calibrated on the text; see `openvino_graph`.
Attention is in int8, too, on processors where that is faster than in floats.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from homoexport.choices import EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import RUNTIME_FILES
from homoexport.host import describe_host
from homoexport.schemes import SCHEMES, attends_in_int8
from homoexport.stages.export.beside import Converted, Converter, hold, right
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.choose import breakers
from homoexport.stages.export.forms import Form
from homoexport.stages.export.parity import Answer
from homoexport.stages.export.quiet import quiet

OPENVINO_FILE = RUNTIME_FILES["openvino"][0]
_FORMS = (Form("unfused"), Form("unfused", merged=True))
_STORED: dict[Scheme, WeightPrecision] = {"int8-static": "int8", "fp32": "fp16"}
_STRENGTH = 0.8  # of smoothing: on MiniLM-L6 cosines of .998 to torch's, .993 without, and no slower


def _convert(maker: Maker, schemes: Mapping[Scheme, EmbeddingPrecision], answer: Answer) -> list[Converted]:
    return [
        converted
        for form in _FORMS
        if (written := maker.write(form)) is not None and written.sound
        for scheme, embeddings in schemes.items()
        if (converted := _sound_or_mended(maker, form, scheme, embeddings, answer)) is not None
    ]


def _sound_or_mended(
    maker: Maker, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, answer: Answer
) -> Converted | None:
    """A form in a scheme; if int8 breaks the gate, with the products left in floats that break it."""
    calibrated = SCHEMES[scheme].calibrated
    if calibrated:
        form = maker.smooth(form, _STRENGTH) or form
    if calibrated and attends_in_int8(describe_host().instruction_sets):
        attending = _converted(maker, form, scheme, embeddings, answer, attention=True)
        if (attending := right(maker, attending, runtime="openvino")) is not None:
            return attending
    converted = _converted(maker, form, scheme, embeddings, answer)
    if calibrated and converted is not None and not converted.parity.passed:
        converted = _mended(maker, converted, form, scheme, embeddings, answer)
    return right(maker, converted, runtime="openvino")


def _mended(
    maker: Maker, broken: Converted, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, answer: Answer
) -> Converted | None:
    """The form with the products in floats that break the gate in int8; what is broken, if it is not the products."""
    names = maker.products(form)

    def breaks(in_int8: Sequence[str]) -> bool:
        keep = [name for name in names if name not in set(in_int8)]
        trial = _converted(maker, form, scheme, embeddings, answer, keep=keep)
        return trial is None or not trial.parity.passed

    if breaks([]):
        return broken
    return _converted(maker, form, scheme, embeddings, answer, keep=breakers(names, breaks))


def _converted(
    maker: Maker,
    form: Form,
    scheme: Scheme,
    embeddings: EmbeddingPrecision,
    answer: Answer,
    *,
    keep: Sequence[str] = (),
    attention: bool = False,
) -> Converted | None:
    """A form in a scheme as OpenVINO's file; None, with the reason, if it cannot be made."""
    source = maker.quantize(form, "fp32", embeddings)
    if source is None:
        return None
    name, stored = f"{form.name}{'+attention' * attention}-{scheme}", _STORED[scheme]

    def write() -> Path:
        from homoexport.stages.export.openvino_graph import as_openvino, quantize_products, save

        file = maker.folder / f"openvino-{name}" / Path(OPENVINO_FILE).name
        shutil.rmtree(file.parent, ignore_errors=True)  # one with other products in floats
        file.parent.mkdir()
        with quiet():
            model = as_openvino(source.file)
            if SCHEMES[scheme].calibrated:
                quantize_products(model, maker.ranges(form, "min-max"), keep=keep, attention=attention)
            save(model, file, halved=stored == "fp16")
        return file

    return hold(maker, name, write, runtime="openvino", precision=stored, answer=answer, kept_in_fp32=tuple(keep))


def _version() -> str:
    import openvino

    return str(openvino.get_version())


OPENVINO = Converter(_convert, _version)
