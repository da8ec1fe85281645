"""Fewer bytes of words, the table alone changed: product quantization against low-rank factors.

    python bench/word_tables.py GLUE_DIR PASSAGES.txt

ELECTRA's and ALBERT's configs have an embedding size of their own: a table [V, E] and a layer [E, D], which is a
low-rank table. The best one of a rank is the truncated singular value decomposition (Eckart and Young 1936), of all
words alike or of rows that weigh as much as the text has them. It is held against product quantization
(`--embeddings pq`) at the same bytes, the factors in int8 or in 4 bits; nothing is trained, and all else is the
quickstart's teacher. Judged as `bench/vocabulary.py` judges.

Then the time of each way of keeping words, of a student as wide as the quickstart's with random weights, in int8, in
turns in one run, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ablation import read_passages
from methods import RECIPE, keep
from numpy.typing import NDArray

from homoexport.choices import EmbeddingPrecision
from homoexport.documents.recipe import load_recipe
from homoexport.encoder import Encoder, family_of, load_encoder, save_encoder, start_from_scratch
from homoexport.shape import Shape
from homoexport.stages.export.product import product_codes
from homoexport.stages.measure import time_files
from homoexport.text.counts import count_tokens
from homoexport.workflow.evaluate import evaluate
from homoexport.workflow.export import export
from homoexport.workflow.text import read_text

RESULTS = Path(__file__).parent / "results/word_tables.json"
Table = NDArray[np.float32]
KEPT: tuple[EmbeddingPrecision, ...] = ("int8", "int4", "pq")
STUDENT = Shape(6, 384, 576, 12)  # the quickstart's
TIMES = "times"  # the kept result that has them


def low_rank(table: Table, weights: NDArray[np.float64], rank: int, bits: int) -> Table:
    """The nearest product [V, rank] x [rank, D] where row v counts `weights[v]` times, its factors in so many bits."""
    root = np.sqrt(weights / weights.mean())[:, None]
    left, values, right = np.linalg.svd(table * root, full_matrices=False)
    words = left[:, :rank] * values[:rank] / root
    product: Table = in_bits(words, bits) @ in_bits(right[:rank], bits)
    return product


def in_bits(values: NDArray[Any], bits: int) -> Table:
    """Rounded to so many bits, with a scale for each column."""
    scale = np.abs(values).max(0) / (2 ** (bits - 1) - 1)
    return (np.round(values / scale) * scale).astype(np.float32)


def ways(table: Table, counts: NDArray[np.int64]) -> dict[str, tuple[float, Callable[[], Table]]]:
    """Tables by name, each with its megabytes."""
    words, width = table.shape
    codes = product_codes(table)
    of_codes = (codes.codes.nbytes + codes.values.nbytes) / 1e6
    found: dict[str, tuple[float, Callable[[], Table]]] = {
        "as it is, fp32": (table.nbytes / 1e6, lambda: table),
        "pq": (of_codes, codes.rows),
    }
    for weighed, weights in (("", np.ones(words)), (", by the text", counts + 1.0)):
        for bits in (8, 4):
            rank = int(of_codes * 8e6 / bits / (words + width))
            made = lambda weights=weights, rank=rank, bits=bits: low_rank(table, weights, rank, bits)  # noqa: E731
            found[f"rank {rank}, {bits} bits{weighed}"] = (rank * (words + width) * bits / 8e6, made)
    return found


def judged(encoder: Encoder, table: Table, glue: Path, texts: list[Path], teacher: str) -> dict[str, float]:
    """STS-B dev, and the share of the teacher's ten nearest neighbours that is kept on each text."""
    words = encoder.model.get_input_embeddings().weight
    whole = words.detach().clone()
    with TemporaryDirectory() as folder:
        with torch.no_grad():
            words.copy_(torch.from_numpy(table))
            save_encoder(encoder, encoder.model, Path(folder))
            words.copy_(whole)
        sts = evaluate([folder], task="stsb", data_dir=glue)
        kept = [evaluate([folder], task="fidelity", data=str(lines), teacher=teacher) for lines in texts]
    figures = (each.results[0].metrics[0].value for each in (sts, *kept))
    return dict(zip(("stsb", "held_out", "passages"), (round(value, 4) for value in figures), strict=True))


def main() -> None:
    """Measure what is missing, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE, [])
    encoder = load_encoder(recipe.teacher)
    corpus = read_text(encoder, recipe.text, recipe.distill.objective, seed=0)
    counts = count_tokens(corpus, encoder.model.config.vocab_size)
    table = encoder.model.get_input_embeddings().weight.detach().numpy().copy()
    with TemporaryDirectory() as folder:
        texts = [Path(folder, name) for name in ("held_out.txt", "passages.txt")]
        for path, lines in zip(texts, (corpus.held_out_texts, read_passages(arguments.passages)), strict=True):
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, (megabytes, make) in ways(table, counts).items():
            if any(run["cell"] == name for run in keep(arguments.output, None)):
                continue
            found = judged(encoder, make(), arguments.glue, texts, recipe.teacher)
            keep(arguments.output, {"cell": name, "seed": 0, "megabytes": round(megabytes, 2), **found})
    if not any(run["cell"] == TIMES for run in keep(arguments.output, None)):
        keep(arguments.output, {"cell": TIMES, "seed": 0, "ms": timed(encoder)})
    print(as_table(keep(arguments.output, None)))
    print(as_times(keep(arguments.output, None)))


def timed(encoder: Encoder) -> dict[str, dict[str, float]]:
    """Median milliseconds, by batch and length, of a student's files, by how they keep words."""
    family = family_of(encoder.model.config)
    model = start_from_scratch(encoder.model, family, STUDENT)
    found = {}
    with TemporaryDirectory() as folder:
        save_encoder(encoder, model, Path(folder, "student"))
        files = []
        for way in KEPT:
            package = Path(folder, way)
            made = export(Path(folder, "student"), output=package, quantize="int8", embeddings=way, graph="standard")
            files.append(package / made.details.model_file)
        for length in (16, 128):
            figures = time_files(files, threads=1, length=length, min_seconds=5.0)
            found[f"1 x {length}"] = {
                way: round(one.latency_ms[50], 3) for way, one in zip(KEPT, figures, strict=True) if one is not None
            }
    return found


def as_times(runs: list[dict[str, Any]]) -> str:
    """How many times as long as with words in int8, in Markdown."""
    lines = [f"| {STUDENT.name} | {' | '.join(KEPT)} |", "|---|" + "---:|" * len(KEPT)]
    for cell, ms in next(run["ms"] for run in runs if run["cell"] == TIMES).items():
        told = [f"{ms['int8']:.2f} ms", *(f"{ms[way] / ms['int8']:.2f}" for way in KEPT[1:])]
        lines.append(f"| {cell} | {' | '.join(told)} |")
    return "\n".join(lines)


def as_table(runs: list[dict[str, Any]]) -> str:
    """In Markdown, a line for each table of words."""
    lines = ["| Words | MB | STS-B dev | held-out | passages |", "|---|---:|---:|---:|---:|"]
    for run in (run for run in runs if run["cell"] != TIMES):
        figures = " | ".join(f"{run[name]:.3f}" for name in ("stsb", "held_out", "passages"))
        lines.append(f"| {run['cell']} | {run['megabytes']:.1f} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
