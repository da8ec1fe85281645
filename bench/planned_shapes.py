"""Is the planned shape better than guessing? Against the paper's fixed ratios at the same p95, on STS-B.

    python bench/planned_shapes.py GLUE_DIR WORK_DIR [--steps 240] [--output bench/results/planned_shapes.json]
    python bench/planned_shapes.py --table

Four budgets of p95 (int8, one thread, 1 x 128 tokens). For each the plan chooses a shape; the guess is the widest shape
with all of the teacher's layers, a feed-forward width of four times the hidden size and heads as wide as the teacher's
that keeps the same budget by the same table. Both are distilled with the same steps, text and seed, exported in int8,
measured beside each other in one run, and judged on STS-B dev. Students and figures are kept as they come.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from homoexport.artifact import MANIFEST
from homoexport.bench import measure
from homoexport.budget import Budget
from homoexport.distill import distill
from homoexport.evaluate import evaluate_models, read_glue
from homoexport.exporting import export_folder, held_out_texts
from homoexport.host import describe_host, library_versions
from homoexport.plan import Plan, Row, plan_student
from homoexport.recipe import load_recipe
from homoexport.report import shape_name
from homoexport.text import first_texts

RESULT = Path(__file__).parent / "results/planned_shapes.json"
RECIPE = Path(__file__).parents[1] / "recipes/budget.yaml"
BUDGETS = ("16x", "9x", "6x", "4x")  # times faster than the teacher's fp32 package, at p95
HEAD_WIDTH = 32  # the teacher's
TEXTS = 256


def guess(plan: Plan) -> Row:
    """The widest shape of the paper's ratios that keeps the budget."""
    deepest = max(row.shape.layers for row in plan.rows)
    plain = [
        row
        for row in plan.rows
        if row.shape.layers == deepest
        and row.shape.ffn == 4 * row.shape.hidden
        and row.shape.head_dim == HEAD_WIDTH
        and plan.limits.kept_by(row)
    ]
    return max(plain, key=lambda row: row.shape.hidden)


def compare(limit: str, glue: Path, work: Path, steps: int) -> dict[str, Any]:
    """Both shapes of a budget, distilled and judged."""
    recipe = load_recipe(RECIPE, [f"distill.steps={steps}"])
    plan = plan_student(
        recipe.teacher,
        budget=Budget(latency_p95_ms=limit),
        measure=recipe.measure,
        export=recipe.export,
        distill=recipe.distill,
        texts=first_texts(recipe.text, TEXTS),
    )
    rows = {"planned": plan.choice, "guessed": guess(plan)}
    packages = []
    for row in rows.values():
        name = shape_name(row.shape.as_json()).replace("/", "-").replace(" ", "").replace(",", "-")
        student, package = work / name, work / f"{name}-onnx"
        if not (student / MANIFEST).is_file():
            distill(
                recipe.teacher,
                text=recipe.text,
                shape=row.shape.student,
                settings=recipe.distill,
                out_dir=student,
                resume=student.exists(),
            )
        if not (package / MANIFEST).is_file():
            texts = held_out_texts(student)
            export_folder(str(student), package, settings=recipe.export, measure=recipe.measure, texts=texts)
        packages.append(package)
    results = measure(packages, recipe.measure).results
    judged = evaluate_models([str(package) for package in packages], read_glue("stsb", data_dir=glue), task="sts")
    return {
        "budget": limit,
        "limit_p95_ms": plan.limits.values["latency_p95_ms"],
        **{
            name: {
                "shape": row.shape.as_json(),
                "retained": row.retained,
                "parameters": row.parameters,
                "planned_p95_ms": row.figures.latency_p95_ms,
                "latency_p50_ms": result.latency_p50_ms,
                "latency_p95_ms": result.latency_p95_ms,
                "stsb": found["metrics"][0],
            }
            for (name, row), result, found in zip(rows.items(), results, judged, strict=True)
        },
    }


def table(budgets: list[dict[str, Any]]) -> str:
    """A line a budget, in Markdown."""
    lines = [
        "| p95 at most | planned | p95 | STS-B | fixed ratios | p95 | STS-B |",
        "|---:|---|---:|---:|---|---:|---:|",
    ]
    for each in budgets:
        cells = [f"{each['limit_p95_ms']:.2f} ms ({each['budget']})"]
        for name in ("planned", "guessed"):
            one = each[name]
            cells += [
                shape_name(one["shape"]),
                f"{one['latency_p95_ms']:.2f} ms",
                f"{one['stsb']['value']:.3f} ({one['stsb']['interval'][0]:.3f} to {one['stsb']['interval'][1]:.3f})",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    arguments = parser.parse_args()
    kept = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"budgets": []}
    if not arguments.table:
        if arguments.glue is None or arguments.work is None:
            parser.error("name GLUE_DIR and WORK_DIR, or give --table")
        arguments.work.mkdir(parents=True, exist_ok=True)
        for limit in BUDGETS:
            if any(each["budget"] == limit for each in kept["budgets"]):
                continue
            kept["budgets"].append(compare(limit, arguments.glue, arguments.work, arguments.steps))
            kept |= {"steps": arguments.steps, "host": describe_host(), "versions": library_versions()}
            arguments.output.write_text(json.dumps(kept, indent=1) + "\n")
            print(table(kept["budgets"][-1:]), flush=True)
    print(table(kept["budgets"]))


if __name__ == "__main__":
    main()
