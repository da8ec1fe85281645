"""Is what a shape keeps of the teacher's sensitivity in the order of its students' quality?

    python bench/ranking.py [--output bench/results/ranking.json]

Two sets of students that are distilled alike, each with its STS-B dev score: eight of bench/study.py (6 and 3 layers,
at four widths; fp32, one seed), and those of bench/planned_shapes.py (int8, means of the seeds). For each shape the
plan's share of summed squared sensitivity, and for comparison the share of summed absolute sensitivity, the parameters,
and layers times hidden size; and, set by set, Kendall's rank correlation of each with the scores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from scipy.stats import kendalltau

from homoexport.documents.plan import shape_of
from homoexport.documents.recipe import Recipe, load_recipe
from homoexport.encoder import Encoder, family_of, load_encoder, parameters_at
from homoexport.shape import Shape
from homoexport.stages.plan.retention import teacher_retention
from homoexport.text.peek import first_texts
from homoexport.workflow.plan import CALIBRATION_TEXTS, probe_of

RESULTS = Path(__file__).parent / "results"
RECIPE = Path(__file__).parents[1] / "recipes/budget.yaml"
HEAD_WIDTH = 32  # the teacher's
TEXTS = 32  # as many as a plan takes
DEPTHS = {"homodistil": 6, "layers": 3}  # of the study's methods
CURRENCIES = {"squares": torch.Tensor.square_, "absolute": torch.Tensor.abs_}  # of what a weight is worth


def study() -> dict[Shape, float]:
    """Scores of the study's students of two depths."""
    rows = json.loads((RESULTS / "study.json").read_text())["rows"]
    return {
        Shape(DEPTHS[row["method"]], row["width"], 4 * row["width"], row["width"] // HEAD_WIDTH): row["stsb"]["value"]
        for row in rows
        if row["method"] in DEPTHS and row["precision"] == "fp32"
    }


def planned() -> dict[Shape, float]:
    """Scores of the planned and the guessed shapes."""
    students = json.loads((RESULTS / "planned_shapes.json").read_text())["students"]
    scores: dict[Shape, list[float]] = {}
    for each in students:
        scores.setdefault(shape_of(each["shape"]), []).append(each["stsb"]["value"])
    return {shape: fmean(found) for shape, found in scores.items()}


def shares(encoder: Encoder, recipe: Recipe, shapes: list[Shape], currency: str) -> list[float]:
    """What each shape keeps, when weights are worth their squared or their absolute sensitivity."""
    texts = first_texts(recipe.text, CALIBRATION_TEXTS)[:: CALIBRATION_TEXTS // TEXTS]
    with patch.object(torch.Tensor, "square_", CURRENCIES[currency]):
        found = teacher_retention(
            encoder,
            texts,
            probe=probe_of(encoder, recipe.distill.objective),
            hidden_sizes=[shape.hidden_size for shape in shapes],
            ffn_sizes=[shape.intermediate_size for shape in shapes],
            head_shapes=[(shape.num_attention_heads, shape.head_dim) for shape in shapes],
        )
    return [found.share(**shape.as_json()) for shape in shapes]


def baselines(encoder: Encoder, shape: Shape) -> dict[str, float]:
    """What is known of a shape without any text."""
    parameters = parameters_at(encoder.model, family_of(encoder.model.config), shape)
    return {"parameters": parameters, "layers_times_hidden": shape.num_hidden_layers * shape.hidden_size}


def table(sets: dict[str, Any]) -> str:
    """A line a shape, in Markdown, and Kendall's rank correlations."""
    names = ("squares", "absolute", "parameters", "layers_times_hidden")
    lines = [f"| students of | shape | STS-B | {' | '.join(names)} |", "|---|---|---:|---:|---:|---:|---:|"]
    for name, found in sets.items():
        for row in sorted(found["rows"], key=lambda row: float(row["stsb"])):
            figures = (row["stsb"], *(row[each] for each in names))
            lines.append(f"| {name} | {shape_of(row['shape']).name} | {' | '.join(f'{f:.3g}' for f in figures)} |")
        tau = " | ".join(f"{found['kendall'][each]:.2f}" for each in names)
        lines.append(f"| {name} | Kendall's rank correlation | | {tau} |")
    return "\n".join(lines)


def correlations(sets: dict[str, Any]) -> str:
    """Kendall's rank correlations alone, a line a set of students, in Markdown."""
    told = {"study": "eight of the study, 6 and 3 layers", "planned_shapes": "twelve of 6 layers"}
    lines = [
        "| students | squares | absolute values | parameters | layers × hidden size |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, words in told.items():
        tau = sets[name]["kendall"]
        figures = (tau[each] for each in ("squares", "absolute", "parameters", "layers_times_hidden"))
        lines.append(f"| {words} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Sum up, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "ranking.json")
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    encoder = load_encoder(recipe.teacher)
    sets: dict[str, Any] = {}
    for name, scores in {"study": study(), "planned_shapes": planned()}.items():
        shapes = list(scores)
        kept = {currency: shares(encoder, recipe, shapes, currency) for currency in CURRENCIES}
        rows = [
            {
                "shape": shape.as_json(),
                "stsb": scores[shape],
                **{each: kept[each][i] for each in CURRENCIES},
                **baselines(encoder, shape),
            }
            for i, shape in enumerate(shapes)
        ]
        kendall = {
            each: float(kendalltau([row[each] for row in rows], [row["stsb"] for row in rows]).statistic)
            for each in (*CURRENCIES, *baselines(encoder, shapes[0]))
        }
        sets[name] = {"rows": rows, "kendall": kendall}
    arguments.output.write_text(json.dumps(sets, indent=1) + "\n")
    print(table(sets))


if __name__ == "__main__":
    main()
