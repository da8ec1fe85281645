"""The same model for OpenVINO's runtime.

OpenVINO fuses graphs by itself, so it is given the unfused ones: in floats, stored in fp16, which it computes in bf16
where that is fast, and in int8 by pairs of QuantizeLinear and DequantizeLinear, with scales calibrated on the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from homoexport.choices import EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import RUNTIME_FILES
from homoexport.stages.export.beside import Converted, Converter, hold
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.forms import Form
from homoexport.stages.export.parity import Answer
from homoexport.stages.export.quiet import quiet

OPENVINO_FILE = RUNTIME_FILES["openvino"][0]
_FORMS = (Form("unfused"), Form("unfused", merged=True))
_STORED: dict[Scheme, WeightPrecision] = {"int8-qdq": "int8", "fp32": "fp16"}


def _convert(maker: Maker, schemes: Mapping[Scheme, EmbeddingPrecision], answer: Answer) -> list[Converted]:
    return [
        converted
        for form in _FORMS
        if (written := maker.write(form)) is not None and written.sound
        for scheme, embeddings in schemes.items()
        if (converted := _converted(maker, form, scheme, embeddings, answer)) is not None
    ]


def _converted(
    maker: Maker, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, answer: Answer
) -> Converted | None:
    """A form in a scheme as OpenVINO's file; None, with the reason, if it cannot be made or is wrong."""
    source = maker.quantize(form, scheme, embeddings)
    if source is None:
        return None
    stored = _STORED[scheme]

    def write() -> Path:
        import openvino

        file = source.file.with_suffix("") / Path(OPENVINO_FILE).name
        file.parent.mkdir()
        with quiet():
            openvino.save_model(openvino.Core().read_model(source.file), file, compress_to_fp16=stored == "fp16")
        return file

    converted = hold(maker, source.full_name, write, runtime="openvino", precision=stored, answer=answer)
    maker.discard(source)
    return converted


def _version() -> str:
    import openvino

    return str(openvino.get_version())


OPENVINO = Converter(_convert, _version)
