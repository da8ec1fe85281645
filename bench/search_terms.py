"""Terms that search might need beside the hidden states: what each adds to what is kept of the teacher's search.

    python bench/search_terms.py STSB_DEV.tsv PASSAGES.txt [--seeds 0 1 2]

None of them is in the product but the first two. A student of 6 x 320/512, pruned at once and repaired, is trained in a
plain loop, with the same steps, batches and learning rate for all, on the error of all hidden states (each layer's is
divided by the variance of the teacher's) and one thing more:

- similarities: squared error of the cosines in a batch;
- vectors: 1 - cosine of the teacher's vector and the student's, read through the last layer's matrix;
- queue: besides vectors, the teacher's ranking of its 2,048 last vectors, as in SEED (arXiv 2101.04731);
- hard neighbours: besides vectors and similarities, batches of groups of four nearest texts;
- fading layers: besides vectors, the hidden states' weight falls to a fifth, so that the output rules late;
- upper layers: the embeddings and the lower half of the layers have no term;
- average of weights: the exponential moving average (0.97 a step) of the weights is judged.

The fp32 students are judged as in `ablation.py`. A run's result is kept as soon as it is there, and is not made again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import SHAPE, judge, read_passages, spread
from methods import RECIPE, keep
from torch import Tensor
from torch.nn import functional

from homoexport.documents.recipe import load_recipe
from homoexport.stages.distill import Job, Run, target_of
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.objective import pool
from homoexport.workflow.job import open_job

RESULTS = Path(__file__).parent / "results/search_terms.json"
BATCH, RATE, WARMUP = 32, 5e-4, 0.05
QUEUE, TEMPERATURE = 2048, 0.05
GROUP, LOOKED_AT = 4, 64
AVERAGE = 0.97


@dataclass(frozen=True)
class Terms:
    """What a kind of run adds to the hidden states."""

    similarities: float = 0
    vectors: float = 0
    queue: float = 0
    hidden_at_end: float = 1
    upper: bool = False
    hard: bool = False
    averaged: bool = False


CELLS = {
    "hidden states alone": Terms(),
    "similarities": Terms(similarities=10),
    "vectors": Terms(vectors=2),
    "queue": Terms(vectors=2, queue=1),
    "hard neighbours": Terms(similarities=10, vectors=2, hard=True),
    "fading layers": Terms(vectors=2, hidden_at_end=0.2),
    "upper layers": Terms(upper=True),
    "average of weights": Terms(averaged=True),
}


def batches_of(job: Job, terms: Terms, steps: int) -> Iterator[list[MicroBatch]]:
    """A step's micro-batches; the same texts for all, in another order where neighbours come together."""
    if not terms.hard:
        yield from (job.batches.of_step(step) for step in range(steps))
        return
    examples = [each for step in range(steps) for each in job.corpus.batch(step, BATCH, 0, BATCH)]
    order = torch.tensor(neighbours(vectors_of(job, examples)))
    for rows in order.split(BATCH):
        yield job.batches.cut([examples[row] for row in rows], first_position=0)


@torch.no_grad()
def vectors_of(job: Job, examples: Sequence[Any]) -> Tensor:
    """The teacher's unit vectors [N, D]."""
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].input_ids))
    vectors = torch.empty(len(examples), job.encoder.width)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        parts = job.batches.cut([examples[row] for row in rows], first_position=0)  # sorted by length already
        states = [job.encoder.model(**micro.inputs).last_hidden_state for micro in parts]
        vectors[rows] = torch.cat(
            [pool(each, m.attention_mask, mode="mean") for each, m in zip(states, parts, strict=True)]
        )
    return vectors


def neighbours(vectors: Tensor) -> list[int]:
    """All rows in an order in which groups of nearest ones stand together."""
    generator, free, groups = np.random.default_rng(0), set(range(len(vectors))), []
    for row in generator.permutation(len(vectors)).tolist():
        if row in free:
            nearest = (vectors @ vectors[row]).topk(LOOKED_AT).indices.tolist()
            group = [row, *[other for other in nearest if other in free and other != row][: GROUP - 1]]
            free -= set(group)
            groups.append(group)
    generator.shuffle(groups)
    return [row for group in groups for row in group]


class Loop:
    """The training of a repaired student."""

    def __init__(self, run: Run, terms: Terms, steps: int) -> None:
        self.teacher, self.student, self.terms, self.steps = run.teacher, run.student, terms, steps
        self.matrices = [run.projections.embedding, *run.projections.hidden]
        self.parameters = [*self.student.parameters(), *self.matrices]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.average = [each.detach().clone() for each in self.student.parameters()]
        self.queue = torch.empty(0, self.matrices[-1].shape[1])

    def step(self, number: int, micro_batches: Sequence[MicroBatch]) -> None:
        """One update."""
        warmup = max(1, round(WARMUP * self.steps))
        share = min((number + 1) / warmup, (self.steps - number) / (self.steps - warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * share
        self.optimizer.zero_grad()
        self._loss(number, micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        decay = min(AVERAGE, (1 + number) / (10 + number))
        torch._foreach_lerp_(self.average, [each.detach() for each in self.student.parameters()], 1 - decay)

    def _loss(self, number: int, micro_batches: Sequence[MicroBatch]) -> Tensor:
        terms, tokens = self.terms, sum(int(micro.attention_mask.sum()) for micro in micro_batches)
        loss, ours, mapped, theirs = torch.zeros(()), [], [], []
        weight = 1 - (1 - terms.hidden_at_end) * number / self.steps
        for micro in micro_batches:
            seen = micro.attention_mask.bool()
            with torch.no_grad():
                goals = self.teacher(**micro.inputs, output_hidden_states=True).hidden_states
            states = self.student(**micro.inputs, output_hidden_states=True).hidden_states
            layers = range(len(states) // 2 if terms.upper else 0, len(states))
            for layer in layers:
                error = (states[layer] @ self.matrices[layer] - goals[layer])[seen].square().sum()
                variance = goals[layer][seen].var()
                loss = loss + weight * error / (variance * tokens * goals[layer].shape[-1] * len(layers))
            for vectors, last in ((ours, states[-1]), (mapped, states[-1] @ self.matrices[-1]), (theirs, goals[-1])):
                vectors.append(pool(last, micro.attention_mask, mode="mean"))
        own, up, goal = torch.cat(ours), torch.cat(mapped), torch.cat(theirs)
        if terms.similarities:
            loss = loss + terms.similarities * (own @ own.T - goal @ goal.T).square().mean()
        if terms.vectors:
            loss = loss + terms.vectors * (1 - (up * goal).sum(1)).mean()
        if terms.queue and len(self.queue):
            logs = [functional.log_softmax(each @ self.queue.T / TEMPERATURE, dim=1) for each in (up, goal)]
            loss = loss + terms.queue * functional.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")
        self.queue = torch.cat([self.queue, goal])[-QUEUE:]
        return loss


def measure(cell: str, stsb: Path, passages: list[str], *, steps: int, seed: int, threads: int) -> dict[str, Any]:
    """One run's result."""
    terms = CELLS[cell]
    recipe = load_recipe(RECIPE, ["distill.method=repair", f"distill.threads={threads}"])
    assert recipe.student is not None
    job = open_job(recipe.teacher, text=recipe.text, settings=recipe.distill, seed=seed)
    run = Run(job, target_of(job.encoder, recipe.student.model_copy(update=SHAPE), recipe.distill))
    run.read_text(job.batches)
    run.advance(job.batches.of_step(0))  # pruned and repaired
    run.close()
    began = time.perf_counter()
    loop = Loop(run, terms, steps)
    for number, micro_batches in enumerate(batches_of(job, terms, steps)):
        loop.step(number, micro_batches)
    seconds = time.perf_counter() - began
    if terms.averaged:
        for parameter, value in zip(run.student.parameters(), loop.average, strict=True):
            parameter.data.copy_(value)
    figures = {name: round(value, 4) for name, value in judge(run, job, stsb, passages).items()}
    return {"cell": cell, "seed": seed, "steps": steps, **figures, "seconds": round(seconds, 1), "threads": threads}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean, lowest and highest of the seeds, in Markdown."""
    lines = ["| Added | Seeds | Held-out overlap@10 | Passages overlap@10 | STS-B dev |", "|---|---:|---:|---:|---:|"]
    for cell in CELLS:
        mine = [run for run in runs if run["cell"] == cell]
        if mine:
            told = [spread([run[name] for run in mine]) for name in ("held_out", "passages", "stsb")]
            lines.append(f"| {cell} | {len(mine)} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stsb", type=Path)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    passages = read_passages(arguments.passages)
    for seed in arguments.seeds:
        for cell in CELLS:
            if any((run["cell"], run["seed"]) == (cell, seed) for run in keep(arguments.output, None)):
                continue
            how = {"steps": arguments.steps, "seed": seed, "threads": arguments.threads}
            result = measure(cell, arguments.stsb, passages, **how)
            keep(arguments.output, result)
            print(f"{cell}, seed {seed}: {[result[name] for name in ('held_out', 'passages', 'stsb')]}", flush=True)
    print(table(keep(arguments.output, None)))


if __name__ == "__main__":
    main()
