"""What words cost, and what width the same bytes buy: students of 8 and 6 MB, in four ways of keeping words.

    python bench/vocabulary.py GLUE_DIR PASSAGES.txt [--seeds 0 1 2] [--share 0/2]

All are distilled as the quickstart's student (its teacher, texts, steps and terms), exported in int8, and judged by
their files, each the widest that the way of keeping words leaves room for:

- int4: all words, in 4 bits;
- pq: all words by product quantization, in 2 bits;
- trimmed, int4 and trimmed, pq: the 12,000 pieces that the text needs most.

Judged by STS-B dev, by what is kept of the whole teacher's ten nearest neighbours (overlap@10) on held-out sentences,
and by that on 1,000 passages of another kind (`bench/docstrings.py` writes some). A result is kept as soon as it is
there.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ablation import read_passages, spread
from methods import RECIPE, keep

from homoexport.choices import EmbeddingChoice
from homoexport.documents.recipe import load_recipe
from homoexport.shape import PartialShape
from homoexport.workflow.distill import distill
from homoexport.workflow.evaluate import evaluate
from homoexport.workflow.export import export

RESULTS = Path(__file__).parent / "results/vocabulary.json"
FEWER = 12_000


@dataclass(frozen=True)
class Cell:
    """A student: the size that it is for in MB, its widths, and its words."""

    megabytes: int
    hidden_size: int
    intermediate_size: int
    embeddings: EmbeddingChoice
    vocab_size: int | None = None

    @property
    def name(self) -> str:
        words = "" if self.vocab_size is None else f"trimmed to {self.vocab_size:,}, "
        return f"{self.megabytes} MB: {words}{self.embeddings}, 6 x {self.hidden_size}/{self.intermediate_size}"


CELLS = (
    Cell(8, 256, 672, "int4"),
    Cell(8, 320, 656, "pq"),
    Cell(8, 352, 560, "int4", FEWER),
    Cell(8, 384, 576, "pq", FEWER),
    Cell(6, 192, 768, "int4"),
    Cell(6, 256, 640, "pq"),
    Cell(6, 288, 512, "int4", FEWER),
    Cell(6, 320, 480, "pq", FEWER),
)


def measure(cell: Cell, glue: Path, passages: list[str], *, seed: int, threads: int) -> dict[str, Any]:
    """One student's figures."""
    recipe = load_recipe(RECIPE, [f"distill.threads={threads}"])
    shape = PartialShape(
        hidden_size=cell.hidden_size,
        intermediate_size=cell.intermediate_size,
        num_attention_heads=cell.hidden_size // 32,
        vocab_size=cell.vocab_size,
    )
    with TemporaryDirectory() as folder:
        student, package, lines = (Path(folder, name) for name in ("student", "package", "passages.txt"))
        lines.write_text("\n".join(passages) + "\n", encoding="utf-8")
        began = time.perf_counter()
        made = distill(
            recipe.teacher, text=recipe.text, shape=shape, settings=recipe.distill, output=student, seed=seed
        ).details
        seconds = time.perf_counter() - began
        exported = export(student, output=package, quantize="int8", embeddings=cell.embeddings, graph="standard")
        file_bytes = exported.files[exported.details.model_file].bytes
        sts = evaluate([str(package)], task="stsb", data_dir=glue)
        kept = [
            evaluate([str(package)], task="fidelity", data=str(texts), teacher=recipe.teacher)
            for texts in (student / "held_out.txt", lines)
        ]
    held_out, others, stsb = (each.results[0].metrics[0].value for each in (*kept, sts))
    tokens = None if made.vocabulary is None else made.vocabulary.held_out
    return {
        "cell": cell.name,
        "seed": seed,
        "file_bytes": file_bytes,
        "stsb": round(stsb, 4),
        "held_out": round(held_out, 4),
        "passages": round(others, 4),
        "more_tokens": None if tokens is None else round(tokens.tokens_after / tokens.tokens_before - 1, 4),
        "distill_seconds": round(seconds, 1),
        "threads": threads,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Mean, lowest and highest of the seeds, in Markdown, a line for each student."""
    lines = ["| Student | File | STS-B dev | held-out | passages | seeds |", "|---|---:|---:|---:|---:|---:|"]
    for cell in CELLS:
        mine = [run for run in runs if run["cell"] == cell.name]
        if mine:
            told = " | ".join(spread([run[figure] for run in mine]) for figure in ("stsb", "held_out", "passages"))
            lines.append(f"| {cell.name} | {mine[0]['file_bytes'] / 1e6:.2f} MB | {told} | {len(mine)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", default="0/1", help="of the cells, to run several processes side by side: 0/2, 1/2")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    first, every = map(int, arguments.share.split("/"))
    passages = read_passages(arguments.passages)
    work = [(cell, seed) for seed in arguments.seeds for cell in CELLS]
    for cell, seed in work[first::every]:
        if any((run["cell"], run["seed"]) == (cell.name, seed) for run in keep(arguments.output, None)):
            continue
        result = measure(cell, arguments.glue, passages, seed=seed, threads=arguments.threads)
        keep(arguments.output, result)
        print(f"{cell.name}, seed {seed}: {result}", flush=True)
    print(table(keep(arguments.output, None)))


if __name__ == "__main__":
    main()
