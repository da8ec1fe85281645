"""Quality against latency and size: students of four widths by four methods, in fp32 and int8, beside reference models.

    python bench/study.py GLUE_DIR WORK_DIR [--reference NAME=MODEL ...]
    python bench/study.py GLUE_DIR WORK_DIR --parts distil export judge --share 0/2   # and 1/2 beside it
    python bench/study.py --plot

MiniLM-L6 (6 x 384) is distilled on the quickstart's texts to widths 128, 192, 256 and 320; `layers` keeps every other
layer at that width. Every package is judged on STS-B dev (Spearman's correlation of cosine similarities) and on SST-2
dev (accuracy of a linear probe on frozen vectors), and all are timed in turns in one run at 1 x 128 tokens and one
thread. Students, packages and figures are kept in WORK_DIR as soon as they are there and are not made again: an
interrupted study goes on where it was. The result is written when all have been measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

from homoexport.documents.artifact import MANIFEST
from homoexport.documents.recipe import ExportSettings, MeasureSettings, Recipe, load_recipe
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import read_package
from homoexport.stages.evaluate import evaluate_models, read_glue
from homoexport.workflow.distill import distill
from homoexport.workflow.export import export_model, held_out_texts
from homoexport.workflow.measure import measure_once

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
RESULT = Path(__file__).parent / "results/study.json"
WIDTHS = (128, 192, 256, 320)
METHODS = ("homodistil", "one-shot", "layers", "minilm")
PRECISIONS = ("fp32", "int8")
PARTS = ("distil", "export", "judge", "measure")
HEAD_WIDTH = 32  # the teacher's
TEACHER = "teacher"


@dataclass(frozen=True)
class Cell:
    """One model; reference models are not distilled here."""

    name: str
    method: str
    width: int | None
    source: str | None = None

    def folder(self, work: Path) -> Path:
        """Where the model's artifacts are."""
        return work / self.name


def cells_of(references: Sequence[str]) -> list[Cell]:
    """The students, the teacher, and the reference models that are named."""
    students = [Cell(f"{method}-{width}", method, width) for width in WIDTHS for method in METHODS]
    named = [(TEACHER, load_recipe(RECIPE).teacher), *(tuple(item.split("=", 1)) for item in references)]
    return students + [Cell(name, "reference", None, source) for name, source in named]


def recipe_of(cell: Cell, threads: int) -> Recipe:
    """The quickstart's recipe at the cell's width and method."""
    assert cell.width is not None
    settings = [
        f"student.hidden_size={cell.width}",
        f"student.intermediate_size={4 * cell.width}",
        f"student.num_attention_heads={cell.width // HEAD_WIDTH}",
        f"distill.method={cell.method}",
        "distill.repair=false",
        "distill.compare_in=student",
        "distill.weights.attention=0.1",
        f"distill.threads={threads}",
    ]
    return load_recipe(RECIPE, settings)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, with its seconds, made once."""
    if not path.is_file():
        began = time.perf_counter()
        value = make()
        path.write_text(json.dumps({"value": value, "seconds": round(time.perf_counter() - began, 1)}) + "\n")
        print(f"{path.parent.name}/{path.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return json.loads(path.read_text())["value"]


def distil(cell: Cell, work: Path, threads: int) -> None:
    """The cell's student."""
    recipe, out = recipe_of(cell, threads), cell.folder(work) / "student"
    assert recipe.student is not None
    text, settings = recipe.text, recipe.distill
    distill(recipe.teacher, text=text, shape=recipe.student, settings=settings, output=out, resume=out.exists())


def export(cell: Cell, precision: str, work: Path, threads: int) -> None:
    """The cell's package; the teacher's and the reference models' are made as the students'."""
    student, out = cell.folder(work) / "student", cell.folder(work) / precision
    export_model(
        cell.source or str(student),
        out,
        settings=ExportSettings(quantize="none" if precision == "fp32" else "int8"),
        measure=MeasureSettings(threads=threads),
        task="sentence-similarity",
        texts=held_out_texts(student),
        force=(out / MANIFEST).is_file(),
    )


def judge(cell: Cell, precision: str, work: Path, glue: Path, threads: int) -> dict[str, Any]:
    """STS-B and the SST-2 probe, of the cell's package."""
    package = [str(cell.folder(work) / precision)]
    (sts,) = evaluate_models(package, read_glue("stsb", data_dir=glue), task="sts", threads=threads)
    (probe,) = evaluate_models(
        package,
        read_glue("sst2", data_dir=glue),
        task="classification",
        train=read_glue("sst2", data_dir=glue, split="train"),
        metrics=["accuracy"],
        threads=threads,
    )
    return {name: one.metrics[0].model_dump(mode="json") for name, one in (("stsb", sts), ("sst2_probe", probe))}


def make_all(cells: Sequence[Cell], work: Path, glue: Path, threads: int, parts: Collection[str]) -> None:
    """What is not there yet, part by part."""
    both = [(cell, precision) for cell in cells for precision in PRECISIONS]
    for cell in cells:
        cell.folder(work).mkdir(parents=True, exist_ok=True)
        if "distil" in parts and cell.width is not None:
            kept(cell.folder(work) / "distilled.json", partial(distil, cell, work, threads))
    for cell, precision in both if "export" in parts else ():
        kept(cell.folder(work) / f"exported-{precision}.json", partial(export, cell, precision, work, threads))
    for cell, precision in both if "judge" in parts else ():
        kept(cell.folder(work) / f"judged-{precision}.json", partial(judge, cell, precision, work, glue, threads))


def measure_all(cells: Sequence[Cell], work: Path) -> dict[str, Any]:
    """All packages, timed in turns in one run; the study's result."""
    packages = [cell.folder(work) / precision for cell in cells for precision in PRECISIONS]
    began = time.perf_counter()
    measurement = measure_once(packages, MeasureSettings(threads=1))
    seconds = {"measure": round(time.perf_counter() - began, 1)}
    figures = {result.package: result for result in measurement.results}
    rows = []
    for cell in cells:
        for precision in PRECISIONS:
            folder = cell.folder(work) / precision
            details, timed = read_package(folder), figures[str(folder)]
            rows.append(
                {
                    "model": cell.name,
                    "method": cell.method,
                    "width": cell.width,
                    "precision": precision,
                    "parameters": details.parameters,
                    "file_mb": details.file_bytes / 1e6,
                    "latency_p50_ms": timed.latency_p50_ms,
                    "latency_p95_ms": timed.latency_p95_ms,
                    "latency_p95_interval_ms": list(timed.latency_p95_interval_ms),
                    **json.loads((cell.folder(work) / f"judged-{precision}.json").read_text())["value"],
                }
            )
    for part, pattern in (("distil", "distilled"), ("export", "exported-*"), ("judge", "judged-*")):
        seconds[part] = round(
            sum(json.loads(path.read_text())["seconds"] for path in work.glob(f"*/{pattern}.json")), 1
        )
    return {
        "steps": load_recipe(RECIPE).distill.steps,
        "workload": {"batch_size": 1, "length": 128, "threads": 1},
        "rows": rows,
        "seconds": seconds,
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def front(rows: Sequence[dict[str, Any]], cost: str, quality: str) -> list[dict[str, Any]]:
    """The rows that no other is better than in one and as good as in the other; the cheapest first (Pareto)."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row[quality]["value"])):
        if not best or row[quality]["value"] > best[-1][quality]["value"]:
            best.append(row)
    return best


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Both qualities against p95 latency and against size; a method that is far below all others is told, not drawn."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = dict(zip((*METHODS, "reference"), ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333"), strict=True))
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9), constrained_layout=True)
    titles = {"stsb": "STS-B dev, Spearman", "sst2_probe": "SST-2 dev, accuracy of a probe"}
    costs = {"latency_p95_ms": "p95 latency, ms (1 x 128 tokens, one thread)", "file_mb": "file, MB"}
    left_out = "minilm"
    shown = [row for row in rows if row["method"] != left_out]
    for line, (quality, title) in enumerate(titles.items()):
        below = [row[quality]["value"] for row in rows if row["method"] == left_out]
        note = f"not drawn: {left_out}, {min(below):.2f} to {max(below):.2f}"
        for column, (cost, label) in enumerate(costs.items()):
            axis = axes[line, column]
            for method, colour in colours.items():
                if method == left_out:
                    continue
                for precision, marker in zip(PRECISIONS, ("o", "s"), strict=True):
                    mine = [row for row in shown if row["method"] == method and row["precision"] == precision]
                    axis.scatter(
                        [row[cost] for row in mine],
                        [row[quality]["value"] for row in mine],
                        color=colour,
                        marker=marker,
                        facecolors=colour if precision == "int8" else "none",
                        label=f"{method}, {precision}",
                    )
            best = front(shown, cost, quality)
            axis.step(
                [row[cost] for row in best],
                [row[quality]["value"] for row in best],
                where="post",
                color="#999999",
                linewidth=1,
                zorder=0,
                label="Pareto front",
            )
            for row in shown:
                if row["method"] == "reference":
                    place = (row[cost], row[quality]["value"])
                    axis.annotate(
                        row["model"], place, xytext=(-4, -10), textcoords="offset points", fontsize=7, ha="right"
                    )
            axis.text(0.98, 0.02, note, transform=axis.transAxes, ha="right", fontsize=7)
            axis.set_xscale("log")
            axis.set_xticks([3, 5, 10, 20, 40, 80])
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel(label)
            axis.set_ylabel(title)
    axes[0, 0].legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.05))
    figure.savefig(path, dpi=110)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a package, the fastest first, in Markdown; what is on a front of quality against cost is set in bold."""
    fronts = {
        (cost, quality): {id(row) for row in front(rows, cost, quality)}
        for cost in ("latency_p95_ms", "file_mb")
        for quality in ("stsb", "sst2_probe")
    }

    def told(row: dict[str, Any], quality: str, cost: str) -> str:
        value = f"{row[quality]['value']:.3f}"
        return f"**{value}**" if id(row) in fronts[cost, quality] else value

    lines = [
        "| model | precision | p95 | file | STS-B by p95 | STS-B by size | SST-2 probe by p95 | SST-2 probe by size |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: float(row["latency_p95_ms"])):
        cells = [row["model"], row["precision"], f"{row['latency_p95_ms']:.2f} ms", f"{row['file_mb']:.1f} MB"]
        for quality in ("stsb", "sst2_probe"):
            cells += [told(row, quality, cost) for cost in ("latency_p95_ms", "file_mb")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--share", default="0/1", help="this process's part of the models, as in 0/2; not for measure")
    parser.add_argument("--threads", type=int, default=1, help="of distilling, exporting and judging")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--plot", action="store_true", help="only print and draw what is kept")
    arguments = parser.parse_args()
    if not arguments.plot:
        if arguments.glue is None or arguments.work is None:
            parser.error("name GLUE_DIR and WORK_DIR, or give --plot")
        cells, work = cells_of(arguments.reference), arguments.work
        index, of = map(int, arguments.share.split("/"))
        if of > 1 and "measure" in arguments.parts:
            parser.error("all models are measured by one process: give --share with other --parts")
        make_all(cells[index::of], work, arguments.glue, arguments.threads, arguments.parts)
        if "measure" not in arguments.parts:
            return
        arguments.output.write_text(json.dumps(measure_all(cells, work), indent=1) + "\n")
    result = json.loads(arguments.output.read_text())
    print(table(result["rows"]))
    draw(result["rows"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
