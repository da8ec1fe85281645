"""What to ship where the teacher is too large: its int8 forms, off-the-shelf models, static word vectors, students.

    python bench/front.py GLUE_DIR DOCSTRINGS_DIR WORK_DIR [--reference NAME=MODEL ...] [--student NAME=PACKAGE ...]
        [--static NAME=WEIGHTS.safetensors,TOKENIZER.json[,WIDTH ...] ...]
    python bench/front.py --plot

All are packages: the teacher MiniLM-L6 and the reference models as `export` makes them, in int8 and with 4-bit words;
static models of the teacher and of others as `static_vectors.py` makes them, the latter as they are and, where WIDTHs
are given, in int8 and cut to these; students as they are. Each is judged by STS-B dev, by how it finds a docstring by
its function's name (the pairs of `docstrings.py`), and, if it is made of the teacher, by the share of that one's ten
nearest neighbours that it keeps on 1,000 passages. All are timed in turns on one thread, at 32 and at 128 tokens;
tokenizing, which costs each about the same, is timed beside it.

Packages and figures are kept in WORK_DIR and are not made again; the times are taken anew, of all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from ablation import read_passages
from numpy.typing import NDArray
from static_vectors import distil_static, read_static, write_static
from study import RECIPE, front, kept

from homoexport.documents.artifact import MANIFEST
from homoexport.documents.evaluation import Columns
from homoexport.documents.recipe import ExportSettings, MeasureSettings, load_recipe
from homoexport.encoder import load_encoder
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import Package, open_package
from homoexport.stages.evaluate import Quality, columns_of_task, read_examples, read_glue, sts_qualities
from homoexport.stages.evaluate.retrieval import retrieval_qualities
from homoexport.stages.evaluate.search import Search
from homoexport.workflow.export import export_model
from homoexport.workflow.measure import measure

RESULT = Path(__file__).parent / "results/front.json"
LENGTHS = (32, 128)
COSTS = {"file_mb": "file, MB", "latency_p50_128_ms": "p50 latency, ms (1 x 128 tokens, one thread)"}
QUALITIES = {"stsb": "STS-B dev", "search": "search, nDCG@10", "kept": "kept of the teacher's ten nearest"}
NAMED = 0.05  # of a front's range: what is better by less than that has no name in the plot
COLOURS = {"teacher": "#333333", "off the shelf": "#CC79A7", "static": "#009E73", "student": "#D55E00"}
FORMS = {  # of the teacher and of reference models
    "fp32": ExportSettings(quantize="none"),
    "int8": ExportSettings(quantize="int8"),
    "int8, 4-bit words": ExportSettings(quantize="int8", embeddings="int4"),
}
STATIC = ((256, "float32"), (256, "float16"), (256, "int8"), (128, "int8"), (64, "int8"))  # of the teacher


@dataclass(frozen=True)
class Cell:
    """A package; `kind` is one of COLOURS."""

    name: str
    kind: str
    folder: Path
    of_teacher: bool


def make_teacher(work: Path) -> list[Cell]:
    """The teacher's packages, and those of its static models."""
    source = load_recipe(RECIPE).teacher
    cells = [exported("teacher", source, form, "teacher", work) for form in FORMS]
    missing = [work / f"static-{width}-{kind}" for width, kind in STATIC]
    if any(not (folder / MANIFEST).is_file() for folder in missing):
        began = time.perf_counter()
        whole = distil_static(load_encoder(source), max(width for width, _ in STATIC))
        print(f"a static model of the teacher: {time.perf_counter() - began:.0f} s", flush=True)
        for (width, kind), folder in zip(STATIC, missing, strict=True):
            write_static(whole.cut(width).rounded(kind), folder)
    names = (f"static model of the teacher, {width} wide" for width, _ in STATIC)
    return cells + [Cell(name, "static", folder, True) for name, folder in zip(names, missing, strict=True)]


def exported(name: str, source: str, form: str, kind: str, work: Path) -> Cell:
    """A model's package in a form."""
    folder = work / f"{name}-{form.replace(', ', '-').replace(' ', '-')}"
    if not (folder / MANIFEST).is_file():
        settings, threads = FORMS[form], MeasureSettings(threads=1)
        export_model(source, folder, settings=settings, measure=threads, task="sentence-similarity", force=True)
    return Cell(name, kind, folder, kind == "teacher")


def make_others(arguments: argparse.Namespace) -> list[Cell]:
    """The packages of what is named."""
    cells = []
    for name, source in (item.split("=", 1) for item in arguments.reference):
        cells += [exported(name, source, form, "off the shelf", arguments.work) for form in list(FORMS)[1:]]
    for name, source in (item.split("=", 1) for item in arguments.static):
        weights, tokenizer, *widths = source.split(",")
        whole = read_static(Path(weights), Path(tokenizer))
        models = {name: whole} | {f"{name}, {width} wide": whole.cut(int(width)).rounded("int8") for width in widths}
        for its_name, model in models.items():
            folder = arguments.work / its_name.replace(", ", "-").replace(" ", "-")
            if not (folder / MANIFEST).is_file():
                write_static(model, folder)
            cells.append(Cell(its_name, "static", folder, False))
    students = (item.split("=", 1) for item in arguments.student)
    return cells + [Cell(name, "student", Path(folder), True) for name, folder in students]


def vectors_of(package: Package, passages: Sequence[str], file: Path) -> NDArray[np.float32]:
    """A package's vectors of passages, kept in a file."""
    if not file.is_file():
        np.save(file, package.embed(passages))
    vectors: NDArray[np.float32] = np.load(file)
    return vectors


def judge(cell: Cell, teacher: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The qualities of a package, and the median time of tokenizing a passage."""
    package, passages = open_package(cell.folder), read_passages(arguments.docstrings / "passages.txt")
    stsb = read_glue("stsb", data_dir=arguments.glue)
    pairs = [text for text in stsb.texts if not isinstance(text, str)]
    searched = read_examples(str(arguments.docstrings / "pairs.jsonl"), columns_of_task("search", Columns()))
    found = {
        "stsb": sts_qualities(package, pairs, stsb.scores())[0],
        "search": Search(searched).qualities(package, seed=0)[0],
    }
    if cell.of_teacher and cell.folder != teacher:
        reference = vectors_of(open_package(teacher), passages, arguments.work / "teacher.npy")
        found["kept"] = retrieval_qualities(reference, package.embed(passages), seed=0)[0]
    seconds = []
    for text in passages[::5]:
        began = time.perf_counter()
        package.tokenize([text])
        seconds.append(time.perf_counter() - began)
    return {**{name: told(one) for name, one in found.items()}, "tokenize_p50_ms": round(1e3 * median(seconds), 4)}


def told(quality: Quality) -> dict[str, Any]:
    """A figure as JSON."""
    return quality.figure.model_dump(mode="json")


def measure_all(cells: Sequence[Cell], work: Path) -> dict[str, Any]:
    """All packages, timed in turns; the result."""
    began = time.perf_counter()
    grid = measure([cell.folder for cell in cells], threads=1, length=LENGTHS, min_seconds=1.0)
    rows = []
    for cell in cells:
        details = open_package(cell.folder).details
        words = (
            ", 4-bit words"
            if "4-bit" in json.loads((cell.folder / MANIFEST).read_text())["details"]["embeddings"]
            else ""
        )
        timed = {one.length: next(r for r in one.results if r.package == str(cell.folder)) for one in grid.cells}
        rows.append(
            {
                "model": cell.name,
                "kind": cell.kind,
                "precision": details.precision + words,
                "parameters": details.parameters,
                "file_mb": details.file_bytes / 1e6,
                **{f"latency_p50_{length}_ms": figures.latency_p50_ms for length, figures in timed.items()},
                **{f"latency_p95_{length}_ms": figures.latency_p95_ms for length, figures in timed.items()},
                **json.loads((work / judged_as(cell)).read_text())["value"],
            }
        )
    return {
        "workload": {"batch_size": 1, "lengths": LENGTHS, "threads": 1},
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 1),
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def judged_as(cell: Cell) -> str:
    """Where a package's qualities are kept."""
    return f"judged-{cell.kind}-{cell.folder.name}.json"


def best_of(rows: Sequence[dict[str, Any]], cost: str, quality: str) -> list[dict[str, Any]]:
    """The rows that have a quality and are on the front of it; the cheapest first."""
    return front([row for row in rows if quality in row], cost, quality)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a package, the smallest first, in Markdown; what no smaller file is as good as is set in bold."""
    best = {quality: {id(row) for row in best_of(rows, "file_mb", quality)} for quality in QUALITIES}

    def quality_of(row: dict[str, Any], quality: str) -> str:
        if quality not in row:
            return ""
        value, (low, high) = row[quality]["value"], row[quality]["interval"]
        number = f"{value:.3f}"
        return f"{f'**{number}**' if id(row) in best[quality] else number} ({low:.3f} to {high:.3f})"

    titles = " | ".join(QUALITIES.values())
    lines = [
        f"| model | precision | file | p50 / p95 at 32, ms | at 128, ms | {titles} |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: float(row["file_mb"])):
        times = [
            " / ".join(f"{row[f'latency_{percentile}_{length}_ms']:.3g}" for percentile in ("p50", "p95"))
            for length in LENGTHS
        ]
        costs = [row["model"], row["precision"], f"{row['file_mb']:.1f} MB", *times]
        lines.append(f"| {' | '.join([*costs, *(quality_of(row, quality) for quality in QUALITIES)])} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Each quality against size and against the median latency; what is on the front has its name."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = pyplot.subplots(2, len(QUALITIES), figsize=(16, 9), constrained_layout=True)
    for line, (cost, label) in zip(axes, COSTS.items(), strict=True):
        for axis, (quality, title) in zip(line, QUALITIES.items(), strict=True):
            for row in (row for row in rows if quality in row):
                axis.scatter(row[cost], row[quality]["value"], color=COLOURS[row["kind"]])
            best = best_of(rows, cost, quality)
            places = [(row[cost], row[quality]["value"]) for row in best]
            axis.step(*zip(*places, strict=True), where="post", color="#999999", linewidth=1, zorder=0)
            least = 0.0
            for row, (x, y) in zip(best, places, strict=True):
                if y < least:  # too near to the one before for a name of its own
                    continue
                name = f"{row['model'].replace('static model of the teacher', 'static')}, {row['precision']}"
                side = "left" if x < 5 else "right"
                offset = (5, -9) if side == "left" else (-5, 4)
                axis.annotate(name, (x, y), xytext=offset, textcoords="offset points", fontsize=7, ha=side)
                least = y + NAMED * (places[-1][1] - places[0][1])
            axis.set_xscale("log")
            axis.margins(x=0.2)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel(label)
            axis.set_ylabel(title)
    for kind, colour in COLOURS.items():
        axes[0, 0].scatter([], [], color=colour, label=kind)
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Make what is missing, judge, time, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("glue", "docstrings", "work"):
        parser.add_argument(name, type=Path, nargs="?")
    parser.add_argument("--reference", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--static", action="append", default=[], metavar="NAME=WEIGHTS,TOKENIZER[,WIDTH ...]")
    parser.add_argument("--student", action="append", default=[], metavar="NAME=PACKAGE")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--plot", action="store_true", help="only print and draw what is kept")
    arguments = parser.parse_args()
    if not arguments.plot:
        if arguments.work is None:
            parser.error("name GLUE_DIR, DOCSTRINGS_DIR and WORK_DIR, or give --plot")
        arguments.work.mkdir(parents=True, exist_ok=True)
        cells = [*make_teacher(arguments.work), *make_others(arguments)]
        for cell in cells:
            kept(arguments.work / judged_as(cell), partial(judge, cell, cells[0].folder, arguments))
        arguments.output.write_text(json.dumps(measure_all(cells, arguments.work), indent=1) + "\n")
    result = json.loads(arguments.output.read_text())
    print(table(result["rows"]))
    draw(result["rows"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
