"""Does the package keep what was promised? Planned runs for a dozen budgets, each measured again by a new process.

    python bench/budgets.py WORK_DIR [--steps 40] [--output bench/results/budgets.json]
    python bench/budgets.py --table

MiniLM on the quickstart's texts, with short distillations: what is tested is cost, not quality. Budgets are tight,
loose, relative, of latency, size or memory alone, and mixed; two cannot be kept and must be refused. Last comes a plan
that was told to lie: models are said to be 30 % faster and smaller than they are, so that the first turn misses; how it
ends is held against a distillation to the same shape from the start. Results are kept as they come.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from homoexport.documents.document import parse_document, read_json
from homoexport.documents.layout import PACKAGE
from homoexport.documents.measurement import Measurement
from homoexport.documents.plan import Cost, shape_of
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.errors import BudgetError
from homoexport.host import describe_host, library_versions
from homoexport.shape import PartialShape, Shape
from homoexport.stages.plan.lab import Lab
from homoexport.workflow.distill import distill, prune_on
from homoexport.workflow.measure import judge_package
from homoexport.workflow.run import run

RESULT = Path(__file__).parent / "results/budgets.json"
RECIPE = Path(__file__).parents[1] / "recipes/budget.yaml"
BUDGETS: dict[str, dict[str, str]] = {
    "latency, tight": {"latency_p95_ms": "2.5ms"},
    "latency, loose": {"latency_p95_ms": "15ms"},
    "median": {"latency_p50_ms": "4ms"},
    "p99": {"latency_p99_ms": "8ms"},
    "latency, relative": {"latency_p95_ms": "5x"},
    "latency, a share": {"latency_p50_ms": "20%"},
    "throughput": {"throughput_per_s": "250/s"},
    "throughput, relative": {"throughput_per_s": "4x"},
    "size": {"file_mb": "6MB"},
    "size, relative": {"file_mb": "8x"},
    "memory": {"peak_rss_mb": "95MB"},
    "memory, relative": {"peak_rss_mb": "50%"},
    "parameters": {"parameters": "8M"},
    "mixed": {"latency_p95_ms": "6ms", "file_mb": "9MB", "peak_rss_mb": "110MB"},
    "mixed, relative": {"latency_p50_ms": "6x", "file_mb": "10%", "peak_rss_mb": "60%"},
}
HOPELESS: dict[str, dict[str, str]] = {
    "latency, hopeless": {"latency_p95_ms": "0.05ms"},
    "mixed, hopeless": {"latency_p95_ms": "8ms", "file_mb": "1MB"},
}
LIE, LIED_TO = 0.7, {"latency_p50_ms": "4ms", "file_mb": "8MB"}


def recipe_of(budget: dict[str, str], steps: int) -> Recipe:
    """The recipe with a budget and short."""
    assignments = [f"budget.{line}={limit}" for line, limit in budget.items()]
    tidy = [f"budget.{line}=null" for line in ("latency_p95_ms", "file_mb") if line not in budget]
    return load_recipe(RECIPE, [*assignments, *tidy, f"distill.steps={steps}"])


def again(run_dir: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The budget's verdicts when a new process measures teacher and package."""
    measure = recipe.measure
    command = [sys.executable, "-m", "homoexport", "bench", run_dir / "0-teacher", run_dir / PACKAGE, "--json"]
    command += ["--threads", str(measure.threads), "--length", str(measure.length)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    teacher, package = parse_document(json.loads(done.stdout), Measurement, where="homoexport bench").results
    return [verdict.model_dump() for verdict in judge_package(recipe.budget, package, teacher=teacher)]


def promise(name: str, budget: dict[str, str], work: Path, steps: int) -> dict[str, Any]:
    """One budget from plan to verdict, and measured again."""
    recipe, run_dir, began = (
        recipe_of(budget, steps),
        work / name.replace(", ", "-").replace(" ", "-"),
        time.perf_counter(),
    )
    shutil.rmtree(run_dir, ignore_errors=True)
    try:
        summary = run(recipe, output=run_dir).model_dump(mode="json")
    except BudgetError as error:
        return {"budget": budget, "refused": str(error), "seconds": round(time.perf_counter() - began, 1)}
    plan = summary["plan"]
    return {
        "budget": budget,
        "turns": [{key: turn[key] for key in ("shape", "steps", "budget")} for turn in plan["turns"]],
        "planned": plan["turns"][-1]["planned"],
        "verdicts": summary["budget"],
        "again": again(run_dir, recipe),
        "wider": plan["wider"],
        "seconds": round(time.perf_counter() - began, 1),
        "stages": summary["seconds"],
    }


def lied_to(work: Path, steps: int) -> dict[str, Any]:
    """A plan that is told that models are faster and smaller than they are: turns, and what starting over costs."""
    true = Lab._timed

    def lie(self: Lab, shapes: list[Shape], **how: float) -> dict[Shape, Cost]:
        names = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms", "file_mb")
        return {shape: cost.times(dict.fromkeys(names, LIE)) for shape, cost in true(self, shapes, **how).items()}

    recipe, run_dir = recipe_of(LIED_TO, steps), work / "lied-to"
    shutil.rmtree(run_dir, ignore_errors=True)
    cache = work / "lied-to-cache"
    shutil.rmtree(cache, ignore_errors=True)
    seconds: list[float] = []

    def clocked(*arguments: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        try:
            return prune_on(*arguments, **settings)
        finally:
            seconds.append(time.perf_counter() - began)

    with (
        patch.object(Lab, "_timed", lie),
        patch("homoexport.workflow.run.prune_on", clocked),
        patch.dict("os.environ", {"HOMOEXPORT_CACHE": str(cache)}),
    ):
        summary = run(recipe, output=run_dir).model_dump(mode="json")
    turns = summary["plan"]["turns"]
    shape = turns[-1]["shape"]
    over = work / "started-over"
    shutil.rmtree(over, ignore_errors=True)
    began = time.perf_counter()
    student = PartialShape.of(shape_of(shape))
    distill(recipe.teacher, text=recipe.text, shape=student, settings=recipe.distill, output=over, seed=recipe.seed)
    return {
        "lie": LIE,
        "budget": LIED_TO,
        "turns": turns,
        "budget_kept": summary["budget_kept"],
        "pruning_on_seconds": round(sum(seconds), 1),
        "starting_over_seconds": round(time.perf_counter() - began, 1),
        "again": again(run_dir, recipe),
    }


def table(results: dict[str, Any]) -> str:
    """A line a budget, in Markdown."""
    lines = [
        "| budget | asked for | shape | measured | again, in a new process | turns |",
        "|---|---|---|---|---|---:|",
    ]

    def figures(verdicts: list[dict[str, Any]]) -> str:
        told = {True: "kept", False: "missed", None: "unclear"}
        return ", ".join(f"{each['measured']:.3g} of {each['limit']:.3g}: {told[each['kept']]}" for each in verdicts)

    for name, result in results["budgets"].items():
        asked = ", ".join(f"{line} {limit}" for line, limit in result["budget"].items())
        if "refused" in result:
            reason = result["refused"].split("; ")[0]
            lines.append(f"| {name} | {asked} | refused in {result['seconds']:.0f} s | {reason} | | |")
            continue
        shape = shape_of(result["turns"][-1]["shape"]).name
        cells = (name, asked, shape, figures(result["verdicts"]), figures(result["again"]), len(result["turns"]))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def told_lie(lied: dict[str, Any]) -> str:
    """How the plan that was told to lie ended, in a sentence."""
    shapes = [shape_of(turn["shape"]).name for turn in lied["turns"]]
    asked = ", ".join(f"{line} at most {limit}" for line, limit in lied["budget"].items())
    end = "within" if lied["budget_kept"] else "outside"
    return (
        f"A plan that was told that models are {100 * (1 - lied['lie']):.0f} % faster and smaller than they are "
        f"({asked}) ended {end} its budget in turn {len(shapes)}, from {shapes[0]} to {shapes[-1]}; "
        f"pruning on took {lied['pruning_on_seconds']:.0f} s, distilling the last shape from the start "
        f"{lied['starting_over_seconds']:.0f} s."
    )


def main() -> None:
    """Run what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    arguments = parser.parse_args()
    kept: dict[str, Any] = read_json(arguments.output) if arguments.output.is_file() else {"budgets": {}}
    if not arguments.table:
        if arguments.work is None:
            parser.error("name WORK_DIR, or give --table")
        arguments.work.mkdir(parents=True, exist_ok=True)
        kept |= {"host": vars(describe_host()), "versions": library_versions()}
        for name, budget in (BUDGETS | HOPELESS).items():
            if name not in kept["budgets"]:
                result = promise(name, budget, arguments.work, arguments.steps)
                results = kept["budgets"] | {name: {**result, "steps": arguments.steps}}
                kept["budgets"] = {each: results[each] for each in BUDGETS | HOPELESS if each in results}
                arguments.output.write_text(json.dumps(kept, indent=1) + "\n")
                print(f"{name}: {kept['budgets'][name]['seconds']:.0f} s", flush=True)
        if "lied_to" not in kept:
            kept["lied_to"] = lied_to(arguments.work, arguments.steps)
            arguments.output.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept))
    if "lied_to" in kept:
        print(told_lie(kept["lied_to"]))


if __name__ == "__main__":
    main()
