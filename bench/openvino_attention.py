"""What attention in int8 gains in OpenVINO over attention in floats, in turns in one run.

    python bench/openvino_attention.py NAME=MODEL [NAME=MODEL ...] --texts FILE

Each sentence model is made for OpenVINO as an export makes it for text of the user's own, once with attention's
products in floats and once with them in int8, as `schemes.attends_in_int8` decides by the processor. Cosines are of the
vectors of the last 64 texts to torch's; the scales are of the others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from export_peers import COSINE_TEXTS, THREADS, cell_name

from homoexport.documents.document import to_json, write_text
from homoexport.encoder import Encoder, load_encoder, max_length_of, torch_answers
from homoexport.host import describe_host, library_versions
from homoexport.runtime.vectors import cosines
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.forms import Form
from homoexport.stages.export.openvino_graph import as_openvino, quantize_products, save
from homoexport.stages.measure import answers_of_file
from homoexport.stages.measure.measurement import time_files

OUTPUT = Path(__file__).parent / "results" / "openvino_attention.json"
WAYS = {"in floats": False, "in int8": True}
CELLS = ((1, 16), (1, 128), (1, 384), (8, 16), (8, 128), (8, 384))  # batch, length
BATCH = 8
VECTORS = "sentence_embedding"


def made(encoder: Encoder, texts: Sequence[str], folder: Path) -> dict[str, Path]:
    """The model's file for OpenVINO in each way."""
    maker = Maker(encoder, folder, max_length_of(encoder), texts)
    form = Form("unfused", merged=True)
    maker.write(form)
    form = maker.smooth(form, 0.8) or form
    source = maker.quantize(form, "fp32", "fp32")
    assert source is not None, maker.left_out
    files = {}
    for way, attention in WAYS.items():
        files[way] = folder / f"{int(attention)}" / "openvino_model.xml"
        files[way].parent.mkdir()
        model = as_openvino(source.file)
        quantize_products(model, maker.ranges(form, "min-max"), attention=attention)
        save(model, files[way], halved=False)
    return files


def to_torch(encoder: Encoder, files: Mapping[str, Path], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Cosines of each way's vectors to torch's: mean and least."""
    starts = range(0, len(texts), BATCH)
    groups = [list(texts[start : start + BATCH]) for start in starts]
    options = {"padding": True, "truncation": True, "max_length": max_length_of(encoder)}
    batches = [encoder.tokenizer(group, return_tensors="pt", **options) for group in groups]
    expected = np.concatenate([torch_answers(encoder, batch)[VECTORS].numpy() for batch in batches])
    inputs = [{name: values.numpy() for name, values in batch.items()} for batch in batches]
    pad = encoder.tokenizer.pad_token_id
    found = {}
    for way, file in files.items():
        answers = np.concatenate(answers_of_file(file, inputs, device="cpu", pad_token_id=pad, output=VECTORS))
        each = cosines(answers, expected)
        found[way] = {"mean": float(each.mean()), "least": float(each.min())}
    return found


def times(files: Mapping[str, Path], seconds: float) -> dict[str, dict[str, float]]:
    """Median milliseconds of each way, by the cell."""
    cells = {}
    for threads in THREADS:
        for batch_size, length in CELLS:
            figures = time_files(
                list(files.values()),
                outputs=(VECTORS,),
                threads=threads,
                batch_size=batch_size,
                length=length,
                min_seconds=seconds,
            )
            cell = cell_name(threads, batch_size, length)
            cells[cell] = {way: one.latency_ms[50] for way, one in zip(files, figures, strict=True) if one is not None}
            print(cell, cells[cell], flush=True)
    return cells


def table(models: Mapping[str, Any]) -> str:
    """How many times as fast attention in int8 makes each model, and the cosines, in Markdown."""
    floats, int8 = WAYS
    lines = [f"| | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for cell in next(iter(models.values()))["cells"]:
        ratios = [model["cells"][cell][floats] / model["cells"][cell][int8] for model in models.values()]
        lines.append(f"| {cell} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    told = [
        f"{model['cosines'][floats]['mean']:.4f}, {model['cosines'][int8]['mean']:.4f}" for model in models.values()
    ]
    return "\n".join([*lines, f"| mean cosine in floats, in int8 | {' | '.join(told)} |"])


def main() -> None:
    """Make, measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--texts", type=Path, required=True, help="real text, a line each")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed seconds of each way in a cell")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    texts = given.texts.read_text().splitlines()
    models = {}
    for spec in given.models:
        name, _, model = spec.partition("=")
        encoder = load_encoder(model)
        with tempfile.TemporaryDirectory() as scratch:
            files = made(encoder, texts[:-COSINE_TEXTS], Path(scratch))
            models[name] = {
                "cosines": to_torch(encoder, files, texts[-COSINE_TEXTS:]),
                "cells": times(files, given.seconds),
            }
    result = {"host": vars(describe_host()), "versions": library_versions(), "models": models}
    write_text(given.output, to_json(result))
    print(table(models))


if __name__ == "__main__":
    main()
