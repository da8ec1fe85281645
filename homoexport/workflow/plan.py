"""Planning as a recipe says: what a budget can afford on a target, before any training.

What is wrong with the budget, the target or its threads is reported before torch is imported: the rooms that need it
are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import OTHER_RUNTIMES, EmbeddingPrecision, Objective, Runtime, Scheme
from homoexport.documents.budget import DOWNLOAD, Budget
from homoexport.documents.plan import Plan
from homoexport.documents.recipe import (
    DistillSettings,
    ExportSettings,
    MeasureSettings,
    TextSettings,
    VocabularySettings,
)
from homoexport.errors import RecipeError, UserError
from homoexport.stages.measure import (
    cache_folder,
    check_measurement,
    count_files,
    host_of,
    refuse_uncounted,
    time_files,
)
from homoexport.workflow.measure import refuse_emulated_latency
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.runtimes import others_of, refuse_impossible, refuse_without
from homoexport.workflow.vocabularies import check_vocabulary, plan_vocabularies

if TYPE_CHECKING:
    from torch import Tensor

    from homoexport.encoder import Encoder
    from homoexport.stages.plan.instruments import Instruments, WriteGraph

CALIBRATION_TEXTS = 256  # of which a plan takes some
_OPENVINO = "openvino"  # of forms: the graph for that runtime
_MAX_LENGTH = 32  # tokens of the texts that graphs are held against torch with


def plan(
    teacher: str | Encoder,
    *,
    budget: Budget,
    measure: MeasureSettings,
    export: ExportSettings,
    distill: DistillSettings | None = None,
    text: TextSettings | None = None,
    vocabulary: VocabularySettings | None = None,
    seed: int = 0,
    fresh: bool = False,
    progress: Progress = QUIET,
) -> Plan:
    """Choose the shape that keeps a budget on a target and most of the teacher's sensitivity.

    Args:
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`; or what `load_encoder` made of one of these.
        measure: the target, and the threads, batch and length.
        export, distill: how the student will be exported, and distilled.
        text: of the kind that it is for; by default sentences of the project's own.
        vocabulary: whose `sizes`, where it has some, are planned with besides all words: fewer words leave room for
            more width, and keep less of the text.
        seed: of the text that is held out, where words are chosen.
        fresh: measure again what an earlier plan has measured under the same conditions.

    Raises:
        BudgetError: not even the smallest student keeps it; with what that one needs.
        RecipeError, DeviceError, TextError, TeacherError: no line to plan for; or a length, a target, a number of
            threads, text, words or a teacher that cannot be had.
    """
    _check_asked(budget, measure, export)
    vocabulary = vocabulary or VocabularySettings()
    check_vocabulary(vocabulary, text)
    if DOWNLOAD in budget.lines():  # of the ONNX file, which another runtime's is not
        export = export.model_copy(update={"runtime": "onnxruntime"})
    progress.on_share("loading the teacher", 0.0)
    from homoexport.encoder import load_encoder
    from homoexport.stages.distill import TASKS
    from homoexport.text.peek import first_texts

    texts = first_texts(text, CALIBRATION_TEXTS) if text is not None else ()
    task = None if distill is None else TASKS[distill.objective]
    encoder = load_encoder(teacher, task=task) if isinstance(teacher, str) else teacher
    if distill is None:
        objective = next((name for name, task in TASKS.items() if task == encoder.task), "sentence-embedding")
        distill = DistillSettings(objective=objective, steps=1, batch_size=2)
    plan_for = partial(_plan_loaded, texts=texts, export=export, distill=distill, fresh=fresh)
    if not vocabulary.sizes or text is None:
        return plan_for(encoder, budget=budget, measure=measure, progress=progress)
    return plan_vocabularies(
        encoder,
        plan_for,
        vocabulary=vocabulary,
        text=text,
        objective=distill.objective,
        seed=seed,
        budget=budget,
        measure=measure,
        progress=progress,
    )


def _plan_loaded(
    encoder: Encoder,
    *,
    texts: Sequence[str],
    budget: Budget,
    measure: MeasureSettings,
    export: ExportSettings,
    distill: DistillSettings,
    fresh: bool,
    progress: Progress,
) -> Plan:
    """The plan for a teacher with the words that it has."""
    from homoexport.stages.plan.planner import plan_encoder

    return plan_encoder(
        encoder,
        texts,
        budget=budget,
        measure=measure,
        distill=distill,
        instruments=instruments_for(encoder, measure, export, distill.objective),
        fresh=fresh,
        progress=progress.on_share,
    )


def _check_asked(budget: Budget, measure: MeasureSettings, export: ExportSettings) -> None:
    """Refuse at once what a plan would refuse, as far as the teacher does not matter."""
    if not budget.lines():
        raise RecipeError("there is no line to plan for", where="budget", hint="give --latency-p95 8ms, for example")
    refuse_emulated_latency(budget, measure.device)
    refuse_without(export, measure.device, calibrated=True)
    refuse_uncounted(measure.device)
    if DOWNLOAD in budget.lines() and export.runtime in OTHER_RUNTIMES:
        what = f"a download is of the ONNX file, which {OTHER_RUNTIMES[export.runtime]} does not run"
        raise RecipeError(what, where=f"budget.{DOWNLOAD}", hint="plan with --runtime onnxruntime, or for --size")
    workload = measure.threads, measure.batch_size, measure.length
    check_measurement(measure.device, [workload], min_seconds=measure.min_seconds)


def instruments_for(
    encoder: Encoder, measure: MeasureSettings, export: ExportSettings, objective: Objective
) -> Instruments:
    """What a plan for a teacher is made with: the export's graphs, in the scheme that it tries first on the target,
    the times that measuring takes, and the user's cache."""
    from homoexport.schemes import embeddings_of, schemes_for
    from homoexport.stages.export.forms import forms_of
    from homoexport.stages.export.package import refuse_unknown
    from homoexport.stages.plan.instruments import Instruments

    refuse_without(export, measure.device, calibrated=True)
    refuse_unknown(encoder, export.runtime)
    target, not_tried = host_of(measure.device), _not_tried(encoder, export, measure.device)
    others = [runtime for runtime in others_of(export.runtime) if runtime not in not_tried]
    onnx_forms = {form.name: [other.name for other in others] for form, others in forms_of(export.graph).items()}
    scheme = schemes_for(export.quantize, target.instruction_sets, x86=target.x86, calibrated=False)[0]
    return Instruments(
        target=target,
        scheme=scheme,
        embeddings=embeddings_of(export.embeddings, scheme),
        opset=export.opset,
        forms=(onnx_forms if export.runtime in ("auto", "onnxruntime") else {}) | {runtime: [] for runtime in others},
        onnx_forms=onnx_forms,
        make_graphs=partial(make_graphs, opset=export.opset),
        converted=_converted,
        from_models={"ctranslate2": _in_ctranslate2},
        not_tried=not_tried,
        time_files=time_files,
        count_files=count_files,
        probe=probe_of(encoder, objective),
        cache=cache_folder(),
    )


def make_graphs(encoder: Encoder, folder: Path, *, opset: int | None = None) -> WriteGraph:
    """Export a model into a folder; its graphs are written one by one."""
    from homoexport.stages.export.candidates import Maker
    from homoexport.stages.export.forms import ATTENTION_FORMS, Form, variants_of

    forms = {form.name: form for first in ATTENTION_FORMS for form in (first, *variants_of(first))}
    forms[_OPENVINO] = Form("unfused")
    maker = Maker(encoder, folder, _MAX_LENGTH, opset=opset)

    def write(form: str, scheme: Scheme, embeddings: EmbeddingPrecision) -> Path | str:
        written = maker.write(forms[form])
        if written is None or not written.sound:
            return maker.left_out.get(forms[form].name, "answers differ from the model's")
        # What OpenVINO computes in int8 is quantized in a graph of the right sizes.
        made = maker.quantize(forms[form], "fp32" if form == _OPENVINO else scheme, embeddings)
        return f"{scheme} cannot be made" if made is None else made.file

    return write


def _not_tried(encoder: Encoder, export: ExportSettings, device: str) -> dict[Runtime, str]:
    """Runtimes that students might have files for, which they cannot, each with the reason."""
    from homoexport.stages.export.package import why_not_in

    found = dict[Runtime, str]()
    for runtime in others_of(export.runtime):
        try:
            refuse_impossible(runtime, export.quantize, device, calibrated=True)
        except UserError as error:
            found[runtime] = f"{error.what}; {error.hint}"
        else:
            if why := why_not_in(runtime, encoder):
                found[runtime] = why
    return found


def _in_ctranslate2(encoder: Encoder, folder: Path, scheme: Scheme, embeddings: EmbeddingPrecision) -> Path | str:
    """A model with random weights as CTranslate2 has it, in a new folder; or why it cannot have it so.

    Its converter stores equal tensors once, as a new model's biases are and a trained one's are not: they are changed.
    """
    import torch

    from homoexport.stages.export.ctranslate2_file import stored_as, write_folder
    from homoexport.stages.export.forms import NotThisForm

    try:
        stored = stored_as(scheme, embeddings)
    except NotThisForm as error:
        return str(error)
    for parameter in encoder.model.parameters():
        parameter.data.add_(1e-3 * torch.rand_like(parameter))
    return write_folder(encoder, folder, stored, work=folder.parent)


def _converted(file: Path, form: str, scheme: Scheme) -> Path:
    """A graph for OpenVINO as its own file, in the ONNX file's place; other graphs stay as they are."""
    if form != _OPENVINO:
        return file
    from homoexport.host import describe_host
    from homoexport.schemes import attends_in_int8
    from homoexport.stages.export.openvino_graph import as_openvino, quantize_products, save

    model, target = as_openvino(file), file.with_suffix(".xml")
    if scheme != "fp32":
        quantize_products(model, None, attention=attends_in_int8(describe_host().instruction_sets))
    save(model, target, halved=scheme == "fp32")
    del model  # it has the ONNX file's weights open
    file.unlink()
    return target


def probe_of(encoder: Encoder, objective: Objective) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that a distillation's first prune event goes by (`stages.distill.probe`), of tokens [B, S]."""
    from homoexport.encoder import family_of
    from homoexport.stages.distill.batches import Counts, MicroBatch
    from homoexport.stages.distill.probe import probe_loss

    family = family_of(encoder.model.config)

    def probe(token_ids: Tensor, mask: Tensor) -> Tensor:
        tokens = int(mask.sum())
        sequences = len(token_ids)
        counts = Counts(sequences, tokens, 0, sequences if objective == "classification" else tokens, {})
        batch = MicroBatch(token_ids, mask)
        return probe_loss(encoder.model, family, batch, objective=objective, counts=counts)

    return probe
