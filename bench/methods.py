"""HomoDistil beside its peers, at the same student size, steps and text: STS-B Spearman, several seeds.

    python bench/methods.py STSB_DEV.tsv [--steps 300] [--seeds 0 1 2] [--output bench/results/methods.json]

Distils MiniLM-L6 (6 x 384) on the quickstart's texts. Three groups of runs:

- methods: homodistil, one-shot (by sensitivity and by magnitude), from-scratch, minilm, all to 6 x 192; one-shot,
  mended, with the states compared in the teacher's width;
  tinybert, with fewer layers and all of the teacher's heads, as it is meant (4 x 216: the same size);
  layers, once as DistilBERT has it (3 x 384: the embeddings and half the layers, twice the size) and
  once cut to the others' size (3 x 224);
- t_f: homodistil with the target met at 0, 0.1, 0.3, 0.5, 0.7, 0.9 of the steps (0 is one-shot);
- importance: homodistil by sensitivity, magnitude and platon.

A run's result is kept as soon as it is there, and is not made again: an interrupted benchmark goes
on where it was. `--plot` draws what is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.stats import spearmanr
from sts import read_pairs

from homoexport.documents.recipe import load_recipe
from homoexport.encoder import Encoder, count_parameters
from homoexport.host import describe_host, library_versions
from homoexport.stages.distill import Job, Run, target_of
from homoexport.stages.distill.objective import pool
from homoexport.workflow.job import open_job

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
SWEEP = (0.1, 0.3, 0.5, 0.7, 0.9)
DEFAULT = "homodistil"  # t_f 0.6, sensitivity
SHAPE = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6}
SETTINGS = (  # as the paper has it, and on every host alike
    "distill.method=homodistil",
    "distill.repair=false",
    "distill.compare_in=student",
    "distill.weights.attention=0.1",
    "distill.precision=fp32",
)


@dataclass(frozen=True)
class Cell:
    """One kind of run: what it changes in settings and shape."""

    name: str
    settings: tuple[str, ...] = ()
    shape: dict[str, int] = field(default_factory=dict)


METHODS = (
    Cell(DEFAULT),
    Cell("one-shot", ("distill.method=one-shot",)),
    Cell("one-shot, repaired", ("distill.method=one-shot", "distill.repair=true", "distill.compare_in=teacher")),
    Cell("one-shot, magnitude", ("distill.method=one-shot", "distill.importance=magnitude")),
    Cell("from-scratch", ("distill.method=from-scratch",)),
    Cell("minilm", ("distill.method=minilm",)),
    Cell(
        "tinybert",
        ("distill.method=tinybert", "distill.compare_in=teacher"),
        {"num_hidden_layers": 4, "hidden_size": 216, "intermediate_size": 768, "num_attention_heads": 12},
    ),
    Cell(
        "layers, same size",
        ("distill.method=layers",),
        {"hidden_size": 224, "intermediate_size": 896, "num_attention_heads": 7},
    ),
    Cell(
        "layers, full width",
        ("distill.method=layers",),
        {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12},
    ),
)
STOPS = tuple(Cell(f"t_f {stop}", (f"distill.prune_until={stop}",)) for stop in SWEEP)
IMPORTANCES = tuple(Cell(kind, (f"distill.importance={kind}",)) for kind in ("magnitude", "platon"))


def sts_of(model: torch.nn.Module, teacher: Encoder, pairs: list[tuple[str, str]], scores: list[float]) -> float:
    """Spearman's correlation of the model's cosine similarities with people's scores."""
    assert teacher.pooling is not None
    vectors = []
    for side in (0, 1):
        texts = [pair[side] for pair in pairs]
        parts = []
        for start in range(0, len(texts), 64):
            batch = teacher.tokenizer(
                texts[start : start + 64], padding=True, truncation=True, max_length=128, return_tensors="pt"
            )
            with torch.no_grad():
                states = model(**batch).last_hidden_state
            parts.append(pool(states, batch["attention_mask"], mode=teacher.pooling.mode))
        vectors.append(torch.cat(parts))
    return float(spearmanr((vectors[0] * vectors[1]).sum(1).numpy(), np.array(scores)).statistic)


def distil(
    cell: Cell,
    *,
    steps: int,
    seed: int,
    threads: int,
    settings: tuple[str, ...] = SETTINGS,
    shape: dict[str, int] = SHAPE,
) -> tuple[Run, Job, list[dict[str, Any]], float]:
    """One run: the finished run, its job with teacher and text, its log, and its seconds."""
    recipe = load_recipe(RECIPE, [f"distill.steps={steps}", f"distill.threads={threads}", *settings, *cell.settings])
    assert recipe.student is not None
    student = recipe.student.model_copy(update=shape | cell.shape)
    job = open_job(recipe.teacher, text=recipe.text, settings=recipe.distill, seed=seed)
    run = Run(job, target_of(job.encoder, student, recipe.distill))
    began = time.perf_counter()
    run.read_text(job.batches)
    log = []
    while not run.finished:
        log.append(run.advance(job.batches.of_step(run.step)).model_dump(mode="json"))
    run.close()
    return run, job, log, time.perf_counter() - began


def largest_jump(log: list[dict[str, Any]]) -> float:
    """The largest rise of the gap over a prune event; before step 0 the gap is the teacher's to itself, 0."""
    gaps = [0.0, *(line["gap"] for line in log)]
    # Neurons that leave after step i are missed from step i + 1 on; at step 0, from step 0 on.
    events = [line["step"] + 1 for line in log if line["pruned"] and line["step"] > 0]
    events += [0] if log[0]["gap"] > 1e-6 else []
    return max((gaps[step + 1] - gaps[step] for step in events if step < len(log)), default=0.0)


def measure(cell: Cell, data: Path, *, steps: int, seed: int, threads: int) -> dict[str, Any]:
    """One cell's result."""
    pairs, scores = read_pairs(data)
    run, job, log, seconds = distil(cell, steps=steps, seed=seed, threads=threads)
    return {
        "cell": cell.name,
        "seed": seed,
        "steps": steps,
        "spearman": sts_of(run.student, job.encoder, pairs, scores),
        "parameters": count_parameters(run.student),
        "widths": run.widths.as_json(),
        "largest_jump": largest_jump(log),
        "gap": [round(line["gap"], 5) for line in log],
        "seconds": round(seconds, 1),
        "threads": threads,
    }


def keep(path: Path, result: dict[str, Any] | None, **about: Any) -> list[dict[str, Any]]:
    """Add a result to what is kept and return all; several processes may work on one file."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(path.read_text()) if path.is_file() else {"runs": []}
        if result is not None:
            kept["runs"].append(result)
            kept["runs"].sort(key=lambda run: (run["cell"], run["seed"]))
            kept |= about | {"host": vars(describe_host()), "versions": library_versions()}
            path.write_text(json.dumps(kept, indent=1) + "\n")
        runs: list[dict[str, Any]] = kept["runs"]
        return runs


def todo(path: Path, seeds: list[int], steps: int, share: tuple[int, int]) -> Iterator[tuple[Cell, int]]:
    """Cells and seeds without a result, the methods' further seeds before the sweeps'; `share` is as in 0/2."""
    sweeps = (*STOPS, *IMPORTANCES)
    work = [(cell, seeds[0]) for cell in (*METHODS, *sweeps)]
    work += [(cell, seed) for cells in (METHODS, sweeps) for seed in seeds[1:] for cell in cells]
    for cell, seed in work[share[0] :: share[1]]:
        kept = keep(path, None)
        if any(run["steps"] != steps for run in kept):
            raise SystemExit(f"{path} has runs of other steps; name another --output")
        if not any(run["cell"] == cell.name and run["seed"] == seed for run in kept):
            yield cell, seed


def table(runs: list[dict[str, Any]]) -> str:
    """A line for each method, in Markdown: mean, lowest and highest of its seeds."""
    told = {
        "one-shot, repaired": "`one-shot`, mended",
        "homodistil": "`homodistil`",
        "one-shot": "`one-shot`",
        "layers, same size": "`layers`, cut to the same size",
        "layers, full width": "`layers`, full width",
        "one-shot, magnitude": "`one-shot` by magnitude",
        "minilm": "`minilm`",
        "tinybert": "`tinybert`",
        "from-scratch": "`from-scratch`",
    }
    summary = summarize(runs)
    lines = ["| Method | Parameters | Spearman |", "|---|---:|---:|"]
    for name, words in told.items():
        if name not in summary:
            continue  # not made yet
        found = summary[name]
        spread = f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
        lines.append(f"| {words} | {found['parameters'] / 1e6:.1f} M | {spread} |")
    return "\n".join(lines)


def summarize(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By cell: mean, lowest and highest of the seeds, parameters, the mean of the largest jumps."""
    summary = {}
    for name in dict.fromkeys(run["cell"] for run in runs):
        mine = [run for run in runs if run["cell"] == name]
        values = [run["spearman"] for run in mine]
        summary[name] = {
            "mean": float(np.mean(values)),
            "low": min(values),
            "high": max(values),
            "seeds": len(values),
            "parameters": mine[0]["parameters"],
            "largest_jump": float(np.mean([run["largest_jump"] for run in mine])),
        }
    return summary


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Methods, t_f and importances by their Spearman, and the gap's way."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    summary = summarize(runs)
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), constrained_layout=True)

    def bars(axis: Any, names: list[str], labels: list[str], title: str) -> None:
        cells = [summary[name] for name in names]
        means = [cell["mean"] for cell in cells]
        spread = [[cell["mean"] - cell["low"] for cell in cells], [cell["high"] - cell["mean"] for cell in cells]]
        axis.barh(range(len(names)), means, xerr=spread, color="#0072B2", capsize=3, height=0.6)
        texts = [
            f"{label}\n{cell['parameters'] / 1e6:.1f} M, seeds: {cell['seeds']}"
            for label, cell in zip(labels, cells, strict=True)
        ]
        axis.set_yticks(range(len(names)), texts)
        axis.invert_yaxis()
        axis.set_xlim(0, 0.9)
        axis.set_xlabel("STS-B dev, Spearman (mean; lowest and highest seed)")
        axis.set_title(title)

    methods = [cell.name for cell in METHODS if cell.name in summary]
    bars(axes[0, 0], methods, methods, "methods")
    kinds = [name for name in (DEFAULT, "magnitude", "platon") if name in summary]
    bars(axes[0, 1], kinds, ["sensitivity" if name == DEFAULT else name for name in kinds], "importance")
    stops = {0.0: "one-shot", 0.6: DEFAULT} | {stop: f"t_f {stop}" for stop in SWEEP}
    points = [(stop, summary[name]) for stop, name in sorted(stops.items()) if name in summary]
    axis = axes[1, 0]
    axis.errorbar(
        [stop for stop, _ in points],
        [cell["mean"] for _, cell in points],
        yerr=[
            [cell["mean"] - cell["low"] for _, cell in points],
            [cell["high"] - cell["mean"] for _, cell in points],
        ],
        marker="o",
        capsize=3,
        color="#0072B2",
    )
    axis.set_xlabel("t_f, share of the steps")
    axis.set_ylabel("STS-B dev, Spearman")
    axis.set_ylim(0.75, 0.85)
    axis.set_title("when the target width is met")
    axis = axes[1, 1]
    for name, colour in ((DEFAULT, "#0072B2"), ("one-shot", "#D55E00"), ("from-scratch", "#333333")):
        run = next((run for run in runs if run["cell"] == name), None)
        if run is not None:
            axis.plot(run["gap"], color=colour, label=f"{name}, largest jump {run['largest_jump']:.2f}", linewidth=1)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_xlabel("step")
    axis.set_ylabel("gap to the teacher (weighted terms)")
    axis.set_title("the gap's way")
    axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, keep it, print all, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", default="0/1", help="this process's part of the runs, as in 0/2")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/methods.json")
    parser.add_argument("--plot", action="store_true", help="only draw what is kept")
    arguments = parser.parse_args()
    index, of = map(int, arguments.share.split("/"))
    if not arguments.plot:
        for cell, seed in todo(arguments.output, arguments.seeds, arguments.steps, (index, of)):
            result = measure(cell, arguments.data, steps=arguments.steps, seed=seed, threads=arguments.threads)
            print(f"{cell.name}, seed {seed}: {result['spearman']:.4f} in {result['seconds']:.0f} s", flush=True)
            keep(arguments.output, result, data=arguments.data.name)
    runs = keep(arguments.output, None)
    for name, figures in summarize(runs).items():
        print(
            f"{name:20} {figures['mean']:.4f} ({figures['low']:.4f} to {figures['high']:.4f}, "
            f"{figures['seeds']} seeds)  {figures['parameters'] / 1e6:5.2f} M  jump {figures['largest_jump']:.3f}"
        )
    draw(runs, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
