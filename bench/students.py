"""What four students cost out of one run, against four runs of their own.

    python bench/students.py [--steps 60] [--threads N] [--output bench/results/students.json]

MiniLM-L6 to HomoBERT's proportions of its width, with the quickstart's text and settings; whole
calls are timed, from loading to the saved folder, one after the other in one process. The held-out
losses show what the shared way costs in quality: a branch has fewer steps of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from homoexport.documents.artifact import DistilledManifest, read_manifest
from homoexport.documents.recipe import StudentShape, load_recipe
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.workflow.distill import distill, distill_students

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
# 576, 256, 240 and 224 of 768, as shares of 384
SHAPES = tuple(
    StudentShape(name=name, hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=heads)
    for name, hidden, heads in (("base", 288, 12), ("small", 128, 4), ("xsmall", 120, 6), ("tiny", 112, 4))
)


def measure(steps: int, threads: int) -> dict[str, Any]:
    """Seconds and held-out losses of both ways."""
    # Real runs have thousands of steps: what is held out must not weigh more here than there.
    settings = [f"distill.steps={steps}", f"distill.threads={threads}", "text.held_out=100"]
    settings += ["distill.method=homodistil", "distill.repair=false", "distill.weights.attention=0.1"]
    recipe = load_recipe(RECIPE, settings)
    common: dict[str, Any] = {"text": recipe.text, "settings": recipe.distill, "seed": recipe.seed}
    students: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        distill(
            recipe.teacher,
            shape=SHAPES[-1],
            output=root / "warm-up",
            text=recipe.text,
            seed=recipe.seed,
            settings=recipe.distill.model_copy(update={"steps": 2}),
        )  # tokenizes the text, which later calls find in the cache
        for shape in SHAPES:
            began = time.perf_counter()
            distill(recipe.teacher, shape=shape, output=root / str(shape.name), **common)
            seconds = time.perf_counter() - began
            loss = read_manifest(root / str(shape.name), DistilledManifest).details.held_out_loss
            students[str(shape.name)] = {"alone_seconds": seconds, "alone_held_out_loss": loss}
            print(f"{shape.name} alone: {seconds:.1f} s, held-out loss {loss:.5f}", flush=True)
        began = time.perf_counter()
        folders = distill_students(recipe.teacher, shapes=SHAPES, output=root / "all", **common)
        together = time.perf_counter() - began
        for path in folders:
            details = read_manifest(path, DistilledManifest).details
            students[path.name] |= {
                "branch_held_out_loss": details.held_out_loss,
                "parameters": details.parameters,
            }
            print(f"{path.name} as a branch: held-out loss {details.held_out_loss:.5f}")
    alone = sum(student["alone_seconds"] for student in students.values())
    return {
        "steps": steps,
        "threads": threads,
        "together_seconds": together,
        "alone_seconds": alone,
        "ratio": together / alone,
        "students": students,
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/students.json")
    arguments = parser.parse_args()
    result = measure(arguments.steps, arguments.threads)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"together {result['together_seconds']:.0f} s, alone {result['alone_seconds']:.0f} s: {result['ratio']:.3f}")


if __name__ == "__main__":
    main()
