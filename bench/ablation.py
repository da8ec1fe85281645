"""What makes a student keep its teacher's search: one change at a time to a recipe, several seeds.

    python bench/ablation.py STSB_DEV.tsv PASSAGES.txt [--seeds 0 1 2]

The recipe is the quickstart's, with the attention term at 0.1 that it had before this showed what that costs, and the
student of 6 x 320/512 that it had before its words were product-quantized. Distils MiniLM-L6 on the quickstart's texts
and judges the fp32 student by what it keeps of the teacher's ten nearest neighbours (overlap@10) on the recipe's
held-out sentences and on 1,000 passages of another kind (`bench/docstrings.py` writes some), and by STS-B dev. All runs
have the same number of steps.

A run's result is kept as soon as it is there, and is not made again; the table is printed from what is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import Cell, distil, keep, largest_jump
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sts import read_pairs

from homoexport.encoder import Encoder, count_parameters
from homoexport.stages.distill import Job, Run
from homoexport.stages.distill.objective import pool
from homoexport.stages.evaluate.retrieval import retrieval_qualities

RESULTS = Path(__file__).parent / "results/ablation.json"
PASSAGES = 1000
FIGURES = ("held_out", "passages", "stsb")

BASE = ("distill.weights.attention=0.1",)
SHAPE = {"hidden_size": 320, "intermediate_size": 512, "num_attention_heads": 10}
CELLS = (
    Cell("all of it"),
    Cell("compared in the student's width", ("distill.compare_in=student",)),
    Cell("not repaired", ("distill.repair=false",)),
    Cell("repaired, not trained", ("distill.method=repair",)),
    Cell("no attention term", ("distill.weights.attention=0",)),
    Cell("no match of similarities", ("distill.weights.task=0",)),
    Cell("a third cropped", ("distill.crop=0.33",)),
)


def read_passages(path: Path) -> list[str]:
    """A thousand lines, from all over the file."""
    every = path.read_text(encoding="utf-8").splitlines()
    return every[:: max(1, len(every) // PASSAGES)][:PASSAGES]


@torch.no_grad()
def embed(model: Any, encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """Unit vectors [N, D], the shortest texts first through the model."""
    assert encoder.pooling is not None
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = []
    for start in range(0, len(order), 64):
        batch = encoder.tokenizer(
            [texts[row] for row in order[start : start + 64]],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        parts.append(pool(model(**batch).last_hidden_state, batch["attention_mask"], mode=encoder.pooling.mode))
    vectors: NDArray[np.float32] = torch.cat(parts).numpy()[np.argsort(order)]
    return vectors


def search_kept(run: Run, job: Job, passages: list[str]) -> dict[str, float]:
    """overlap@10 with the teacher on the recipe's held-out texts and on passages."""
    figures = {}
    for name, texts in (("held_out", job.corpus.held_out_texts), ("passages", passages)):
        both = [embed(model, job.encoder, texts) for model in (run.teacher, run.student)]
        figures[name] = retrieval_qualities(both[0], both[1], seed=0)[0].value
    return figures


def judge(run: Run, job: Job, stsb: Path, passages: list[str]) -> dict[str, float]:
    """What is kept of the teacher's search, and STS-B dev."""
    pairs, scores = read_pairs(stsb)
    sides = [embed(run.student, job.encoder, [pair[side] for pair in pairs]) for side in (0, 1)]
    agreement = float(spearmanr((sides[0] * sides[1]).sum(1), np.array(scores)).statistic)
    return search_kept(run, job, passages) | {"stsb": agreement}


def measure(cell: Cell, stsb: Path, passages: list[str], *, steps: int, seed: int, threads: int) -> dict[str, Any]:
    """One run's result."""
    run, job, log, seconds = distil(cell, steps=steps, seed=seed, threads=threads, settings=BASE, shape=SHAPE)
    figures = judge(run, job, stsb, passages)
    return {
        "cell": cell.name,
        "seed": seed,
        "steps": steps,
        **{name: round(value, 4) for name, value in figures.items()},
        "parameters": count_parameters(run.student),
        "largest_jump": round(largest_jump(log), 4),
        "end_gap": round(float(np.mean([line["gap"] for line in log[-10:]])), 4),
        "seconds": round(seconds, 1),
        "threads": threads,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Mean, lowest and highest of the seeds, in Markdown."""
    lines = [
        "| Run | Steps | Seeds | Held-out overlap@10 | Passages overlap@10 | STS-B dev |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for steps in sorted({run["steps"] for run in runs}):
        for cell in CELLS:
            mine = [run for run in runs if run["cell"] == cell.name and run["steps"] == steps]
            if mine:
                told = [spread([run[name] for run in mine]) for name in FIGURES]
                lines.append(f"| {cell.name} | {steps} | {len(mine)} | {' | '.join(told)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """The mean, and from the lowest to the highest."""
    return f"{np.mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def todo(path: Path, cells: tuple[Cell, ...], seeds: list[int], steps: int) -> Iterator[tuple[Cell, int]]:
    """Cells and seeds without a result, all cells' first seeds before the second ones."""
    for seed in seeds:
        for cell in cells:
            done = ((run["cell"], run["seed"], run["steps"]) for run in keep(path, None))
            if (cell.name, seed, steps) not in done:
                yield cell, seed


def main() -> None:
    """Run what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stsb", type=Path)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    passages = read_passages(arguments.passages)
    for cell, seed in todo(arguments.output, CELLS, arguments.seeds, arguments.steps):
        how = {"steps": arguments.steps, "seed": seed, "threads": arguments.threads}
        result = measure(cell, arguments.stsb, passages, **how)
        print(f"{cell.name}, seed {seed}: {[result[name] for name in FIGURES]}, {result['seconds']:.0f} s", flush=True)
        keep(arguments.output, result)
    print(table(keep(arguments.output, None)))


if __name__ == "__main__":
    main()
