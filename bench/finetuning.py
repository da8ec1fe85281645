"""GLUE, fine-tuned: teacher and 6 x 192 student on SST-2 and CoLA, three seeds; and int8 in the loop against without.

    python bench/finetuning.py GLUE_DIR WORK_DIR --student STUDENT_DIR [--share 0/2]
    python bench/finetuning.py --table

SST-2 is time-boxed: 12,000 of its 67,349 examples, drawn by the seed. Each fine-tuned model is exported in fp32 and in
int8, and its packages are judged on the dev set, beside scikit-learn's figures of the same predictions. The student is
trained on SST-2 once more with int8 simulated in the last 30 % of the steps. Models and results are kept as soon as
they are there, each with its settings and where it was made, and are not made again; those of other settings are
refused. Several processes may share the work.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, matthews_corrcoef

from homoexport.documents.artifact import MANIFEST, FinetunedManifest, read_manifest
from homoexport.documents.recipe import ExportSettings, FinetuneSettings, MeasureSettings, load_recipe
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import evaluate_models, glue_task, label_indices, read_glue
from homoexport.workflow.export import export_model, held_out_texts
from homoexport.workflow.finetune import finetune_model

RESULT = Path(__file__).parent / "results/finetuning.json"
RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
SEEDS = (0, 1, 2)
SETTINGS = {
    "sst2": FinetuneSettings(epochs=3, learning_rate=1e-4, max_examples=12_000, max_length=64, threads=1),
    "cola": FinetuneSettings(epochs=5, learning_rate=1e-4, max_length=64, threads=1),
}
OFFICIAL = {"sst2": accuracy_score, "cola": matthews_corrcoef}
INT8_SHARE = 0.3


@dataclass(frozen=True)
class Cell:
    """One fine-tuning."""

    model: str
    task: str
    seed: int
    int8_share: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.model}-{self.task}{'-int8' * bool(self.int8_share)}-{self.seed}"

    @property
    def settings(self) -> FinetuneSettings:
        """How it is trained."""
        return SETTINGS[self.task].model_copy(update={"int8_share": self.int8_share})

    def check(self, settings: dict[str, Any], where: Path) -> None:
        """Refuse what was made with other settings."""
        if settings != self.settings.model_dump(mode="json"):
            raise SystemExit(f"{where}: {self.name} was made with other settings; remove it, or name another place")


CELLS = [
    *(Cell("student", "sst2", seed, share) for seed in SEEDS for share in (0.0, INT8_SHARE)),
    *(Cell("teacher", "sst2", seed) for seed in SEEDS),
    *(Cell(model, "cola", seed) for seed in SEEDS for model in ("student", "teacher")),
]


def measure(cell: Cell, source: str, glue: Path, work: Path) -> dict[str, Any]:
    """Fine-tune, export in both precisions, judge."""
    began, folder, task = time.perf_counter(), work / cell.name, glue_task(cell.task, glue)
    if not (folder / MANIFEST).is_file():
        finetune_model(source, task, folder, settings=cell.settings, seed=cell.seed)
    details = read_manifest(folder, FinetunedManifest).details.model_dump(mode="json")
    cell.check(details["finetune"], folder)
    tuned = details["finetuned"]
    judged = read_glue(cell.task, data_dir=glue)
    assert judged.labels is not None
    right = label_indices(judged.labels, task.names, where=judged.source, order=judged.names)
    figures: dict[str, Any] = {"torch": tuned["judged"][cell.task][0]["value"]}
    for precision, quantize in (("fp32", "none"), ("int8", "int8")):
        package = folder.with_name(f"{cell.name}-{precision}")
        export_model(
            str(folder),
            package,
            settings=ExportSettings(quantize=quantize),
            measure=MeasureSettings(threads=1, length=64),
            texts=held_out_texts(folder),
            force=package.exists(),
        )
        (found,) = evaluate_models([str(package)], judged, task="classification", metrics=task.metrics)
        (metric,) = found.metrics
        logits = np.stack(open_package(package, threads=1).logits(judged.texts))
        official = float(OFFICIAL[cell.task](right, logits.argmax(axis=1)))
        figures[precision] = {"value": metric.value, "interval": metric.interval, "official": official}
    return {
        "model": cell.model,
        "task": cell.task,
        "seed": cell.seed,
        "int8_share": cell.int8_share,
        "metric": task.metrics[0] if task.metrics else "",
        "examples": tuned["examples"],
        "of_examples": tuned["of_examples"],
        **figures,
        "seconds": round(time.perf_counter() - began, 1),
        "settings": cell.settings.model_dump(mode="json"),
        "trained_on": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def keep(path: Path, result: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Add a result to what is kept and return all; several processes may work on one file."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = json.loads(path.read_text()) if path.is_file() else {"runs": []}
        if result is not None:
            kept["runs"].append(result)
            kept["runs"].sort(key=lambda run: (run["task"], run["model"], run["int8_share"], run["seed"]))
            path.write_text(json.dumps(kept, indent=1) + "\n")
        runs: list[dict[str, Any]] = kept["runs"]
        return runs


def is_kept(cell: Cell, runs: list[dict[str, Any]], path: Path) -> bool:
    """Whether a fine-tuning is among those that are kept, of the same settings."""
    key = (cell.model, cell.task, cell.seed, cell.int8_share)
    found = [run for run in runs if (run["model"], run["task"], run["seed"], run["int8_share"]) == key]
    for run in found:
        cell.check(run["settings"], path)
    return bool(found)


def rows_of(runs: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Median of the seeds, lowest and highest, for each kind of run: task, model, int8 in the loop, fp32, int8."""
    rows = []
    for kind in dict.fromkeys((run["task"], run["model"], run["int8_share"]) for run in runs):
        mine = [run for run in runs if (run["task"], run["model"], run["int8_share"]) == kind]
        told = []
        for precision in ("fp32", "int8"):
            values = [run[precision]["value"] for run in mine]
            told.append(f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        rows.append((f"{kind[0]}, {mine[0]['metric']}", kind[1], f"last {kind[2]:.0%}" if kind[2] else "no", *told))
    return rows


def table(runs: list[dict[str, Any]]) -> str:
    """A line for each kind of run, in Markdown."""
    lines = ["| Task, metric | Model | int8 in the loop | fp32 package | int8 package |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows_of(runs))])


def show(runs: list[dict[str, Any]]) -> None:
    """A line for each kind of run."""
    for row in (("task", "model", "int8 in loop", "fp32", "int8"), *rows_of(runs)):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, (16, 8, 13, 24, 24), strict=True)))


def main() -> None:
    """Run what is missing, keep it, print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--student", type=Path, help="the quickstart's student")
    parser.add_argument("--share", default="0/1", help="this process's part of the runs, as in 0/2")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    arguments = parser.parse_args()
    if not arguments.table:
        if None in (arguments.glue, arguments.work, arguments.student):
            parser.error("name GLUE_DIR, WORK_DIR and --student, or give --table")
        arguments.work.mkdir(parents=True, exist_ok=True)
        sources = {"teacher": load_recipe(RECIPE).teacher, "student": str(arguments.student)}
        index, of = map(int, arguments.share.split("/"))
        for cell in CELLS[index::of]:
            if is_kept(cell, keep(arguments.output, None), arguments.output):
                continue
            result = measure(cell, sources[cell.model], arguments.glue, arguments.work)
            keep(arguments.output, result)
            print(f"{cell.name}: {result['int8']['value']:.4f} in {result['seconds']:.0f} s", flush=True)
    show(keep(arguments.output, None))


if __name__ == "__main__":
    main()
