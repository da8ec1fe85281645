"""Export: a package of the graph that `stages.export.choose` chose."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path

import onnx_ir as ir

from homoexport.choices import CLASSIFYING, OUTPUT_NAMES, CostUnit, Runtime, RuntimeChoice
from homoexport.documents.artifact import vocabulary_of, write_manifest
from homoexport.documents.output import output_errors, staged
from homoexport.documents.package import (
    PROMPT_FOLDER,
    CandidateFigures,
    OrtFormat,
    PackageDetails,
    PackedTokenizer,
    RuntimeFile,
    TimedAt,
)
from homoexport.documents.recipe import ExportSettings
from homoexport.documents.target import TargetHost
from homoexport.encoder import (
    SENTENCE_SETTINGS,
    Encoder,
    input_names,
    max_length_of,
    parent_of,
    save_tokenizer,
    unused_head,
    weights_digest,
    write_cross_encoder_files,
    write_sentence_files,
)
from homoexport.errors import UserError
from homoexport.host import library_versions
from homoexport.lock import scratch_folder
from homoexport.runtime.worker.head import write_head
from homoexport.schemes import (
    EMBEDDINGS,
    NO_TEXT,
    PRECISIONS,
    SCHEMES,
    embeddings_of,
    refuse_scales_without_text,
    schemes_for,
    schemes_in,
)
from homoexport.stages.export.beside import Converter, write_beside
from homoexport.stages.export.browser import Browser, choose_in_browser
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.card import model_card
from homoexport.stages.export.choose import Choice, Judge, Rank, choose
from homoexport.stages.export.ctranslate2_file import CTRANSLATE2, head_of
from homoexport.stages.export.mobile import MODEL_NAME, OPERATORS_NAME, write_ort_format
from homoexport.stages.export.openvino_file import OPENVINO
from homoexport.stages.export.parity import Answer, check_invariance
from homoexport.stages.export.runtimes import oldest_onnxruntime
from homoexport.stages.export.strings import pack_tokenizer, refuse_inexpressible

# Apart from onnx/, and under a name of its own: optimum takes any model.onnx in any folder for the model.
STRINGS_FILE = "strings/text_model.onnx"
ORT_FOLDER = "ort"
_CONVERTERS: dict[Runtime, Converter] = {"openvino": OPENVINO, "ctranslate2": CTRANSLATE2}


def export_encoder(
    encoder: Encoder,
    out_dir: Path,
    *,
    settings: ExportSettings,
    target: TargetHost,
    timed_at: TimedAt,
    rank: Rank,
    texts: Sequence[str] = (),
    answer: Answer | None = None,
    held_on: str = "cpu",
    beside: Mapping[Runtime, Answer | str] | None = None,
    browser: Browser | None = None,
    judge: Judge | None = None,
    recipe_digest: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda _step: None,
) -> Path:
    """Export a model as an ONNX package, choosing the graph by measuring; the answer is `out_dir`.

    Args:
        rank: what ONNX files cost at `timed_at`, in its unit and in their order; lower is better.
        texts: real text for the parity ladder and for calibration; by default sentences of our own, for the first.
        answer: runs a file on the target, where that is not this machine's CPU; the gate is held there, too.
        held_on: the device that `answer` asks.
        beside: runs a file in each other runtime that the package may have files for; or why it cannot.
        browser: where that is the target: its providers, to choose from by themselves and then in turns.
        judge: holds a file against a floor of quality; what misses it ships only if nothing keeps it.
        force: replace `out_dir` where homoexport wrote it.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
        UserError: int8-static without text, an opset that cannot be written, a model too big for one ONNX file or that
            the runtime asked for cannot hold, or a tokenizer that cannot be expressed in a graph.
        ParityError: no graph answers as the model does.
    """
    calibrated, max_length = bool(texts), max_length_of(encoder)
    refuse_scales_without_text(settings.quantize, calibrated=calibrated)
    refuse_unknown(encoder, settings.runtime)
    known = partial(schemes_for, settings.quantize, target.instruction_sets, x86=target.x86, provider=target.provider)
    tried = known(calibrated=calibrated)
    untried = {str(scheme): NO_TEXT for scheme in known(calibrated=True) if scheme not in tried}
    schemes = {scheme: embeddings_of(settings.embeddings, scheme) for scheme in tried}
    if settings.with_tokenizer:
        refuse_inexpressible(encoder.tokenizer, max_length=max_length)
    with staged(out_dir, force=force) as folder, scratch_folder() as work:
        with output_errors(work):
            maker = Maker(encoder, work, max_length, texts, settings.opset, answer, progress)
            in_browser = None
            if browser is None:
                choice = choose(
                    maker,
                    quantize=settings.quantize,
                    schemes=schemes,
                    rank=rank,
                    unit=timed_at.unit,
                    graph=settings.graph,
                    judge=judge,
                )
            else:
                maker, choice, in_browser = choose_in_browser(
                    maker, browser, quantize=settings.quantize, schemes=schemes, graph=settings.graph, judge=judge
                )
                timed_at = timed_at.model_copy(update={"threads": in_browser.threads})
        progress(f"writing the {choice.chosen.name} graph")
        graph = ir.load(choice.chosen.file)
        model_file = _write_files(encoder, graph, choice.chosen, folder, max_length=max_length)
        details = _details_of(maker, choice, graph, timed_at=timed_at, held_on=held_on)
        details = details.model_copy(update={"browser": in_browser, "left_out": details.left_out | untried})
        if settings.with_tokenizer:
            details = details.model_copy(update={"with_tokenizer": _pack_tokenizer(model_file, folder, maker)})
        if settings.with_ort_format:
            details = details.model_copy(update={"ort_format": _write_ort_format(model_file, folder, maker, target)})
        if beside:
            details = _beside(
                maker,
                choice,
                details,
                folder,
                settings=settings,
                calibrated=calibrated,
                rank=rank,
                answers=beside,
                judge=judge,
            )
        parent = parent_of(encoder)
        card = model_card(out_dir.name, details, parent=parent, source=encoder.source)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder, "package", parent=parent, recipe=recipe_digest, details=details)
    return out_dir


def _write_files(encoder: Encoder, graph: ir.Model, chosen: Candidate, folder: Path, *, max_length: int) -> Path:
    """The package's files but for its manifest and card; the path of its graph."""
    model_file = folder / PRECISIONS[chosen.precision].file
    model_file.parent.mkdir()
    properties = {
        "task": encoder.task,
        "opset": str(graph.opset_imports[""]),
        "version": library_versions().get("homoexport", "unknown"),
        "source": weights_digest(encoder),
        "precision": chosen.precision,
    }
    graph.metadata_props.update({f"homoexport.{name}": value for name, value in properties.items()})
    graph.producer_name = "homoexport"
    ir.save(graph, model_file)
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
        if not encoder.pooling.include_prompt:
            (folder / PROMPT_FOLDER).mkdir()
            write_head(folder / PROMPT_FOLDER, head_of(encoder))
    if encoder.task == "text-classification":
        named, prompts = model_file.name, encoder.prompts
        write_cross_encoder_files(encoder.model.config, folder, file_name=named, max_length=max_length, prompts=prompts)
    return model_file


def _settle(settings_file: Path, name: str, max_length: int) -> None:
    """Tell sentence-transformers the longest text and the file to load: by itself it takes model.onnx alone."""
    settings = json.loads(settings_file.read_text(encoding="utf-8")) | {"max_seq_length": max_length}
    if name != "model.onnx":
        settings["model_args"] = {**settings.get("model_args", {}), "file_name": name}
    _write_json(settings_file, settings)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def why_not_in(runtime: Runtime, encoder: Encoder) -> str | None:
    """What of a model another runtime cannot hold; None where it can."""
    return _CONVERTERS[runtime].why_not(encoder)


def refuse_unknown(encoder: Encoder, runtime: RuntimeChoice) -> None:
    """Refuse (UserError) a model that the runtime asked for cannot hold."""
    if runtime != "auto" and runtime != "onnxruntime" and (why := why_not_in(runtime, encoder)):
        raise UserError(why, where="export.runtime", hint="name another runtime, or auto")


def _beside(
    maker: Maker,
    choice: Choice,
    details: PackageDetails,
    folder: Path,
    *,
    settings: ExportSettings,
    calibrated: bool,
    rank: Rank,
    answers: Mapping[Runtime, Answer | str],
    judge: Judge | None,
) -> PackageDetails:
    """What is said of the package, with its files for other runtimes or why there are none."""
    files, left_out = dict[Runtime, RuntimeFile](), dict(details.left_out)
    for runtime, answer in answers.items():
        before = set(maker.left_out)
        schemes = schemes_in(runtime, settings.quantize, calibrated=calibrated)
        could_be = () if isinstance(answer, str) else schemes_in(runtime, settings.quantize, calibrated=True)
        maker.left_out |= {f"{runtime} {scheme}": NO_TEXT for scheme in could_be if scheme not in schemes}
        written = (
            answer
            if isinstance(answer, str)
            else write_beside(
                maker,
                choice.chosen,
                folder,
                runtime=runtime,
                converter=_CONVERTERS[runtime],
                schemes={scheme: embeddings_of(settings.embeddings, scheme) for scheme in schemes},
                rank=rank,
                answer=answer,
                asked=settings.runtime == runtime,
                judge=judge,
            )
        )
        left_out |= {name: why for name, why in maker.left_out.items() if name not in before}
        if isinstance(written, str):
            left_out[runtime] = written
        else:
            files[runtime] = written
    by_time = sorted(files, key=lambda runtime: files[runtime].share_of_onnx)
    for runtime in by_time[1:]:  # asked for auto
        slower, fastest = files.pop(runtime), files[by_time[0]]
        shutil.rmtree((folder / slower.file).parent)
        left_out[runtime] = f"is slower than {by_time[0]}"
        if fastest.share_of_onnx and isfinite(slower.share_of_onnx):  # all three were timed
            times = slower.share_of_onnx / fastest.share_of_onnx
            what = f"its {slower.candidate} takes {times:.2f} times as long as {by_time[0]}'s {fastest.candidate}"
            left_out[runtime] = f"{what}, by their times in turns with the ONNX file"
    return details.model_copy(update={"left_out": left_out, **{str(runtime): file for runtime, file in files.items()}})


def _pack_tokenizer(model_file: Path, folder: Path, maker: Maker) -> PackedTokenizer:
    maker.progress("packing the tokenizer into the graph")
    target = folder / STRINGS_FILE
    target.parent.mkdir()
    report = pack_tokenizer(model_file, maker.encoder.tokenizer, max_length=maker.max_length, target=target)
    return report.model_copy(update={"file": STRINGS_FILE})


def _write_ort_format(model_file: Path, folder: Path, maker: Maker, target: TargetHost) -> OrtFormat:
    maker.progress("converting the graph to ORT format")
    (folder / ORT_FOLDER).mkdir()
    write_ort_format(model_file, folder / ORT_FOLDER, arm=not target.x86)
    return OrtFormat(file=f"{ORT_FOLDER}/{MODEL_NAME}", operators=f"{ORT_FOLDER}/{OPERATORS_NAME}")


def _details_of(maker: Maker, choice: Choice, graph: ir.Model, *, timed_at: TimedAt, held_on: str) -> PackageDetails:
    """What is known of the graph by itself, and of what it was chosen from."""
    encoder, chosen, scheme = maker.encoder, choice.chosen, SCHEMES[choice.chosen.scheme]
    config = encoder.model.config
    width = {"width": encoder.width} if encoder.width != config.hidden_size or encoder.dense else {}
    head = unused_head(encoder)
    lost = {} if head is None else {"head": f"its folder has a {head}, of which a {encoder.task} model has no use"}
    assert chosen.parity is not None
    return PackageDetails(
        model_file=PRECISIONS[chosen.precision].file,
        task=encoder.task,
        max_length=maker.max_length,
        pad_token_id=encoder.tokenizer.pad_token_id or 0,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        input_names=input_names(encoder),
        output_names=OUTPUT_NAMES[encoder.task],
        labels=tuple(config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels))
        if encoder.task in CLASSIFYING
        else None,
        pooling=encoder.pooling and encoder.pooling.model_copy(update=width),
        precision=chosen.precision,
        scheme=chosen.scheme,
        quantization=None if chosen.scheme == "fp32" else scheme.description,
        embeddings=scheme.own_tables or EMBEDDINGS[chosen.embeddings],
        candidate=chosen.full_name,
        kept_in_fp32=chosen.kept_in_fp32,
        parameters=encoder.parameters,
        opset=graph.opset_imports[""],
        graph=chosen.form.name,
        parity=chosen.parity,
        batch_invariance=check_invariance(chosen.file, maker.batches, task=encoder.task, answer=maker.answer),
        candidates=tuple(_figures_of(item, timed_at.unit) for item in choice.candidates),
        refused=choice.refused,
        left_out=maker.left_out | lost,
        quality=choice.quality,
        oldest_onnxruntime=oldest_onnxruntime(graph),
        timed_at=timed_at,
        held_on=held_on,
        prompts=encoder.prompts,
        truncation_side=encoder.tokenizer.truncation_side,
        vocabulary=vocabulary_of(encoder.home),
    )


def _figures_of(candidate: Candidate, unit: CostUnit) -> CandidateFigures:
    figures = CandidateFigures.model_validate(candidate, from_attributes=True)
    return figures.model_copy(update={"latency_p50_ms" if unit == "ms" else "instructions": candidate.cost})
