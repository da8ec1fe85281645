"""Export: a package of the graph that `homoexport.export.choose` chose."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from homoexport.choices import EmbeddingChoice, Quantization, WeightPrecision
from homoexport.data import sample_text
from homoexport.documents.artifact import output_errors, staged, write_manifest
from homoexport.documents.package import PackageDetails
from homoexport.encoder import (
    OUTPUT_NAMES,
    SENTENCE_SETTINGS,
    Encoder,
    count_parameters,
    input_names,
    max_length_of,
    parent_of,
    save_tokenizer,
    weights_digest,
    write_sentence_files,
)
from homoexport.errors import UserError
from homoexport.export.candidates import Candidate, Maker
from homoexport.export.card import model_card
from homoexport.export.choose import Choice, Judge, Rank, choose, embeddings_of, schemes_for
from homoexport.export.graph import describe
from homoexport.export.ladder import known_texts
from homoexport.export.mobile import MODEL_NAME, OPERATORS_NAME, write_ort_format
from homoexport.export.parity import Answer, Invariance, check_invariance
from homoexport.export.quantize import DESCRIPTIONS, EMBEDDINGS
from homoexport.export.runtimes import oldest_onnxruntime
from homoexport.export.strings import pack_tokenizer, refuse_inexpressible
from homoexport.host import library_versions

# As transformers.js calls them: q8 looks for model_quantized, q4 for model_q4, fp16 for model_fp16.
MODEL_FILES: dict[WeightPrecision, str] = {
    "fp32": "onnx/model.onnx",
    "int8": "onnx/model_quantized.onnx",
    "int4": "onnx/model_q4.onnx",
    "fp16": "onnx/model_fp16.onnx",
}
# As transformers.js names them in config.json, where the file is the one to load unless told otherwise.
TRANSFORMERS_JS_DTYPES: dict[WeightPrecision, str] = {"fp32": "fp32", "int8": "q8", "int4": "q4", "fp16": "fp16"}
# Apart from onnx/, and under a name of its own: optimum takes any model.onnx in any folder for the model.
STRINGS_FILE = "strings/text_model.onnx"
ORT_FOLDER = "ort"
DEFAULT_OPSET = 18


def _write_files(encoder: Encoder, chosen: Candidate, folder: Path, *, max_length: int) -> tuple[int, str]:
    """The package's files but for its manifest; the operator set of its graph, and the onnxruntime that it needs."""
    model_file = folder / MODEL_FILES[chosen.precision]
    model_file.parent.mkdir()
    model = ir.load(chosen.file)
    opset = model.opset_imports[""]
    properties = {
        "task": encoder.task,
        "opset": str(opset),
        "version": library_versions().get("homoexport", "unknown"),
        "source": weights_digest(encoder),
        "precision": chosen.precision,
    }
    describe(model, properties)
    ir.save(model, model_file)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_max_length = max_length  # so that truncation=True cuts where the graph ends
    # So that its answer can be fed to the graph as it is, now and after loading.
    tokenizer.model_input_names = list(input_names(encoder))
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    save_tokenizer(tokenizer, folder)
    config = json.loads((encoder.folder / "config.json").read_text(encoding="utf-8"))
    config["transformers.js_config"] = {"dtype": TRANSFORMERS_JS_DTYPES[chosen.precision]}
    _write_json(folder / "config.json", config)
    write_sentence_files(encoder, folder, hidden_size=encoder.model.config.hidden_size, max_length=max_length)
    if encoder.pooling is not None:
        _settle(folder / SENTENCE_SETTINGS, model_file.name, max_length)
    return opset, oldest_onnxruntime(model)


def _settle(settings_file: Path, name: str, max_length: int) -> None:
    """Tell sentence-transformers the longest text and the file to load: by itself it takes model.onnx alone."""
    settings = json.loads(settings_file.read_text(encoding="utf-8")) | {"max_seq_length": max_length}
    if name != "model.onnx":
        settings["model_args"] = {**settings.get("model_args", {}), "file_name": name}
    _write_json(settings_file, settings)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export_encoder(
    encoder: Encoder,
    *,
    out_dir: Path,
    rank: Rank,
    texts: Sequence[str] = (),
    quantize: Quantization = "auto",
    embeddings: EmbeddingChoice = "auto",
    instruction_sets: Collection[str] = (),
    x86: bool = False,
    provider: str = "CPUExecutionProvider",
    answer: Answer | None = None,
    judge: Judge | None = None,
    opset: int | None = None,
    with_tokenizer: bool = False,
    with_ort_format: bool = False,
    timed_at: Mapping[str, Any] | None = None,
    held_on: str = "cpu",
    recipe_digest: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model as an ONNX package, choosing the graph by measuring.

    Args:
        encoder: what `load_encoder` gave.
        out_dir: becomes the package: the ONNX file under its name of `MODEL_FILES`, config, tokenizer, manifest.
        rank: median milliseconds of ONNX files, in their order; lower is better.
        texts: real text for the parity ladder and for calibration; by default sentences of our own.
        quantize: `auto`: the fastest scheme that passes the gate; `none`: fp32; or the scheme to use.
        embeddings: how embedding tables are stored; `auto`: in 8 bits where the weights are quantized.
        instruction_sets: of the target's CPU, as `homoexport.host` names them.
        x86: whether that is an x86 CPU.
        provider: onnxruntime's there.
        answer: runs a file on the target, where that is not this machine's CPU; the gate is held there, too.
        judge: holds a file against a floor of quality; what misses it ships only if nothing keeps it.
        opset: of the standard operators, and no form with newer ones; by default 18, and newer ones where they pay.
        with_tokenizer: write a second file, too, that takes texts in place of token ids.
        with_ort_format: write the graph in ORT format, too, with the list of operators that it needs.
        timed_at: what `rank` times at: device, cpu, threads, batch_size, length; for the manifest and the model card.
        held_on: the device that `answer` asks; for the manifest and the model card.
        recipe_digest: of the recipe that this is part of.
        force: replace `out_dir` where homoexport wrote it.
        progress: is told each step.

    Returns:
        `out_dir`.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
        UserError: int8-static without text, an opset that cannot be written, a model too big for one ONNX file, or a
            tokenizer that cannot be expressed in a graph.
        ParityError: no graph answers as the model does.
    """
    if quantize == "int8-static" and not texts:
        raise UserError("its scales are calibrated on text", where="int8-static", hint="give a file of it with --text")
    max_length = max_length_of(encoder)
    tried = schemes_for(quantize, instruction_sets, x86=x86, calibrated=bool(texts), provider=provider)
    schemes = {scheme: embeddings_of(embeddings, scheme) for scheme in tried}
    if with_tokenizer:
        refuse_inexpressible(encoder.tokenizer, max_length=max_length)
    with staged(out_dir, force=force) as folder, tempfile.TemporaryDirectory(prefix="homoexport-") as work:
        with output_errors(Path(work)):
            maker = Maker(
                encoder,
                Path(work),
                texts=texts or known_texts(encoder.tokenizer, sample_text()),
                opset=DEFAULT_OPSET if opset is None else opset,
                max_opset=opset,
                max_length=max_length,
                progress=progress or (lambda _step: None),
                answer=answer,
            )
            choice = choose(maker, quantize=quantize, schemes=schemes, rank=rank, judge=judge)
        maker.progress(f"writing the {choice.chosen.name} graph")
        opset_written, oldest = _write_files(encoder, choice.chosen, folder, max_length=max_length)
        invariance = check_invariance(choice.chosen.file, maker.batches, task=encoder.task, answer=answer)
        details = _details(encoder, choice, maker, invariance, opset=opset_written, max_length=max_length)
        details["oldest_onnxruntime"] = oldest
        details |= {"timed_at": dict(timed_at or {}), "held_on": held_on}
        if with_tokenizer:
            maker.progress("packing the tokenizer into the graph")
            target = folder / STRINGS_FILE
            target.parent.mkdir()
            model_file = folder / details["model_file"]
            report = pack_tokenizer(model_file, encoder.tokenizer, max_length=max_length, target=target)
            details["with_tokenizer"] = {"file": STRINGS_FILE, **report.as_json()}
        if with_ort_format:
            maker.progress("converting the graph to ORT format")
            (folder / ORT_FOLDER).mkdir()
            write_ort_format(folder / details["model_file"], folder / ORT_FOLDER, arm=not x86)
            names = {"file": MODEL_NAME, "operators": OPERATORS_NAME}
            details["ort_format"] = {what: f"{ORT_FOLDER}/{name}" for what, name in names.items()}
        parent = parent_of(encoder)
        digest = None if parent == encoder.source else parent
        card = model_card(out_dir.name, details, parent=digest, source=encoder.source)
        (folder / "README.md").write_text(card, encoding="utf-8")
        typed = PackageDetails.model_validate_json(json.dumps(details))
        write_manifest(folder, "package", parent=parent, recipe=recipe_digest, details=typed)
    return out_dir


def _details(
    encoder: Encoder, choice: Choice, maker: Maker, invariance: Invariance, *, opset: int, max_length: int
) -> dict[str, Any]:
    chosen, config = choice.chosen, encoder.model.config
    assert chosen.parity is not None
    labels = encoder.task in ("text-classification", "token-classification")
    quantized = None if chosen.scheme == "fp32" else DESCRIPTIONS[chosen.scheme]
    return {
        "model_file": MODEL_FILES[chosen.precision],
        "task": encoder.task,
        "max_length": max_length,
        "pad_token_id": encoder.tokenizer.pad_token_id or 0,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "input_names": list(input_names(encoder)),
        "output_names": list(OUTPUT_NAMES[encoder.task]),
        "labels": [config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels)] if labels else None,
        "pooling": {"mode": encoder.pooling.mode, "normalize": encoder.pooling.normalize} if encoder.pooling else None,
        "precision": chosen.precision,
        "scheme": chosen.scheme,
        "quantization": quantized,
        "embeddings": "fp16 tables" if chosen.scheme == "fp16" else EMBEDDINGS[chosen.embeddings],
        "candidate": chosen.full_name,
        "kept_in_fp32": list(chosen.kept),
        "parameters": count_parameters(encoder.model),
        "opset": opset,
        "graph": chosen.form.name,
        "parity": chosen.parity.as_json(),
        "batch_invariance": invariance.as_json(),
        "candidates": [candidate.as_json() for candidate in choice.candidates],
        "refused": choice.refused,
        "left_out": maker.left_out,
        "quality": {name: verdict.model_dump(mode="json") for name, verdict in choice.quality.items()},
    }
