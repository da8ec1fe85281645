"""What a step takes whose teacher's outputs are read from disk, against one whose teacher is asked.

    python bench/teacher_cache.py [--repeats 9] [--threads 1] [--output bench/results/teacher_cache.json]

MiniLM-L6 in batches of 32 texts, as the shipped recipes have them: students of the quickstart's shape and of the
search recipe's, and one at half width with an attention term, on sentences and on texts of 128 tokens. Turn by turn on
the same batches: asked; read, with the file in the system's cache; read, with the file dropped from it. What it costs
to ask for a text once and to write the answer is counted, too: so follows from how many epochs on it pays.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from homoexport.documents.recipe import StudentShape, load_recipe
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.stages.distill import Run
from homoexport.stages.distill.asking import ask_all
from homoexport.stages.distill.batches import BatchMaker
from homoexport.stages.distill.taught import TaughtTexts
from homoexport.text.corpus import MapCorpus
from homoexport.workflow.job import open_job

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
TEXTS = 192  # that are asked for
SHAPES = {
    "6 x 384/576": StudentShape(intermediate_size=576),
    "6 x 320/512": StudentShape(hidden_size=320, intermediate_size=512, num_attention_heads=10),
    "6 x 192/768": StudentShape(hidden_size=192, intermediate_size=768, num_attention_heads=6),
}
CELLS = [  # shape, tokens at most, unit of text, weight of attention, precision
    ("6 x 384/576", 64, "sentence", 0.0, "fp32"),
    ("6 x 192/768", 64, "sentence", 0.1, "fp32"),
    ("6 x 192/768", 64, "sentence", 0.1, "bf16"),
    ("6 x 320/512", 128, "row", 0.0, "fp32"),
]


def measure(cell: tuple[str, int, str, float, str], repeats: int, threads: int) -> dict[str, Any]:
    """Median seconds of the three kinds of steps, and of asking for a text."""
    shape, length, unit, attention, precision = cell
    settings = [f"distill.threads={threads}", f"distill.precision={precision}", "distill.repair=false"]
    settings += [f"distill.weights.attention={attention}", "distill.steps=1000000", f"text.max_length={length}"]
    settings += [f"text.sources.{number}.unit={unit}" for number in range(2)]
    recipe = load_recipe(RECIPE, settings)
    job = open_job(recipe.teacher, text=recipe.text, settings=recipe.distill, seed=0, shapes=[SHAPES[shape]])
    corpus = job.corpus
    assert isinstance(corpus, MapCorpus)
    rows = np.random.default_rng(0).permutation(np.concatenate(corpus.parts))[:TEXTS]
    few = replace(corpus, parts=[np.sort(rows)], weights=[1.0])
    job = replace(job, corpus=few)
    run = Run(job, job.targets[0])
    run.advance(job.batches.of_step(0))
    with TemporaryDirectory(dir=".") as folder, (Path(folder) / "kept").open("w+b") as file:
        texts = TaughtTexts(few, run.loss.ask(job.batches.cut(few.held_out[:1], first_position=0)[0]))
        texts.keep_in(file)
        began = time.perf_counter()
        ask_all(texts, run.loss, job.batches, on_share=lambda _share: None)
        asking = (time.perf_counter() - began) / TEXTS
        os.fsync(file.fileno())
        seconds = in_turns(run, job.batches, replace(job.batches, taught=texts), file.fileno(), repeats)
    run.close()
    asked, cached, dropped = (statistics.median(seconds[kind]) for kind in ("asked", "cached", "dropped"))
    ratio = {kind: statistics.median(ratios(seconds, kind)) for kind in ("cached", "dropped")}
    texts_of_step = job.settings.batch_size
    return {
        "student": shape,
        "max_length": length,
        "attention": attention > 0,
        "precision": precision,
        "tokens_per_text": float(texts.lengths[texts.rows].mean()),
        "bytes_per_text": texts.bytes / TEXTS,
        "seconds": {"asked": asked, "cached": cached, "dropped": dropped},
        "samples": seconds,
        "asking_seconds_per_text": asking,
        "ratio": ratio,
        "pays_from_epochs": asking * texts_of_step / (asked * (1 - ratio["dropped"])),
    }


def ratios(seconds: dict[str, list[float]], kind: str) -> list[float]:
    """Of steps that read to steps that ask, turn by turn."""
    return [read / asked for read, asked in zip(seconds[kind], seconds["asked"], strict=True)]


def in_turns(run: Run, asked: BatchMaker, read: BatchMaker, file: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of the steps, reading included."""
    seconds: dict[str, list[float]] = {"asked": [], "cached": [], "dropped": []}

    def timed(kind: str, batches: BatchMaker, step: int) -> None:
        if kind == "dropped":
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        run.advance(batches.of_step(step))
        seconds[kind].append(time.perf_counter() - began)

    turns: list[Callable[[int], None]] = [
        lambda step: timed("asked", asked, step),
        lambda step: timed("cached", read, step),
        lambda step: timed("dropped", read, step),
    ]
    for step in range(repeats + 1):
        for turn in range(3):
            turns[(turn + step) % 3](step + 1)
    return {kind: found[1:] for kind, found in seconds.items()}


def table(cells: list[dict[str, Any]]) -> str:
    """A line for each kind of run."""
    lines = [
        "| Student | Tokens a text | Attention term | Precision | Asked | Read | Read, not in memory | On disk, a text "
        "| Pays from |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        seconds, ratio = cell["seconds"], cell["ratio"]
        figures = [f"{1000 * seconds['asked']:,.0f} ms", f"{ratio['cached']:.2f} x", f"{ratio['dropped']:.2f} x"]
        figures += [f"{cell['bytes_per_text'] / 1e3:,.0f} kB", f"{cell['pays_from_epochs']:.1f} epochs"]
        name = [cell["student"], f"{cell['tokens_per_text']:.0f}", "yes" if cell["attention"] else "no"]
        lines.append(f"| {' | '.join([*name, cell['precision'], *figures])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/teacher_cache.json")
    arguments = parser.parse_args()
    cells = [measure(cell, arguments.repeats, arguments.threads) for cell in CELLS]
    result: dict[str, Any] = {"threads": arguments.threads, "texts": TEXTS, "cells": cells}
    result |= {"host": vars(describe_host()), "versions": library_versions()}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
