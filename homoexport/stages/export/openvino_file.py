"""The same model for OpenVINO's runtime: a file beside the ONNX file, where it is faster on the target.

OpenVINO fuses graphs by itself, so it is given the unfused ones: in floats, stored in fp16, which it computes in bf16
where that is fast, and in int8 by pairs of QuantizeLinear and DequantizeLinear, with scales calibrated on the text.
Each is held against torch by a worker in that runtime, and timed there in turns with the ONNX file that was chosen.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from homoexport.choices import EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import OpenVinoFile
from homoexport.errors import ParityError
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.choose import TIE, Rank
from homoexport.stages.export.forms import Form
from homoexport.stages.export.parity import Answer, check_parity
from homoexport.stages.export.quiet import quiet

OPENVINO_FILE = "openvino/openvino_model.xml"  # where optimum-intel and sentence-transformers look for it
_FORMS = (Form("unfused"), Form("unfused", merged=True))
_STORED: dict[Scheme, WeightPrecision] = {"int8-qdq": "int8", "fp32": "fp16"}


def write_openvino(
    maker: Maker,
    chosen: Candidate,
    folder: Path,
    *,
    schemes: dict[Scheme, EmbeddingPrecision],
    rank: Rank,
    answer: Answer,
    asked: bool,
) -> OpenVinoFile | str:
    """Write the fastest file for OpenVINO into a package's folder; or why not, if it is no faster than the ONNX file.

    Args:
        schemes: what to try, and how each stores the embedding tables.
        rank: median milliseconds of files of either runtime, in their order.
        answer: runs a file in its runtime.
        asked: whether it is written however slow it is.

    Raises:
        ParityError: it was asked for, and nothing answers in OpenVINO as the model does.
    """
    made = [
        candidate
        for form in _FORMS
        if (written := maker.write(form)) is not None and written.sound
        for scheme, embeddings in schemes.items()
        if (candidate := _converted(maker, form, scheme, embeddings, answer)) is not None
    ]
    if not made:
        reasons = "; ".join(f"{name}: {why}" for name, why in maker.left_out.items() if name.startswith("openvino "))
        what = f"nothing in OpenVINO answers as the model does ({reasons or 'there is no scheme to try'})"
        if asked:
            raise ParityError(what)
        return what
    maker.progress("measuring OpenVINO beside the chosen graph")
    ours, *theirs = rank([chosen.file, *(candidate.file for candidate in made)])
    latency, best = min(zip(theirs, made, strict=True), key=lambda pair: pair[0])
    if not asked and not latency * TIE < ours:
        return f"takes {latency / ours:.2f} times as long as {chosen.name} ({latency:.3f} ms against {ours:.3f} ms)"
    return _ship(best, folder, latency_ms=latency, onnx_ms=ours)


def _converted(
    maker: Maker, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, answer: Answer
) -> Candidate | None:
    """A form in a scheme as OpenVINO's file, held against torch; None, with the reason, if it is wrong."""
    source = maker.quantize(form, scheme, embeddings)
    if source is None:
        return None
    name = f"openvino {source.name}"
    maker.progress(f"converting the {source.name} graph to OpenVINO")

    def write() -> Candidate:
        import openvino

        file, stored = source.file.with_suffix(".xml"), _STORED[scheme]
        with quiet():
            openvino.save_model(openvino.Core().read_model(source.file), file, compress_to_fp16=stored == "fp16")
        parity = check_parity(file, maker.batches.all, task=maker.encoder.task, precision=stored, answer=answer)
        file_bytes = sum(part.stat().st_size for part in _parts(file))
        return replace(source, file=file, file_bytes=file_bytes, parity=parity)

    candidate = maker.attempt(name, write)
    maker.discard(source)
    if candidate is None or candidate.sound:
        return candidate
    assert candidate.parity is not None
    figures = f"cosine {candidate.parity.mean_cosine:.4f} mean and {candidate.parity.min_cosine:.4f} least"
    maker.left_out[name] = f"breaks the gate: {figures}"
    return None


def _parts(file: Path) -> Sequence[Path]:
    return file, file.with_suffix(".bin")


def _ship(best: Candidate, folder: Path, *, latency_ms: float, onnx_ms: float) -> OpenVinoFile:
    import openvino

    target = folder / OPENVINO_FILE
    target.parent.mkdir()
    for part in _parts(best.file):
        shutil.copyfile(part, target.with_suffix(part.suffix))
    assert best.parity is not None
    return OpenVinoFile(
        file=OPENVINO_FILE,
        candidate=best.full_name,
        precision=_STORED[best.scheme],
        file_bytes=best.file_bytes,
        openvino=openvino.get_version(),
        parity=best.parity,
        latency_p50_ms=latency_ms if math.isfinite(latency_ms) else None,
        onnx_latency_p50_ms=onnx_ms if math.isfinite(onnx_ms) else None,
    )
