"""Export: a package of the graph that `stages.export.choose` chose."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from homoexport.choices import OUTPUT_NAMES, EmbeddingChoice, GraphChoice, Quantization
from homoexport.data import sample_text
from homoexport.documents.artifact import output_errors, staged, write_manifest
from homoexport.documents.package import OrtFormat, PackageDetails, PackedTokenizer, PoolingFigures, TimedAt
from homoexport.encoder import (
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
from homoexport.host import library_versions
from homoexport.schemes import (
    CPU_PROVIDER,
    EMBEDDINGS,
    PRECISIONS,
    SCHEMES,
    embeddings_of,
    refuse_scales_without_text,
    schemes_for,
)
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.card import model_card
from homoexport.stages.export.choose import Choice, Judge, Rank, choose
from homoexport.stages.export.graph import describe
from homoexport.stages.export.ladder import known_texts
from homoexport.stages.export.mobile import MODEL_NAME, OPERATORS_NAME, write_ort_format
from homoexport.stages.export.parity import Answer, check_invariance
from homoexport.stages.export.runtimes import oldest_onnxruntime
from homoexport.stages.export.strings import pack_tokenizer, refuse_inexpressible

# Apart from onnx/, and under a name of its own: optimum takes any model.onnx in any folder for the model.
STRINGS_FILE = "strings/text_model.onnx"
ORT_FOLDER = "ort"
DEFAULT_OPSET = 18


def _write_files(encoder: Encoder, chosen: Candidate, folder: Path, *, max_length: int) -> tuple[int, str]:
    """The package's files but for its manifest; the operator set of its graph, and the onnxruntime that it needs."""
    model_file = folder / PRECISIONS[chosen.precision].file
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
    config["transformers.js_config"] = {"dtype": PRECISIONS[chosen.precision].transformers_js_dtype}
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
    graph: GraphChoice = "auto",
    instruction_sets: Collection[str] = (),
    x86: bool = False,
    provider: str = CPU_PROVIDER,
    answer: Answer | None = None,
    judge: Judge | None = None,
    opset: int | None = None,
    with_tokenizer: bool = False,
    with_ort_format: bool = False,
    timed_at: TimedAt | None = None,
    held_on: str = "cpu",
    recipe_digest: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Export a model as an ONNX package, choosing the graph by measuring.

    Args:
        encoder: what `load_encoder` gave.
        out_dir: becomes the package: the ONNX file under its name of `homoexport.schemes`, config, tokenizer, manifest.
        rank: median milliseconds of ONNX files, in their order; lower is better.
        texts: real text for the parity ladder and for calibration; by default sentences of our own.
        quantize: `auto`: the fastest scheme that passes the gate; `none`: fp32; or the scheme to use.
        embeddings: how embedding tables are stored; `auto`: in 8 bits where the weights are quantized.
        graph: the form that the graph is written in; `auto`: the fastest.
        instruction_sets: of the target's CPU, as `homoexport.host` names them.
        x86: whether that is an x86 CPU.
        provider: onnxruntime's there.
        answer: runs a file on the target, where that is not this machine's CPU; the gate is held there, too.
        judge: holds a file against a floor of quality; what misses it ships only if nothing keeps it.
        opset: of the standard operators, and no form with newer ones; by default 18, and newer ones where they pay.
        with_tokenizer: write a second file, too, that takes texts in place of token ids.
        with_ort_format: write the graph in ORT format, too, with the list of operators that it needs.
        timed_at: what `rank` times at; for the manifest and the model card.
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
    refuse_scales_without_text(quantize, calibrated=bool(texts))
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
            choice = choose(maker, quantize=quantize, schemes=schemes, rank=rank, graph=graph, judge=judge)
        maker.progress(f"writing the {choice.chosen.name} graph")
        opset_written, oldest = _write_files(encoder, choice.chosen, folder, max_length=max_length)
        invariance = check_invariance(choice.chosen.file, maker.batches, task=encoder.task, answer=answer)
        model_file = folder / PRECISIONS[choice.chosen.precision].file
        details = PackageDetails(
            **_of_the_model(encoder, max_length=max_length),
            **_of_the_choice(choice),
            batch_invariance=invariance,
            left_out=maker.left_out,
            opset=opset_written,
            oldest_onnxruntime=oldest,
            timed_at=timed_at,
            held_on=held_on,
            with_tokenizer=_pack_tokenizer(encoder, model_file, folder, maker) if with_tokenizer else None,
            ort_format=_write_ort_format(model_file, folder, maker, arm=not x86) if with_ort_format else None,
        )
        parent = parent_of(encoder)
        digest = None if parent == encoder.source else parent
        card = model_card(out_dir.name, details, parent=digest, source=encoder.source)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder, "package", parent=parent, recipe=recipe_digest, details=details)
    return out_dir


def _pack_tokenizer(encoder: Encoder, model_file: Path, folder: Path, maker: Maker) -> PackedTokenizer:
    maker.progress("packing the tokenizer into the graph")
    target = folder / STRINGS_FILE
    target.parent.mkdir()
    report = pack_tokenizer(model_file, encoder.tokenizer, max_length=maker.max_length, target=target)
    return report.model_copy(update={"file": STRINGS_FILE})


def _write_ort_format(model_file: Path, folder: Path, maker: Maker, *, arm: bool) -> OrtFormat:
    maker.progress("converting the graph to ORT format")
    (folder / ORT_FOLDER).mkdir()
    write_ort_format(model_file, folder / ORT_FOLDER, arm=arm)
    return OrtFormat(file=f"{ORT_FOLDER}/{MODEL_NAME}", operators=f"{ORT_FOLDER}/{OPERATORS_NAME}")


def _of_the_model(encoder: Encoder, *, max_length: int) -> dict[str, Any]:
    config, pooling = encoder.model.config, encoder.pooling
    labels = encoder.task in ("text-classification", "token-classification")
    return {
        "task": encoder.task,
        "max_length": max_length,
        "pad_token_id": encoder.tokenizer.pad_token_id or 0,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "input_names": tuple(input_names(encoder)),
        "output_names": OUTPUT_NAMES[encoder.task],
        "labels": tuple(config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels)) if labels else None,
        "pooling": None if pooling is None else PoolingFigures(mode=pooling.mode, normalize=pooling.normalize),
        "parameters": count_parameters(encoder.model),
    }


def _of_the_choice(choice: Choice) -> dict[str, Any]:
    chosen = choice.chosen
    scheme = SCHEMES[chosen.scheme]
    assert chosen.parity is not None
    return {
        "model_file": PRECISIONS[chosen.precision].file,
        "precision": chosen.precision,
        "scheme": chosen.scheme,
        "quantization": None if chosen.scheme == "fp32" else scheme.description,
        "embeddings": scheme.own_tables or EMBEDDINGS[chosen.embeddings],
        "candidate": chosen.full_name,
        "kept_in_fp32": chosen.kept,
        "graph": chosen.form.name,
        "parity": chosen.parity,
        "candidates": tuple(candidate.figures() for candidate in choice.candidates),
        "refused": choice.refused,
        "quality": choice.quality,
    }
