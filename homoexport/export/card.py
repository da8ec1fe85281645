"""The model card of a package: what it is, where it comes from, what was measured, how to load it.

The front matter is what the Hugging Face hub reads: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_LOADING = {
    "sentence-similarity": """from transformers import AutoTokenizer
import onnxruntime

tokenizer = AutoTokenizer.from_pretrained("{folder}")
session = onnxruntime.InferenceSession("{folder}/{model_file}")
tokens = dict(tokenizer(["a text", "another"], padding=True, truncation=True, return_tensors="np"))
vectors = session.run(["sentence_embedding"], tokens)[0]  # {pooled} in the graph""",
    "other": """from transformers import AutoTokenizer
import onnxruntime

tokenizer = AutoTokenizer.from_pretrained("{folder}")
session = onnxruntime.InferenceSession("{folder}/{model_file}")
tokens = dict(tokenizer(["a text", "another"], padding=True, truncation=True, return_tensors="np"))
answer = session.run(["{output}"], tokens)[0]""",
}
_OPTIMUM = {
    "fill-mask": "ORTModelForMaskedLM",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
}


def model_card(name: str, details: Mapping[str, Any], *, parent: str | None, source: str) -> str:
    """A package's README.md, from what its manifest says.

    Args:
        name: the package's.
        details: of its manifest.
        parent: the digest of the artifact that it was exported from, if it was one.
        source: the folder, or the model's name, that it was exported from.
    """
    front: dict[str, Any] = {"library_name": "onnx", "pipeline_tag": details["task"], "tags": ["homoexport", "onnx"]}
    if Path(source).exists():
        source = Path(source).resolve().name  # the rest of the path is nobody else's business
    elif "/" in source and not source.startswith("package:"):
        front["base_model"] = source
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False).strip()}\n---",
        f"# {name}",
        _what(details, f"`{source}`" + (f" (artifact {parent[:12]})" if parent else "")),
        _measured(details),
        _how_to_load(details),
        _limits(details),
    ]
    return "\n\n".join(sections) + "\n"


def _what(details: Mapping[str, Any], source: str) -> str:
    lines = [
        f"An ONNX package for {details['task']}, written by homoexport from {source}.",
        "",
        f"- {details['parameters'] / 1e6:.2f} M parameters; vectors of {details['hidden_size']}; "
        f"up to {details['max_length']} tokens",
        f"- weights: {details['quantization'] or 'fp32'}; {details['embeddings']}",
        f"- graph: {details['graph']}, operator set {details['opset']}",
    ]
    if details["labels"]:
        lines.append(f"- labels: {', '.join(map(str, details['labels']))}")
    if details["kept_in_fp32"]:
        lines.append(f"- products left in fp32, for they break the accuracy gate: {', '.join(details['kept_in_fp32'])}")
    return "\n".join(lines)


def _measured(details: Mapping[str, Any]) -> str:
    timed, where = details["timed_at"], "an unknown CPU"
    if timed:
        threads = (
            f"{timed['threads']} thread{'s' * (timed['threads'] > 1)}" if timed["threads"] else "a thread for each core"
        )
        where = f"{timed['cpu']} ({timed['device']}), {threads}, {timed['batch_size']} x {timed['length']} tokens"
    lines = [
        "## Measured",
        "",
        f"On {where}. Candidates of one round were timed in turns, so only those compare. Cosines are to the torch "
        "model's answers on text.",
        "",
        "| candidate | file, MB | round | p50, ms | cosine, mean | cosine, least |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    if details["held_on"] != timed.get("device", "cpu"):
        lines[2] += f" The gate was held on {details['held_on']}, too."
    for item in details["candidates"]:
        parity = item["parity"]
        cosines = (f"{parity['mean_cosine']:.5f}", f"{parity['min_cosine']:.5f}") if parity else ("", "")
        latency = "" if item["latency_p50_ms"] is None else f"{item['latency_p50_ms']:.3f}"
        name = f"**{item['full_name']}**" if item["full_name"] == details["candidate"] else item["full_name"]
        figures = [f"{item['file_bytes'] / 1e6:.2f}", str(item["round"] or ""), latency, *cosines]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _how_to_load(details: Mapping[str, Any]) -> str:
    task = details["task"]
    snippet = _LOADING.get(task, _LOADING["other"]).format(
        folder=".",
        model_file=details["model_file"],
        output=details["output_names"][0],
        pooled="pooled and normalised" if (details["pooling"] or {}).get("normalize") else "pooled",
    )
    lines = ["## Loading", "", "```python", snippet, "```"]
    file_name = details["model_file"].removeprefix("onnx/")
    if task == "sentence-similarity":
        lines += [
            "",
            'Or with sentence-transformers: `SentenceTransformer(".", backend="onnx")`.',
        ]
    elif task in _OPTIMUM:
        lines += ["", f'Or with optimum: `{_OPTIMUM[task]}.from_pretrained(".", file_name="{file_name}")`.']
    if (packed := details.get("with_tokenizer")) is not None:
        lines += [
            "",
            f"`{packed['file']}` takes texts in place of token ids, in any language that onnxruntime and "
            "onnxruntime-extensions have: register the latter's library with the session, and pass strings [batch] "
            f"as `{packed['input']}`.",
        ]
    return "\n".join(lines)


def _limits(details: Mapping[str, Any]) -> str:
    alone = details["batch_invariance"]
    cosine = "" if alone["min_cosine"] is None else f", cosine at least {alone['min_cosine']:.5f}"
    lines = [
        "## Limits",
        "",
        f"- The same text alone and inside a padded batch: largest difference {alone['max_difference']:.2g}{cosine}.",
        f"- Longer texts are cut to {details['max_length']} tokens.",
    ]
    if details["precision"] == "int8":
        lines.append(
            "- Other processors compute int8 by other instructions; `homoexport bench --device` says what one answers."
        )
    oldest = f"- onnxruntime {details['oldest_onnxruntime']} is the oldest that runs it"
    if details["opset"] > 22:
        oldest += f", for operator set {details['opset']}; `--opset 18` of the export asks for older operators"
    lines.append(f"{oldest}.")
    if (small := details.get("ort_format")) is not None:
        lines.append(f"- `{small['file']}` is for small builds of onnxruntime, which need `{small['operators']}`.")
    lines += [f"- Left out: {name} ({reason})." for name, reason in details["left_out"].items()]
    packed = details.get("with_tokenizer")
    if packed is not None and packed["differing_kinds"]:
        lines.append(
            f"- The tokenizer in `{packed['file']}` gave other ids than the original on some strings of these kinds: "
            f"{', '.join(packed['differing_kinds'])} ({packed['equal']} of {packed['strings']} strings equal)."
        )
    return "\n".join(lines)
