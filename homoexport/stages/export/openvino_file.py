"""The same model for OpenVINO's runtime.

OpenVINO fuses graphs by itself, so it is given the unfused ones: in floats, stored in fp16, which it computes in bf16
where that is fast, and with products in int8, smoothed, with scales calibrated on the text; see `openvino_graph`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from homoexport.choices import EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import RUNTIME_FILES
from homoexport.schemes import SCHEMES
from homoexport.stages.export.beside import Converted, Converter, hold, label_of
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
    if not SCHEMES[scheme].calibrated:
        return _converted(maker, form, scheme, embeddings, answer)
    form = maker.smooth(form, _STRENGTH) or form
    label = label_of("openvino", _name(form, scheme))
    converted = _converted(maker, form, scheme, embeddings, answer)
    if converted is not None or not (broken := maker.left_out[label]).startswith("breaks the gate"):
        return converted
    names = maker.products(form)

    def breaks(in_int8: Sequence[str]) -> bool:
        keep = [name for name in names if name not in set(in_int8)]
        return _converted(maker, form, scheme, embeddings, answer, keep=keep) is None

    if not breaks([]):  # else it is not the products
        kept = breakers(names, breaks)
        converted = _converted(maker, form, scheme, embeddings, answer, keep=kept)
    if converted is None:
        maker.left_out[label] = broken
    else:
        maker.left_out.pop(label, None)
    return converted


def _name(form: Form, scheme: Scheme) -> str:
    return f"{form.name}-{scheme}"


def _converted(
    maker: Maker,
    form: Form,
    scheme: Scheme,
    embeddings: EmbeddingPrecision,
    answer: Answer,
    *,
    keep: Sequence[str] = (),
) -> Converted | None:
    """A form in a scheme as OpenVINO's file; None, with the reason, if it cannot be made or is wrong."""
    source = maker.quantize(form, "fp32", embeddings)
    if source is None:
        return None
    name, stored = _name(form, scheme), _STORED[scheme]

    def write() -> Path:
        from homoexport.stages.export.openvino_graph import as_openvino, quantize_products, save

        file = maker.folder / f"openvino-{name}" / Path(OPENVINO_FILE).name
        shutil.rmtree(file.parent, ignore_errors=True)  # one with other products in floats
        file.parent.mkdir()
        with quiet():
            model = as_openvino(source.file)
            if SCHEMES[scheme].calibrated:
                quantize_products(model, maker.ranges(form, "min-max"), keep=keep)
            save(model, file, halved=stored == "fp16")
        return file

    converted = hold(maker, name, write, runtime="openvino", precision=stored, answer=answer, kept_in_fp32=tuple(keep))
    maker.discard(source)
    return converted


def _version() -> str:
    import openvino

    return str(openvino.get_version())


OPENVINO = Converter(_convert, _version)
