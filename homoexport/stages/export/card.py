"""The model card of a package: what it is, where it comes from, what was measured, how to load it.

The front matter is what the Hugging Face hub reads: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from pathlib import Path

from homoexport.choices import OTHER_RUNTIMES, ModelTask, PoolingMode
from homoexport.data import rendered
from homoexport.documents.package import PackageDetails, TimedAt
from homoexport.plain import Markdown, front_matter
from homoexport.schemes import PRECISIONS

_OPTIMUM: dict[ModelTask, str] = {
    "fill-mask": "ORTModelForMaskedLM",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
}

_JS_POOLING: dict[PoolingMode, str] = {"mean": "mean", "cls": "cls", "lasttoken": "last_token"}  # it has no others


def model_card(name: str, details: PackageDetails, *, parent: str, source: str) -> str:
    """The README.md of a package, by its name, from what its manifest says.

    It was exported from `source`, a folder or a model's name; `parent` is the digest of that, if it is an artifact.
    """
    artifact = f" (artifact {parent[:12]})" if parent != source else ""
    front = {"library_name": "onnx", "pipeline_tag": details.task, "tags": ["homoexport", "onnx"]}
    if Path(source).exists():
        source = Path(source).resolve().name  # the rest of the path is nobody else's business
    elif "/" in source and not source.startswith("package:"):
        front["base_model"] = source
    return rendered(
        "card.md.jinja",
        name=name,
        package=details,
        runtimes=OTHER_RUNTIMES,
        timed=details.timed_at,
        where="an unknown CPU" if details.timed_at is None else _where(details.timed_at),
        front=front_matter(front),
        source=source,
        artifact=artifact,
        is_scorer=details.task == "text-classification" and len(details.labels or ()) == 1,
        optimum_class=_OPTIMUM.get(details.task),
        dtype=PRECISIONS[details.precision].transformers_js_dtype,
        js_task="feature-extraction" if details.task == "sentence-similarity" else details.task,
        js_call=_js_call(details),
    )


def _js_call(details: PackageDetails) -> Markdown | None:
    """Arguments of `run`, a transformers.js pipeline of a model's task; None where it cannot pool as the model does."""
    if details.task == "fill-mask":
        return Markdown("`A ${run.tokenizer.mask_token}.`")
    if details.pooling is None:
        return Markdown('"a text"')
    if details.pooling.width is not None or details.pooling.mode not in _JS_POOLING:
        return None
    pooling, normalize = _JS_POOLING[details.pooling.mode], str(details.pooling.normalize).lower()
    return Markdown(f'["a text", "another"], {{ pooling: "{pooling}", normalize: {normalize} }}')


def _where(timed: TimedAt) -> str:
    threads = f"{timed.threads} thread{'s' * (timed.threads > 1)}" if timed.threads else "a thread for each core"
    return f"{timed.cpu} ({timed.device}), {threads}, {timed.batch_size} x {timed.length} tokens"
