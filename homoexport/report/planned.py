"""A plan for a person: a table of the front, what can be said of it, and a page with a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from homoexport.documents.artifact import staged, write_manifest
from homoexport.documents.budget import THROUGHPUT
from homoexport.documents.document import to_json, write_text
from homoexport.report.markdown import PLOTS, REPORT, markdown_table
from homoexport.report.plots import STYLE
from homoexport.report.tables import conditions
from homoexport.report.wording import budget_line, number, parameters, quantity, shape_name

PLAN_FILE = "plan.json"
_RESTLESS = 0.1  # of the pace, from which on it is told
_SHOWN = 12  # shapes of the front, around the choice
_DPI = 150
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#BBBBBB"
_FIGURES = {
    "latency_p50_ms": "p50",
    "latency_p95_ms": "p95",
    "latency_p99_ms": "p99",
    THROUGHPUT: "per s",
    "file_mb": "File",
    "peak_rss_mb": "RAM",
}
_WHERE_ASKED = ("latency_p99_ms", THROUGHPUT)  # columns of a budget that has such a line
_UNITS = "latency in ms, file and memory in MB, parameters in millions, kept in %"


def _head(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns' names."""
    return ("Shape", "Param.", *(_FIGURES[line] for line in _columns(plan)), "Kept")


def _columns(plan: Mapping[str, Any]) -> list[str]:
    return [line for line in _FIGURES if line not in _WHERE_ASKED or line in plan["limits"]]


def plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The front around the choice, the cheapest first; the choice has an arrow before it."""
    front: list[Mapping[str, Any]] = plan["front"]
    place = next((i for i, row in enumerate(front) if row["shape"] == plan["choice"]["shape"]), None)
    if place is None:
        front = sorted([*front, plan["choice"]], key=lambda row: float(row["latency_p50_ms"]))
        place = front.index(plan["choice"])
    start = max(0, min(place - _SHOWN // 2, len(front) - _SHOWN))
    return [_row(plan, row) for row in front[start : start + _SHOWN]]


def _row(plan: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = {**row, THROUGHPUT: 1000 * plan["measure"]["batch_size"] / row["latency_mean_ms"]}
    return (
        f"{'> ' * (row['shape'] == plan['choice']['shape'])}{shape_name(row['shape'])}",
        number(row["parameters"] / 1e6),
        *(number(figures[line]) for line in _columns(plan)),
        f"{100 * row['retained']:.1f}",
    )


def plan_table(plan: Mapping[str, Any]) -> Table:
    """The front, for a terminal."""
    title = f"Students of {plan['teacher']} on {conditions(SimpleNamespace(**_conditions(plan)))}; {_UNITS}"
    table = Table(title=Text(title), title_justify="left")
    for name in _head(plan):
        table.add_column(name, justify="left" if name == "Shape" else "right", overflow="fold")
    for row in plan_rows(plan):
        table.add_row(*map(Text, row), style="bold" if row[0].startswith(">") else None)
    return table


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """What is to be said of a plan, a line each."""
    choice, shape = plan["choice"], plan["choice"]["shape"]
    lines = [
        f"Budget: {', '.join(_limit(line, limit) for line, limit in plan['limits'].items())}.",
        f"Choice: {shape_name(shape)}; of the teacher's squared sensitivity it keeps {100 * choice['retained']:.1f} %. "
        f"In a recipe: student: {{hidden_size: {shape['hidden_size']}, "
        f"intermediate_size: {shape['intermediate_size']}, num_attention_heads: {shape['num_attention_heads']}, "
        f"num_hidden_layers: {shape['num_hidden_layers']}}}",
    ]
    room = {line: margin for line, margin in plan["margins"].items() if margin > 0}
    if room:
        told = ", ".join(f"{budget_line(line)[0].lower()} {100 * margin:.1f} %" for line, margin in room.items())
        lines.append(f"Shapes are planned with room below the limits, for what measuring adds: {told}.")
    for each in plan["more"]:
        buys = each["buys"]
        lines.append(
            f"With {_limit(each['line'], each['limit'])}: {shape_name(buys['shape'])}, "
            f"which keeps {100 * buys['retained']:.1f} %."
        )
    for row, wider in plan["disliked"]:
        lines.append(
            f"{row['shape']['hidden_size']} wide is slower than {wider['shape']['hidden_size']} wide here: "
            f"{quantity(row['latency_p50_ms'], 'ms')} against {quantity(wider['latency_p50_ms'], 'ms')} "
            f"({shape_name(row['shape'])} and {shape_name(wider['shape'])})."
        )
    source = "remembered" if plan["remembered"] else "measured just now"
    lines.append(
        f"Predicted from {plan['models_measured']} small models ({source}; {plan['scheme']}, {plan['form']} graph); "
        f"whole models held against their prediction: {len(plan['checks'])}, median latency off by "
        f"{100 * plan['error_median']:.1f} % (median) and {100 * plan['error_worst']:.1f} % (worst)"
        f"{_other_errors(plan)}. The others are corrected by it."
    )
    if plan["drift"] > _RESTLESS:
        lines.append(
            f"The machine's pace went by {100 * plan['drift']:.0f} % while it was measured, so times are planned with "
            "more room below their limits; --fresh measures again, on a quieter machine."
        )
    if plan["measure"]["text"]:
        lines.append(
            f"Planned for sequences of {plan['measure']['length']} tokens; a run measures the texts of measure.text, "
            "whose lengths are their own."
        )
    if not choice["measured"]:
        lines.append("The choice was not measured whole: those that were did not keep the budget.")
    lines.append("Nothing was trained. What is kept ranks shapes; quality is judged after distilling.")
    return lines


def _other_errors(plan: Mapping[str, Any]) -> str:
    """How far off predictions of the budget's other figures were at the worst; above 0 what was predicted too high."""
    worst = plan["errors_worst"]
    lines = [line for line in plan["limits"] if line in worst and line != "latency_p50_ms"]
    return "".join(f", {budget_line(line)[0].lower()} by {100 * worst[line]:+.1f} % at the worst" for line in lines)


def write_plan_report(out_dir: Path, plan: Mapping[str, Any], *, force: bool = False) -> None:
    """Keep a plan as an artifact: `plan.json`, `report.md`, a plot.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
    """
    with staged(out_dir, force=force) as folder:
        (folder / PLOTS).mkdir()
        front_figure(plan).savefig(folder / PLOTS / "front.png", dpi=_DPI)
        sections = [
            f"# Plan for {plan['teacher']}",
            f"On {conditions(SimpleNamespace(**_conditions(plan)))} ({plan['target']['cpu']}); {_UNITS}.",
            markdown_table(_head(plan), plan_rows(plan)),
            "\n".join(f"- {line}" for line in plan_lines(plan)),
            f"![Shapes by cost and by what they keep]({PLOTS}/front.png)",
            "## Whole models against their prediction",
            markdown_table(
                ("Shape", "predicted p50", "measured p50", "off by"),
                [
                    (
                        shape_name(each["shape"]),
                        quantity(each["predicted"]["latency_p50_ms"], "ms"),
                        quantity(each["measured"]["latency_p50_ms"], "ms"),
                        f"{100 * each['error']:+.1f}%",
                    )
                    for each in plan["checks"]
                ],
            ),
        ]
        (folder / REPORT).write_text("\n\n".join(sections) + "\n", encoding="utf-8")
        write_text(folder / PLAN_FILE, to_json(plan))
        write_manifest(folder, "plan", parent=plan["teacher"])


def front_figure(plan: Mapping[str, Any]) -> Figure:
    """Every shape by the budget's first line and by what it keeps, with the front and the choice."""
    line = next(iter(plan["limits"]))
    drawn = "latency_p50_ms" if line == THROUGHPUT else line
    label, unit = budget_line(drawn)
    rows, front, choice = plan["rows"], plan["front"], plan["choice"]

    def points(of: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
        return [float(row[drawn]) for row in of], [100 * float(row["retained"]) for row in of]

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        axes.scatter(*points(rows), s=6, color=_GREY, label="shapes")
        axes.step(*points(front), where="post", color=_BLUE, label="front")
        axes.scatter(*points([choice]), s=60, color=_ORANGE, zorder=3, label=f"choice: {shape_name(choice['shape'])}")
        if line == drawn:
            axes.axvline(plan["limits"][line], color=_ORANGE, linestyle="--", linewidth=1, label="budget")
        axes.set_xscale("log")
        axes.set_xlabel(f"{label}{f', {unit}' if unit else ''}, predicted")
        axes.set_ylabel("kept of the teacher's squared sensitivity, %")
        axes.set_title("What the budget can afford")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _conditions(plan: Mapping[str, Any]) -> dict[str, Any]:
    measure = plan["measure"]
    return {**measure, "emulated": plan["target"]["emulated"], "threads": measure["threads"] or "all"}


def _limit(line: str, limit: float) -> str:
    label, unit = budget_line(line)
    told = parameters(round(limit)) if line == "parameters" else f"{number(limit)} {unit}".replace(" /s", "/s")
    return f"{label} at {'least' if line == THROUGHPUT else 'most'} {told}"
