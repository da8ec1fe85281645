"""A plan for a person: a table of the front, what can be said of it, and a page with a plot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from homoexport.choices import OTHER_RUNTIMES
from homoexport.data import rendered
from homoexport.documents.artifact import write_manifest
from homoexport.documents.budget import DOWNLOAD, THROUGHPUT
from homoexport.documents.document import write_document
from homoexport.documents.layout import PLOTS
from homoexport.documents.output import staged
from homoexport.documents.plan import PLAN_FILE, Plan, Row
from homoexport.report.page import write_page
from homoexport.report.plots import BLUE, COLOURS, GREY, INK, ORANGE, STYLE, spread_by_decades
from homoexport.report.table import Table
from homoexport.report.vocabularies import vocabulary_lines, vocabulary_table
from homoexport.report.wording import budget_line, conditions, in_runtime, number, parameters, quantity

_NOTED_DRIFT = 0.1  # of the machine's pace, from which on it is reported
_NOTED_DISTURBED = 0.1  # of the rounds
_SHOWN = 12  # shapes of the front, around the choice
_REASONS = (GREY, *COLOURS[2:], INK)  # of shapes by why they are not on the front
_FIGURES = {
    "latency_p50_ms": "p50",
    "latency_p95_ms": "p95",
    "latency_p99_ms": "p99",
    THROUGHPUT: "per s",
    "file_mb": "File",
    DOWNLOAD: "Download",
    "peak_rss_mb": "RAM",
}
_WHERE_ASKED = ("latency_p99_ms", THROUGHPUT, DOWNLOAD)  # columns of a budget that has such a line
_UNITS = "latency in ms, file and memory in MB, parameters in millions, kept in %"


def plan_tables(plan: Plan) -> list[Table]:
    """What each vocabulary is worth, where there are several, and the front of the one that was taken."""
    words = vocabulary_table(plan)
    return [plan_table(plan)] if words is None else [words, plan_table(plan)]


def plan_table(plan: Plan) -> Table:
    """The front around the choice, the cheapest first; the choice has an arrow before it."""
    front, is_choice = list(plan.front), [row.shape == plan.choice.shape for row in plan.front]
    if True not in is_choice:
        front = sorted([*front, plan.choice], key=lambda row: row.latency_p50_ms)
        is_choice = [row is plan.choice for row in front]
    place = is_choice.index(True)
    start = max(0, min(place - _SHOWN // 2, len(front) - _SHOWN))
    lines = [line for line in _FIGURES if line not in _WHERE_ASKED or line in plan.limits]
    return Table(
        ("Shape", "Param.", *(_FIGURES[line] for line in lines), "Kept", "Why not"),
        [_cells(plan, row, lines) for row in front[start : start + _SHOWN]],
        f"Students of {plan.teacher} on {_conditions(plan)}; {_UNITS}",
        left=(0, 3 + len(lines)),
        bold=(place - start,),
    ).filled()


def _cells(plan: Plan, row: Row, lines: Sequence[str]) -> tuple[str, ...]:
    figures = row.figures | {
        THROUGHPUT: row.throughput_per_s(plan.measure.batch_size),
        DOWNLOAD: row.file_mb + plan.beside_mb,
    }
    return (
        f"{'> ' * (row.shape == plan.choice.shape)}{row.shape.name}",
        number(row.parameters / 1e6),
        *(number(figures[line]) for line in lines),
        f"{100 * row.retained:.1f}",
        _why_not(plan, row),
    )


def _why_not(plan: Plan, row: Row) -> str:
    """Which lines a row of the front misses, be it by their room alone, and whether its figures are in doubt."""
    missed, at_all = plan.missed_by(row), plan.missed_by(row, with_room=False)
    told = [f"{_FIGURES.get(line, line)}{'' if line in at_all else ' (room)'}" for line in missed]
    return ", ".join([*told, *["suspect"] * _is_doubtful(plan, row)])


def _is_doubtful(plan: Plan, row: Row) -> bool:
    """Whether a line of the budget is of figures that were disturbed; bytes and parameters cannot be."""
    return row.suspect and not {*plan.limits} <= {"file_mb", DOWNLOAD, "parameters"}


def plan_lines(plan: Plan) -> list[str]:
    """What is to be said of a plan, a line each."""
    choice, shape = plan.choice, plan.choice.shape
    words = "" if plan.vocab_size is None else f", vocab_size: {plan.vocab_size}"
    return [
        f"Budget: {', '.join(_limit(line, limit) for line, limit in plan.limits.items())}.",
        f"Choice: {shape.name}; of the teacher's squared sensitivity it keeps {100 * choice.retained:.1f} %. "
        f"In a recipe: student: {{hidden_size: {shape.hidden_size}, intermediate_size: {shape.intermediate_size}, "
        f"num_attention_heads: {shape.num_attention_heads}, num_hidden_layers: {shape.num_hidden_layers}{words}}}",
        *vocabulary_lines(plan),
        *_shape_lines(plan),
        *_measuring_lines(plan),
        "Nothing was trained. What is kept ranks shapes; quality is judged after distilling.",
    ]


def _shape_lines(plan: Plan) -> list[str]:
    """Of the room below the limits, of what more would buy, and of widths that are slow here."""
    lines = []
    room = {line: margin for line, margin in plan.margins.items() if margin > 0}
    if room:
        shares = ", ".join(f"{budget_line(line)[0].lower()} {100 * margin:.1f} %" for line, margin in room.items())
        lines.append(f"Shapes are planned with room below the limits, for what measuring adds: {shares}.")
    for more in plan.more:
        lines.append(
            f"With {_limit(more.line, more.limit)}: {more.buys.shape.name}, "
            f"which keeps {100 * more.buys.retained:.1f} %."
        )
    for each in plan.slower:
        narrow, wide = each.narrow, each.wide
        lines.append(
            f"{narrow.shape.hidden_size} wide is slower than {wide.shape.hidden_size} wide here: "
            f"{quantity(narrow.latency_p50_ms, 'ms')} against {quantity(wide.latency_p50_ms, 'ms')} "
            f"({narrow.shape.name} and {wide.shape.name})."
        )
    return lines


def _measuring_lines(plan: Plan) -> list[str]:
    """Of what was measured, and of how far predictions were off."""
    source = f"remembered, measured {_ago(plan.table_age_s)}" if plan.remembered else "measured just now"
    other = next((runtime for runtime in OTHER_RUNTIMES if runtime == plan.form), None)
    stored = in_runtime(plan.scheme, other) if other else f"{plan.scheme}, {plan.form} graph"
    lines = [
        f"Predicted from {plan.models_measured} small models ({source}; {stored}); "
        f"whole models held against their prediction: {len(plan.checks)}{_errors(plan)}. "
        "The others are corrected by it."
    ]
    lines += _state_lines(plan)
    lines += [f"{OTHER_RUNTIMES[runtime]} was not tried: {why}." for runtime, why in plan.not_tried.items()]
    if plan.measure.text:
        lines.append(
            f"Planned for sequences of {plan.measure.length} tokens; a run measures the texts of measure.text, "
            "whose lengths are their own."
        )
    if not plan.choice.measured:
        lines.append("The choice was not measured whole: those that were did not keep the budget.")
    return lines


def _state_lines(plan: Plan) -> list[str]:
    """Of the machine's state when the small models were measured."""
    again = "--fresh measures again, on a quieter machine"
    lines = []
    if plan.disturbed_share > _NOTED_DISTURBED:
        lines.append(
            f"The machine was busy then: models waited for a core in {100 * plan.disturbed_share:.0f} % of the rounds; "
            f"{again}."
        )
    if plan.drift > _NOTED_DRIFT:
        lines.append(
            f"The machine's pace drifted by {100 * plan.drift:.0f} % while it was measured, so times are planned with "
            f"more room below their limits; {again}."
        )
    if plan.suspect:
        lines.append(
            f"{_count(len(plan.suspect))} suspect: disturbed, or another figure at each measurement. So is what is "
            "predicted from there; the next plan measures it again."
        )
    if plan.slower_then > 1 + _NOTED_DRIFT:
        lines.append(
            f"The machine took {plan.slower_then:.2f} times as long then as it does now, so that times are planned too "
            "high; the next plan has them at the pace of now."
        )
    if plan.slower_then < 1 / (1 + _NOTED_DRIFT):
        lines.append(
            f"The machine takes {1 / plan.slower_then:.2f} times as long now as it did then, which is what times are "
            "planned for; if that is its pace from now on, --fresh measures again."
        )
    if not lines and plan.remembered:
        lines.append("The machine was quiet then.")
    return lines


def _count(models: int) -> str:
    return "1 small model is" if models == 1 else f"{models} small models are"


def _ago(seconds: float) -> str:
    """How long ago something was, in the largest unit of which there are two or more."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"


def _errors(plan: Plan) -> str:
    """How far off predictions of the budget's figures were; above 0 what was predicted too high."""
    if plan.error_median is None or plan.error_worst is None:
        return ""
    worst = plan.errors_worst
    lines = [line for line in plan.limits if line in worst and line != "latency_p50_ms"]
    others = "".join(f", {budget_line(line)[0].lower()} by {100 * worst[line]:+.1f} % at the worst" for line in lines)
    median = f"{100 * plan.error_median:.1f} % (median) and {100 * plan.error_worst:.1f} % (worst)"
    return f", median latency off by {median}{others}"


def write_plan_report(out_dir: Path, plan: Plan, *, recipe: str | None = None, force: bool = False) -> None:
    """Keep a plan as an artifact: `plan.json` and its report; `recipe` is the digest of a run's.

    Raises:
        OutputError: `out_dir` exists, or cannot be written.
    """
    page = rendered(
        "plan_report.md.jinja",
        plan=plan,
        conditions=_conditions(plan),
        units=_UNITS,
        words=vocabulary_table(plan),
        front=plan_table(plan),
        lines=plan_lines(plan),
        folder=PLOTS,
        checks=_checks_table(plan),
    )
    with staged(out_dir, force=force) as folder:
        write_page(folder, page, {"front": front_figure(plan)})
        write_document(folder / PLAN_FILE, plan)
        write_manifest(folder, "plan", parent=plan.teacher, recipe=recipe)


def _checks_table(plan: Plan) -> Table:
    rows = [
        (
            check.shape.name,
            quantity(check.predicted.latency_p50_ms, "ms"),
            quantity(check.measured.latency_p50_ms, "ms"),
            f"{100 * check.error:+.1f}%",
        )
        for check in plan.checks
    ]
    return Table(("Shape", "predicted p50", "measured p50", "off by"), rows)


def front_figure(plan: Plan) -> Figure:
    """Every shape by the budget's first line and by what it keeps, with the front and the choice."""
    first, drawn = next(iter(plan.limits)), plan.cost_line
    label, unit = budget_line(drawn)

    def points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        return [float(getattr(row, drawn)) for row in rows], [100 * row.retained for row in rows]

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        for (what, rows), colour in zip(_by_reason(plan).items(), cycle(_REASONS), strict=False):
            axes.scatter(*points(rows), s=6, color=colour, label=what)
        axes.step(*points(plan.front), where="post", color=BLUE, label="front")
        axes.scatter(*points([plan.choice]), s=60, color=ORANGE, zorder=3, label=f"choice: {plan.choice.shape.name}")
        if first == drawn:
            axes.axvline(plan.limits[first], color=ORANGE, linestyle="--", linewidth=1, label="budget")
            with_room = plan.limits[first] * (1 - plan.margins[first])
            axes.axvline(with_room, color=ORANGE, linestyle=":", linewidth=1, label="with room for what measuring adds")
        spread_by_decades(axes)
        axes.set_xlabel(f"{label}{f', {unit}' if unit else ''}, predicted")
        axes.set_ylabel("kept of the teacher's squared sensitivity, %")
        axes.set_title("What the budget can afford")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _by_reason(plan: Plan) -> dict[str, list[Row]]:
    """Every row, by why it is not on the front although it may keep more: another line than the one drawn."""
    reasons: dict[str, list[Row]] = {"shapes": []}
    first = next(iter(plan.limits))
    for row in plan.rows:
        others = [line for line in plan.missed_by(row) if line != first]
        doubt = "suspect" if _is_doubtful(plan, row) else "shapes"
        what = f"misses {budget_line(others[0])[0].lower()}" if others else doubt
        reasons.setdefault(what, []).append(row)
    return reasons


def _conditions(plan: Plan) -> str:
    return conditions(plan.measure, emulated=plan.target.emulated)


def _limit(line: str, limit: float) -> str:
    label, unit = budget_line(line)
    value = parameters(round(limit)) if line == "parameters" else f"{number(limit)} {unit}".replace(" /s", "/s")
    return f"{label} at {'least' if line == THROUGHPUT else 'most'} {value}"
