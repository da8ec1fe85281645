"""How well a plan predicts: whole models that are not in its table, against their prediction.

    python bench/plan_prediction.py [--shapes 20] [--exports 3] [--output FILE]
    python bench/plan_prediction.py --runtime ctranslate2 --lengths 128 --shapes 8 --exports 2
    python bench/plan_prediction.py --plot

Shapes of MiniLM's students are drawn by a seed: of 2, 4 or 6 layers, any head width, hidden sizes of the table and
between them. For fp32 and int8, at 32, 128 and 256 tokens (one thread, batch 1), each is predicted from the table and
measured whole, with random weights, beside the table's anchor. Some are also exported as any student is, with all forms
to choose from, and timed in turns with the graphs that a plan makes of their shapes. Everything is measured anew; a
condition is kept as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from homoexport.choices import OTHER_RUNTIMES, OUTPUT_NAMES, Objective, Runtime
from homoexport.documents.package import parts_of
from homoexport.documents.plan import shape_of
from homoexport.documents.recipe import DistillSettings, ExportSettings, MeasureSettings, load_recipe
from homoexport.encoder import family_of, load_encoder, save_encoder, start_from_scratch
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import read_package
from homoexport.shape import Shape
from homoexport.stages.measure import time_files
from homoexport.stages.plan.lab import Lab
from homoexport.stages.plan.shapes import candidates
from homoexport.stages.plan.table import shapes_to_measure
from homoexport.workflow.export import export_model
from homoexport.workflow.plan import instruments_for

RESULTS = Path(__file__).parent / "results"
RECIPE = Path(__file__).parents[1] / "recipes/budget.yaml"
PRECISIONS = {"fp32": "none", "int8": "int8"}
LENGTHS = (32, 128, 256)
DEPTHS = (2, 4, 6)
GROUP = 8
OBJECTIVE: Objective = "sentence-embedding"
SECONDS = 3.0  # of a package and of the plan's file of its shape


def drawn(shapes: list[Shape], count: int, seed: int) -> list[Shape]:
    """Shapes that no table measures; every third is of a hidden size between two of the table."""
    chance = random.Random(seed)
    pool = [
        shape for shape in shapes if shape.num_hidden_layers in DEPTHS and shape not in set(shapes_to_measure(shapes))
    ]
    found: dict[Shape, None] = {}
    while len(found) < count:
        shape = chance.choice(pool)
        if len(found) % 3 == 0 and shape.head_dim % 8 == 0 and shape.num_attention_heads > 2:
            head_dim = shape.head_dim - 4  # as 12 x 20 of 240
            shape = replace(shape, hidden_size=shape.num_attention_heads * head_dim)
        if shape.hidden_size >= min(each.hidden_size for each in pool):
            found[shape] = None
    return list(found)


def condition(
    encoder: Any, shapes: list[Shape], chosen: list[Shape], precision: str, length: int, runtime: Runtime
) -> dict[str, Any]:
    """Predictions and measurements under one condition."""
    began = time.perf_counter()
    settings = MeasureSettings(threads=1, length=length)
    export = ExportSettings(quantize=PRECISIONS[precision], runtime=runtime)  # type: ignore[arg-type]
    instruments = instruments_for(encoder, settings, export, OBJECTIVE)
    with Lab(encoder, shapes, settings, instruments, fresh=True).open() as lab:
        table, _ = lab.table()
        table_seconds = time.perf_counter() - began
        measured = {}
        for start in range(0, len(chosen), GROUP):
            measured |= lab.whole(chosen[start : start + GROUP], table)
    rows = [
        {
            "shape": shape.as_json(),
            "predicted": table.predict(shape).figures,
            "measured": measured[shape].figures,
            "error": table.predict(shape).latency_p50_ms / measured[shape].latency_p50_ms - 1,
        }
        for shape in chosen
    ]
    return {
        "precision": precision,
        "length": length,
        "models_of_the_table": len(table.measured),
        "table_seconds": round(table_seconds, 1),
        "form": lab.form,
        "drift": table.figures.drift,
        "rows": rows,
    }


def exported(encoder: Any, shapes: list[Shape], chosen: list[Shape], runtime: Runtime) -> list[dict[str, Any]]:
    """Packages of some shapes, exported from random weights as students are, beside the plan's files of them."""
    found, measure = [], MeasureSettings(threads=1)
    with tempfile.TemporaryDirectory() as work:
        for precision, quantize in PRECISIONS.items():
            settings = ExportSettings(quantize=quantize, runtime=runtime)  # type: ignore[arg-type]
            instruments = instruments_for(encoder, measure, settings, OBJECTIVE)
            with Lab(encoder, shapes, measure, instruments).open() as lab:
                for number, shape in enumerate(chosen):
                    student = Path(work) / f"{number}-{precision}"
                    student.mkdir()
                    model = start_from_scratch(encoder.model, family_of(encoder.model.config), shape)
                    for parameter in model.parameters():  # as in a trained one, no two are equal
                        parameter.data.add_(1e-3 * torch.rand_like(parameter))
                    save_encoder(encoder, model, student)
                    package = student / "package"
                    export_model(str(student), package, settings=settings, measure=measure)
                    planned = lab._write(student / "plan.onnx", shape)
                    shipped = read_package(package, runtime)
                    ours, plans = time_files(
                        [shipped.file, planned],
                        threads=1,
                        min_seconds=SECONDS,
                        vocab_size=encoder.model.config.vocab_size,
                        outputs=(OUTPUT_NAMES[encoder.task][0],),
                    )
                    assert ours is not None
                    assert plans is not None
                    found.append(
                        {
                            "shape": shape.as_json(),
                            "precision": precision,
                            "p50_ratio": ours.latency_ms[50] / plans.latency_ms[50],
                            "file_ratio": shipped.file_bytes / sum(part.stat().st_size for part in parts_of(planned)),
                        }
                    )
    return found


def show(result: dict[str, Any]) -> str:
    """The errors, a line a condition, as a table in Markdown."""
    lines = [
        "| precision | tokens | shapes | p50, median | worst | p95, median | worst | memory, worst | file, worst |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cells = [(f"{cell['precision']} | {cell['length']}", cell["rows"]) for cell in result["cells"]]
    for name, rows in [*cells, ("all | ", [row for _, each in cells for row in each])]:
        p50, p95, memory, file = (
            [100 * abs(row["predicted"][figure] / row["measured"][figure] - 1) for row in rows]
            for figure in ("latency_p50_ms", "latency_p95_ms", "peak_rss_mb", "file_mb")
        )
        told = [f"{error:.1f} %" for error in (np.median(p50), max(p50), np.median(p95), max(p95), max(memory))]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(told)} | {max(file):.2f} % |")
    return "\n".join(lines)


def show_exports(rows: list[dict[str, Any]]) -> str:
    """A line a package, in Markdown."""
    lines = ["| package | precision | p50 over that of the plan's graph | file over it |", "|---|---|---:|---:|"]
    for row in rows:
        shape = shape_of(row["shape"])
        lines.append(f"| {shape.name} | {row['precision']} | {row['p50_ratio']:.3f} | {row['file_ratio']:.4f} |")
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Predicted against measured, every condition."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.5, 6), constrained_layout=True)
    colours = dict(zip(LENGTHS, ("#0072B2", "#D55E00", "#009E73"), strict=True))
    reach = [float("inf"), 0.0]
    for cell in result["cells"]:
        measured = [row["measured"]["latency_p50_ms"] for row in cell["rows"]]
        predicted = [row["predicted"]["latency_p50_ms"] for row in cell["rows"]]
        colour = colours[cell["length"]]
        axis.scatter(
            measured,
            predicted,
            marker="o" if cell["precision"] == "fp32" else "s",
            facecolors="none" if cell["precision"] == "fp32" else colour,
            edgecolors=colour,
            label=f"{cell['precision']}, {cell['length']} tokens",
        )
        reach = [min(reach[0], *measured, *predicted), max(reach[1], *measured, *predicted)]
    ends = np.array([reach[0] * 0.9, reach[1] * 1.1])
    axis.plot(ends, ends, color="#333333", linewidth=1)
    axis.fill_between(ends, ends * 0.9, ends * 1.1, color="#DDDDDD", zorder=0, label="within 10 %")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("measured p50 of the whole model, ms")
    axis.set_ylabel("predicted from the table, ms")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=20)
    parser.add_argument("--exports", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtime", choices=["onnxruntime", *OTHER_RUNTIMES], default="onnxruntime")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--output", type=Path, help="by default among the kept results")
    parser.add_argument("--plot", action="store_true", help="only print and draw what is kept")
    arguments = parser.parse_args()
    runtime: Runtime = arguments.runtime
    suffix = "" if runtime == "onnxruntime" else f"_{runtime}"
    output: Path = arguments.output or RESULTS / f"plan_prediction{suffix}.json"
    result: dict[str, Any] = json.loads(output.read_text()) if output.is_file() else {"cells": []}
    if not arguments.plot:
        encoder = load_encoder(load_recipe(RECIPE).teacher)
        shapes = candidates(encoder, DistillSettings(objective=OBJECTIVE, steps=1, batch_size=2))
        chosen = drawn(shapes, arguments.shapes, arguments.seed)
        result |= {"host": vars(describe_host()), "versions": library_versions()}
        for precision in PRECISIONS:
            for length in arguments.lengths:
                if any((cell["precision"], cell["length"]) == (precision, length) for cell in result["cells"]):
                    continue
                cell = condition(encoder, shapes, chosen, precision, length, runtime)
                result["cells"].append(cell)
                output.write_text(json.dumps(result, indent=1) + "\n")
                print(f"{precision}, {length} tokens: table in {cell['table_seconds']} s", flush=True)
        if "exported" not in result:
            result["exported"] = exported(encoder, shapes, chosen[: arguments.exports], runtime)
            output.write_text(json.dumps(result, indent=1) + "\n")
    print(show(result))
    print(show_exports(result.get("exported", [])))
    draw(result, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
