"""Export: make the candidate graphs, hold each against torch, measure them, ship the fastest that is right.

torch -> portable                          -> int8
      -> fused                             -> int8
      -> fused with SkipLayerNormalization -> int8
      -> fused with Attention                 (fp32 alone: int8 does not reach its weights)
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from homoexport.artifact import output_errors, staged, write_manifest
from homoexport.encoder import (
    Encoder,
    count_parameters,
    family_of,
    parent_of,
    save_tokenizer,
    weights_digest,
    write_sentence_files,
)
from homoexport.errors import ParityError
from homoexport.export.fuse import (
    MICROSOFT,
    make_fused,
    make_fused_attention,
    make_fused_skip_layer_norm,
    make_portable,
)
from homoexport.export.graph import OUTPUT_NAMES, describe, input_names, torch_to_onnx
from homoexport.export.parity import Parity, Precision, check_parity, make_batches
from homoexport.export.quantize import DESCRIPTION, quantize_int8
from homoexport.host import library_versions
from homoexport.sample_text import SAMPLE_TEXT

Rank = Callable[[Sequence[Path]], Sequence[float]]

MODEL_FILES: dict[Precision, str] = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
TIE = 1.02  # medians closer than this are a tie, and the smaller file is shipped
QUANTIZABLE: dict[str, Callable[[ir.Model], ir.Model]] = {
    "portable": make_portable,
    "fused": make_fused,
    "fused-skip-layer-norm": make_fused_skip_layer_norm,
}
FP32_ONLY: dict[str, Callable[[ir.Model], ir.Model]] = {"fused-attention": make_fused_attention}


@dataclass(frozen=True)
class Candidate:
    """A graph that could be shipped, or a rung of the ladder on the way to one."""

    name: str
    precision: Precision
    file: Path
    parity: Parity
    latency_p50_ms: float | None = None

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.file.stat().st_size

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict; the latency is None where the candidate was not measured."""
        return {
            "name": self.name,
            "precision": self.precision,
            "file_bytes": self.file_bytes,
            "latency_p50_ms": self.latency_p50_ms,
            "parity": self.parity.as_json(),
        }


def max_length_of(encoder: Encoder) -> int:
    """Tokens of the longest text that the model takes: the least of what its files say."""
    lengths = [int(encoder.tokenizer.model_max_length)]
    longest = family_of(encoder.model.config).longest_sequence(encoder.model.config)
    lengths += [longest] if longest is not None else []
    settings = encoder.folder / "sentence_bert_config.json"
    if encoder.task == "sentence-similarity" and settings.is_file():
        stated = json.loads(settings.read_text(encoding="utf-8")).get("max_seq_length")
        lengths += [int(stated)] if stated else []
    return min(lengths)


def make_candidates(
    encoder: Encoder,
    folder: Path,
    *,
    texts: Sequence[str],
    quantize: Literal["none", "int8"],
    opset: int,
    max_length: int,
    properties: dict[str, str],
    progress: Callable[[str], None],
) -> tuple[list[Candidate], dict[str, str]]:
    """Every rung of the ladder with its parity, as files in `folder`; and why other rungs are missing.

    A graph beyond its bound stays in the list, for its figures, but nothing is quantized from it.
    """
    progress("exporting the graph")
    exported = torch_to_onnx(encoder, opset=opset)
    describe(exported, properties)
    raw = folder / "exported.onnx"
    ir.save(exported, raw)
    makers = QUANTIZABLE if quantize == "int8" else {**QUANTIZABLE, **FP32_ONLY}
    batches = make_batches(encoder, texts, max_length=max_length)
    candidates: list[Candidate] = []
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        file = folder / f"{name}.onnx"
        try:
            progress(f"checking the {name} graph against torch")
            model = make(ir.load(raw))
            if name != "portable" and all(node.domain != MICROSOFT for node in model.graph):
                left_out[name] = "nothing in the graph could be fused"
                continue
            ir.save(model, file)
            parity = check_parity(file, batches, task=encoder.task, precision="fp32")
            candidates.append(Candidate(name, "fp32", file, parity))
            if quantize == "int8" and parity.passed:
                name = f"{name}-int8"
                progress(f"quantizing the {file.stem} graph")
                quantized = folder / f"{file.stem}.int8.onnx"
                quantize_int8(file, quantized)
                parity = check_parity(quantized, batches, task=encoder.task, precision="int8")
                candidates.append(Candidate(name, "int8", quantized, parity))
        except OSError:
            raise  # a full disk says nothing about the graph
        except Exception as error:  # what onnxscript and onnxruntime raise of graphs has no base but this
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return candidates, left_out


def choose(
    candidates: Sequence[Candidate], precision: Precision, rank: Rank, left_out: Mapping[str, str] | None = None
) -> tuple[Candidate, list[Candidate]]:
    """The fastest candidate of a precision that answers as torch does; of those as fast, the smallest file.

    Args:
        candidates: from `make_candidates`.
        precision: what is to be shipped.
        rank: median milliseconds of files, in their order.
        left_out: why other graphs are no candidates.

    Returns:
        The chosen one, and all of them with the latencies that were measured.

    Raises:
        ParityError: none keeps its bound; with the figures of all.
    """
    sound = [candidate for candidate in candidates if candidate.precision == precision and candidate.parity.passed]
    if not sound:
        figures = [_figures_line(candidate) for candidate in candidates if not candidate.parity.passed]
        figures += [f"{name} {reason}" for name, reason in (left_out or {}).items()]
        raise ParityError(f"no {precision} graph answers as the model does: {'; '.join(figures)}")
    latencies = dict(zip([item.name for item in sound], rank([item.file for item in sound]), strict=True))
    measured = [replace(item, latency_p50_ms=latencies.get(item.name)) for item in candidates]
    limit = TIE * min(latencies.values())
    fastest = [item for item in measured if item.latency_p50_ms is not None and item.latency_p50_ms <= limit]
    return min(fastest, key=lambda item: item.file_bytes), measured


def _figures_line(candidate: Candidate) -> str:
    parity = candidate.parity
    agreement = "" if parity.top1_agreement is None else f", top-1 agreement {parity.top1_agreement:.3f}"
    return (
        f"{candidate.name} ({parity.output}) largest difference {parity.max_difference:.2g}, "
        f"cosine {parity.mean_cosine:.4f} mean and {parity.min_cosine:.4f} least{agreement}"
    )


def _write_files(encoder: Encoder, chosen: Candidate, folder: Path, *, max_length: int) -> None:
    model_file = folder / MODEL_FILES[chosen.precision]
    model_file.parent.mkdir()
    shutil.copyfile(chosen.file, model_file)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_max_length = max_length  # so that truncation=True cuts where the graph ends
    # So that its answer can be fed to the graph as it is, now and after loading.
    tokenizer.model_input_names = list(input_names(encoder))
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    save_tokenizer(tokenizer, folder)
    shutil.copyfile(encoder.folder / "config.json", folder / "config.json")
    write_sentence_files(encoder, folder, hidden_size=encoder.model.config.hidden_size, max_length=max_length)


def export_encoder(
    encoder: Encoder,
    *,
    out_dir: Path,
    rank: Rank,
    texts: Sequence[str] = (),
    quantize: Literal["none", "int8"] = "int8",
    opset: int = 18,
    recipe_digest: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model as an ONNX package, choosing the graph by measuring.

    Args:
        encoder: what `load_encoder` gave.
        out_dir: becomes the package: `onnx/model.onnx` or `onnx/model_quantized.onnx`, config, tokenizer, manifest.
        rank: median milliseconds of ONNX files, in their order; lower is better.
        texts: real text for the parity ladder; by default sentences of our own.
        quantize: `none` ships fp32, `int8` dynamic int8.
        opset: version of the standard operators.
        recipe_digest: of the recipe that this is part of.
        force: replace `out_dir` where homoexport wrote it.
        progress: is told each step.

    Returns:
        `out_dir`.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
        UserError: an opset that cannot be written, or a model too big for one ONNX file.
        ParityError: no graph answers as the model does.
    """
    progress = progress or (lambda _step: None)
    precision: Precision = "fp32" if quantize == "none" else "int8"
    max_length = max_length_of(encoder)
    properties = {
        "task": encoder.task,
        "opset": str(opset),
        "version": library_versions().get("homoexport", "unknown"),
        "source": weights_digest(encoder),
        "precision": precision,
    }
    with staged(out_dir, force=force) as folder, tempfile.TemporaryDirectory(prefix="homoexport-") as work:
        with output_errors(Path(work)):
            candidates, left_out = make_candidates(
                encoder,
                Path(work),
                texts=texts or SAMPLE_TEXT,
                quantize=quantize,
                opset=opset,
                max_length=max_length,
                properties=properties,
                progress=progress,
            )
        progress("measuring the candidates")
        chosen, measured = choose(candidates, precision, rank, left_out)
        progress(f"writing the {chosen.name} graph")
        _write_files(encoder, chosen, folder, max_length=max_length)
        config = encoder.model.config
        labels = encoder.task in ("text-classification", "token-classification")
        details = {
            "model_file": MODEL_FILES[precision],
            "task": encoder.task,
            "max_length": max_length,
            "pad_token_id": encoder.tokenizer.pad_token_id or 0,
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "input_names": list(input_names(encoder)),
            "output_names": list(OUTPUT_NAMES[encoder.task]),
            "labels": [config.id2label[index] for index in range(config.num_labels)] if labels else None,
            "precision": precision,
            "quantization": DESCRIPTION if precision == "int8" else None,
            "parameters": count_parameters(encoder.model),
            "opset": opset,
            "graph": chosen.name,
            "parity": chosen.parity.as_json(),
            "candidates": [candidate.as_json() for candidate in measured],
            "left_out": left_out,
        }
        write_manifest(folder, "package", parent=parent_of(encoder), recipe=recipe_digest, details=details)
    return out_dir
