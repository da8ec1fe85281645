"""Is the planned shape better than guessing? Against the paper's fixed ratios at the same p95, on STS-B.

    python bench/planned_shapes.py GLUE_DIR WORK_DIR [--steps 240] [--seeds 3]
    python bench/planned_shapes.py GLUE_DIR WORK_DIR --only students --share 0/4
    python bench/planned_shapes.py --table

Four budgets of p95 (int8, one thread, 1 x 128 tokens). For each the plan chooses a shape; the guess is the widest shape
with all of the teacher's layers and a feed-forward width of four times the hidden size that keeps the same budget by
the same table, at any multiple of 8. Packages of both shapes, with random weights, are measured beside each other in
one run. Students of both are distilled with the same steps, text and seeds, exported in int8 and judged on STS-B dev;
that may be done on another machine, and by several processes that share it. Figures are kept as they come.
"""

from __future__ import annotations

import argparse
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from homoexport.documents.artifact import MANIFEST
from homoexport.documents.budget import Budget
from homoexport.documents.plan import Plan, Row, shape_of
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.encoder import family_of, load_encoder, save_encoder, start_from_scratch
from homoexport.host import describe_host, library_versions
from homoexport.shape import PartialShape, Shape
from homoexport.stages.evaluate import evaluate_models, read_glue
from homoexport.stages.plan.choice import Limits
from homoexport.stages.plan.lab import Lab
from homoexport.stages.plan.shapes import candidates
from homoexport.stages.plan.table import Table
from homoexport.workflow.distill import distill
from homoexport.workflow.export import export_model, held_out_texts
from homoexport.workflow.measure import measure_once
from homoexport.workflow.plan import instruments_for
from homoexport.workflow.plan import plan as make_plan

RESULT = Path(__file__).parent / "results/planned_shapes.json"
RECIPE = Path(__file__).parents[1] / "recipes/budget.yaml"
BUDGETS = ("16x", "9x", "6x", "4x")  # times faster than the teacher's fp32 package, at p95
KINDS = ("planned", "guessed")
STEP, LEAST_HEAD = 8, 16  # of widths; of a head's width
SECONDS = 10.0  # of each package: a p95 takes longer to settle than a median


def guess(plan: Plan, table: Table, teacher: Shape) -> Row:
    """The slowest shape of the paper's ratios that keeps the budget by the same table, at any width in steps of 8."""
    off = median(check.measured.latency_p50_ms / check.predicted.latency_p50_ms for check in plan.checks)
    found = []
    for hidden in range(STEP, teacher.hidden_size, STEP):
        for heads in range(1, teacher.num_attention_heads + 1):
            shape = Shape(teacher.num_hidden_layers, hidden, 4 * hidden, heads)
            is_plain = hidden % heads == 0 and shape.head_dim % STEP == 0 and shape.head_dim >= LEAST_HEAD
            if not is_plain or shape.head_dim > teacher.head_dim or not table.covers(shape):
                continue
            cost = table.predict(shape).times(dict.fromkeys(("latency_p50_ms", "latency_p95_ms"), off))
            found.append(Row(**cost.figures, shape=shape, parameters=0, retained=0.0, measured=False))
    kept = filter(Limits.of_plan(plan).kept_by, found)
    return max(kept, key=lambda row: (row.shape.hidden_size, row.latency_p50_ms))


def both_shapes(limit: str, recipe: Recipe) -> dict[str, Any]:
    """The planned and the guessed shape of a budget."""
    encoder = load_encoder(recipe.teacher)
    teacher = family_of(encoder.model.config).widths(encoder.model).shape
    plan = make_plan(
        recipe.teacher,
        budget=Budget(latency_p95_ms=limit),
        measure=recipe.measure,
        export=recipe.export,
        distill=recipe.distill,
        text=recipe.text,
    )
    shapes = candidates(encoder, recipe.distill)
    instruments = instruments_for(encoder, recipe.measure, recipe.export, recipe.distill.objective)
    with Lab(encoder, shapes, recipe.measure, instruments).open() as lab:
        table, remembered = lab.table()
    assert remembered, "both shapes are of one table"
    rows = {"planned": plan.choice, "guessed": guess(plan, table, teacher)}
    limit_ms = plan.limits["latency_p95_ms"]
    plain = {name: row.model_dump(mode="json") for name, row in rows.items()}
    return {"budget": limit, "limit_p95_ms": limit_ms, **plain}


def timed(budget: dict[str, Any], recipe: Recipe, work: Path) -> dict[str, Any]:
    """Packages of both shapes with random weights, measured beside each other on this machine."""
    teacher = load_encoder(recipe.teacher)
    packages = []
    for kind in KINDS:
        shape = shape_of(budget[kind]["shape"])
        random, package = work / f"random-{_name(shape)}", work / f"random-{_name(shape)}-onnx"
        if not package.exists():
            random.mkdir(exist_ok=True)
            save_encoder(teacher, start_from_scratch(teacher.model, family_of(teacher.model.config), shape), random)
            export_model(str(random), package, settings=recipe.export, measure=recipe.measure)
        packages.append(package)
    results = measure_once(packages, recipe.measure.model_copy(update={"min_seconds": SECONDS})).results
    return {
        kind: {"latency_p50_ms": result.latency_p50_ms, "latency_p95_ms": result.latency_p95_ms}
        for kind, result in zip(KINDS, results, strict=True)
    }


def judged(shape: Shape, seed: int, recipe: Recipe, glue: Path, work: Path) -> dict[str, Any]:
    """A student of a shape, distilled, exported in int8, and judged."""
    student, package = work / f"{_name(shape)}-{seed}", work / f"{_name(shape)}-{seed}-onnx"
    if not (student / MANIFEST).is_file():
        distill(
            recipe.teacher,
            text=recipe.text,
            shape=PartialShape.of(shape),
            settings=recipe.distill,
            output=student,
            seed=seed,
            resume=student.exists(),
        )
    if not (package / MANIFEST).is_file():
        texts = held_out_texts(student)
        export_model(str(student), package, settings=recipe.export, measure=recipe.measure, texts=texts)
    (found,) = evaluate_models([str(package)], read_glue("stsb", data_dir=glue), task="sts")
    return {
        "shape": shape.as_json(),
        "seed": seed,
        "steps": recipe.distill.steps,
        "stsb": found.metrics[0].model_dump(mode="json"),
        "distilled_on": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def _name(shape: Shape) -> str:
    return f"{shape.num_hidden_layers}x{shape.hidden_size}-{shape.intermediate_size}-{shape.num_attention_heads}"


@contextmanager
def kept(path: Path) -> Iterator[dict[str, Any]]:
    """What is kept, to read and to add to; several processes may work on one file."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(path.read_text()) if path.is_file() else {"budgets": [], "students": []}
        yield results
        path.write_text(json.dumps(results, indent=1) + "\n")


def scores(results: dict[str, Any], shape: dict[str, Any]) -> list[float]:
    """Of a shape's students, one for each seed."""
    return [each["stsb"]["value"] for each in results["students"] if each["shape"] == shape]


def table(results: dict[str, Any]) -> str:
    """A line a budget, in Markdown: means of the seeds, and their range."""
    lines = [
        "| p95 at most | planned | p95 | STS-B | fixed ratios | p95 | STS-B |",
        "|---:|---|---:|---:|---|---:|---:|",
    ]
    for each in results["budgets"]:
        cells = [f"{each['limit_p95_ms']:.2f} ms ({each['budget']})"]
        for kind in KINDS:
            found = scores(results, each[kind]["shape"])
            cells += [
                shape_of(each[kind]["shape"]).name,
                f"{each['timed'][kind]['latency_p95_ms']:.2f} ms" if "timed" in each else "",
                f"{fmean(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else "",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("shapes", "students"), help="plan and measure shapes, or distil students")
    parser.add_argument("--share", default="0/1", help="this process's part of the students, as in 0/2")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    arguments = parser.parse_args()
    path: Path = arguments.output
    if not arguments.table:
        if arguments.glue is None or arguments.work is None:
            parser.error("name GLUE_DIR and WORK_DIR, or give --table")
        arguments.work.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe(RECIPE, [f"distill.steps={arguments.steps}"])
        if arguments.only != "students":
            plan_shapes(recipe, arguments.work, path)
        if arguments.only != "shapes":
            index, of = map(int, arguments.share.split("/"))
            distil_students(recipe, arguments.glue, arguments.work, path, range(arguments.seeds), index, of)
    with kept(path) as results:
        print(table(results))


def plan_shapes(recipe: Recipe, work: Path, path: Path) -> None:
    """The shapes of every budget, and how fast they are here."""
    for limit in BUDGETS:
        with kept(path) as results:
            if any(each["budget"] == limit for each in results["budgets"]):
                continue
            budget = both_shapes(limit, recipe)
            results["budgets"].append({**budget, "timed": timed(budget, recipe, work)})
            results |= {"host": vars(describe_host()), "versions": library_versions()}


def distil_students(recipe: Recipe, glue: Path, work: Path, path: Path, seeds: range, index: int, of: int) -> None:
    """This process's part of the students, one seed after the other."""
    with kept(path) as results:
        shapes = list(dict.fromkeys(shape_of(each[kind]["shape"]) for each in results["budgets"] for kind in KINDS))
    for shape, seed in [(shape, seed) for seed in seeds for shape in shapes][index::of]:
        with kept(path) as results:
            done = [(each["shape"], each["seed"]) for each in results["students"]]
        if (shape.as_json(), seed) in done:
            continue
        student = judged(shape, seed, recipe, glue, work)
        with kept(path) as results:
            results["students"].append(student)
        print(f"{shape.name}, seed {seed}: {student['stsb']['value']:.4f}", flush=True)


if __name__ == "__main__":
    main()
