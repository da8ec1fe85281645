"""What importance and slicing cost: their share of the steps of a real run.

    python bench/distill_step.py [--steps 60] [--output bench/results/distill_step.json]

Distils MiniLM-L6 to 6 x 192 on the packaged texts with the quickstart's settings, and times the
scoring of importance and the slicing inside the same steps. The share is taken over the steps that
prune (to t_f), where every step scores, and over the whole run.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from homoexport.distill import Run
from homoexport.distill.batches import BatchMaker
from homoexport.encoder import family_of, load_encoder, target_widths
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.recipe import load_recipe
from homoexport.text import prepare_text


class TimedRun(Run):
    """A run that adds up the seconds of scoring and of slicing."""

    score_seconds = 0.0
    prune_seconds = 0.0

    def _score(self, micro_batches):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        super()._score(micro_batches)
        self.score_seconds += time.perf_counter() - began

    def _prune(self):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        pruned = super()._prune()
        self.prune_seconds += time.perf_counter() - began
        return pruned


def measure(steps: int, threads: int) -> dict[str, object]:
    """One run, timed step by step."""
    recipe = load_recipe(Path(__file__).parents[1] / "recipes/quickstart.yaml", [f"distill.steps={steps}"])
    torch.set_num_threads(threads)
    teacher = load_encoder(recipe.teacher)
    corpus = prepare_text(recipe.text, teacher.tokenizer, objective=recipe.distill.objective, seed=recipe.seed)
    target = target_widths(family_of(teacher.model.config).widths(teacher.model), **recipe.student.model_dump())
    accelerator = Accelerator(cpu=True)
    student = copy.deepcopy(teacher.model)
    run = TimedRun(teacher, student, target=target, settings=recipe.distill, accelerator=accelerator)
    batches = BatchMaker(
        corpus,
        teacher.tokenizer,
        recipe.distill.objective,
        batch_size=recipe.distill.batch_size,
        micro_batch_size=recipe.distill.micro_batch_size or 8,
        max_length=recipe.text.max_length,
        mlm_probability=recipe.distill.mlm_probability,
        seed=recipe.seed,
        process=0,
        processes=1,
        device=accelerator.device,
    )
    seconds = []
    while not run.finished:
        began = time.perf_counter()
        run.advance(batches.of_step(run.step))
        seconds.append(time.perf_counter() - began)
    assert min(run.score_seconds, run.prune_seconds) > 0, "nothing was timed"
    pruning = sum(seconds[: run.schedule.stop])
    return {
        "steps": steps,
        "pruning_steps": run.schedule.stop,
        "threads": threads,
        "step_seconds_mean": sum(seconds) / steps,
        "score_seconds": run.score_seconds,
        "prune_seconds": run.prune_seconds,
        "share_while_pruning": (run.score_seconds + run.prune_seconds) / pruning,
        "share_of_run": (run.score_seconds + run.prune_seconds) / sum(seconds),
        "host": describe_host(),
        "versions": library_versions(),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/distill_step.json")
    arguments = parser.parse_args()
    result = measure(arguments.steps, arguments.threads)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"step: {result['step_seconds_mean']:.3f} s")
    print(f"importance and slicing: {result['share_while_pruning']:.1%} of the steps that prune")
    print(f"                        {result['share_of_run']:.1%} of the run")


if __name__ == "__main__":
    main()
