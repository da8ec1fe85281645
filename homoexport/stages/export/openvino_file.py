"""The same model for OpenVINO's runtime: a file beside the ONNX file, where it is faster on the target.

OpenVINO fuses graphs by itself, so it is given the unfused ones: in floats, stored in fp16, which it computes in bf16
where that is fast, and with products in int8, smoothed, with scales calibrated on the text; see `openvino_graph`. Each
is held against torch by a worker in that runtime, and timed there in turns with the ONNX file that was chosen.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from homoexport.choices import Calibration, EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.documents.package import OpenVinoFile
from homoexport.errors import ParityError
from homoexport.schemes import SCHEMES
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.choose import TIE, Rank, breakers
from homoexport.stages.export.forms import Form
from homoexport.stages.export.parity import Answer, check_parity
from homoexport.stages.export.quiet import quiet

OPENVINO_FILE = "openvino/openvino_model.xml"  # where optimum-intel and sentence-transformers look for it
_FORMS = (Form("unfused"), Form("unfused", merged=True))
_STORED: dict[Scheme, WeightPrecision] = {"int8-static": "int8", "fp32": "fp16"}
_STRENGTH = 0.8  # of smoothing: on MiniLM-L6 cosines of .998 to torch's, .993 without, and no slower


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
        if (candidate := _candidate(maker, form, scheme, embeddings, answer)) is not None
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


def _candidate(
    maker: Maker, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, answer: Answer
) -> Candidate | None:
    """A form in a scheme as OpenVINO's file, held against torch; None, with the reason, if it is wrong.

    Products whose int8 breaks the gate are left in floats.
    """
    if scheme == "int8-static":
        form = maker.smooth(form, _STRENGTH) or form
    maker.progress(f"converting the {form.name} graph to OpenVINO ({scheme})")
    candidate = _converted(maker, form, scheme, embeddings, answer)
    if candidate is None or candidate.sound:
        return candidate
    if scheme == "int8-static":
        maker.progress("looking for the layers that break the gate in OpenVINO")
        names = maker.products(form)

        def breaks(in_int8: Sequence[str]) -> bool:
            keep = [name for name in names if name not in set(in_int8)]
            trial = _converted(maker, form, scheme, embeddings, answer, keep=keep)
            return trial is None or not trial.sound

        if not breaks([]):
            kept = breakers(names, breaks)
            return _converted(maker, form, scheme, embeddings, answer, keep=kept)
    assert candidate.parity is not None
    figures = f"cosine {candidate.parity.mean_cosine:.4f} mean and {candidate.parity.min_cosine:.4f} least"
    maker.left_out[_name_of(candidate.full_name)] = f"breaks the gate: {figures}"
    return None


def _name_of(candidate: str) -> str:
    return f"openvino {candidate}"


def _converted(
    maker: Maker,
    form: Form,
    scheme: Scheme,
    embeddings: EmbeddingPrecision,
    answer: Answer,
    *,
    keep: Sequence[str] = (),
) -> Candidate | None:
    """A form in a scheme as OpenVINO's file, with its parity; None, with the reason, where a library fails at it."""
    source = maker.quantize(form, "fp32", embeddings)
    if source is None:
        return None
    calibration: Calibration | None = "min-max" if SCHEMES[scheme].calibrated else None
    made = replace(source, scheme=scheme, calibration=calibration, kept_in_fp32=tuple(keep))

    def write() -> Candidate:
        import openvino

        from homoexport.stages.export.openvino_graph import as_openvino, quantize_products

        file, stored = maker.folder / f"openvino-{made.full_name}.xml", _STORED[scheme]
        with quiet():
            model = as_openvino(source.file)
            if calibration is not None:
                quantize_products(model, maker.ranges(form, calibration), keep=keep)
            openvino.save_model(model, file, compress_to_fp16=stored == "fp16")
        parity = check_parity(file, maker.batches.all, task=maker.encoder.task, precision=stored, answer=answer)
        return replace(made, file=file, file_bytes=sum(part.stat().st_size for part in _parts(file)), parity=parity)

    converted = maker.attempt(_name_of(made.full_name), write)
    maker.discard(source)
    return converted


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
        kept_in_fp32=best.kept_in_fp32,
        file_bytes=best.file_bytes,
        openvino=openvino.get_version(),
        parity=best.parity,
        latency_p50_ms=latency_ms if math.isfinite(latency_ms) else None,
        onnx_latency_p50_ms=onnx_ms if math.isfinite(onnx_ms) else None,
    )
