"""Measurements in words and tables: packages side by side, grids, changes between runs, targets.

Nothing here prints: the caller does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from homoexport.report.tables import conditions
from homoexport.report.wording import megabytes, number, parameters, quantity

_PERCENTS = (50, 90, 95, 99)
_LIMITS = {"cores": "of its cores", "quota": "cores' worth of time", "memory_mb": "MB of memory"}


def figure_rows(measurement: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The rows of a measurement's table: what it is, and each package's figure. Rows without figures are left out."""
    results = measurement["results"]

    def row(label: str, key: str, unit: str, interval: str = "") -> tuple[str, list[str]]:
        return label, [_cell(result[key], unit, result.get(interval)) for result in results]

    rows = [
        ("Precision", [result["precision"] for result in results]),
        ("Parameters", [parameters(result["parameters"]) for result in results]),
        ("ONNX file", [megabytes(result["file_bytes"]) for result in results]),
        ("Download", [_bytes(result["download_bytes"]) for result in results]),
        row("Load", "load_ms", "ms"),
        row("Time to first result", "time_to_first_result_ms", "ms"),
        row("First inference", "first_inference_ms", "ms"),
        row("Tokenizing before it, p50", "tokenize_p50_ms", "ms"),
    ]
    for percent in _PERCENTS:
        figure = f"latency_p{percent}"
        rows.append(row(f"Latency p{percent}", f"{figure}_ms", "ms", f"{figure}_interval_ms"))
    rows += [
        row("Mean", "latency_mean_ms", "ms"),
        row("Standard deviation", "latency_std_ms", "ms"),
        row("Post-processing after it, p50", "post_p50_ms", "ms"),
        row("Throughput", "throughput_per_s", "/s"),
        row("Energy, whole processor", "energy_mj", "mJ"),
        row("Instructions", "instructions", ""),
        row("Peak memory", "peak_rss_mb", "MB"),
        row("of which runtime", "runtime_rss_mb", "MB"),
        *_arena_rows(results),
        *_stream_rows(results),
        *_rate_rows(results),
        ("Answers as on this CPU", [_agreement(result["agreement"]) for result in results]),
        ("Runs", [f"{result['runs']:,}" for result in results]),
        ("Verdict", [result["verdict"] for result in results]),
    ]
    if measurement["comparisons"]:
        against = {line["package"]: line for line in measurement["comparisons"]}
        rows.append(("Against the first", [_speedup(against.get(result["package"])) for result in results]))
    return [(label, cells) for label, cells in rows if any(cells)]


def _cell(value: float | None, unit: str, interval: Sequence[float] | None = None) -> str:
    return "" if value is None else quantity(value, unit, interval)


def _bytes(count: int | None) -> str:
    return "" if count is None else megabytes(count)


def _arena_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    steps = results[0]["arena"] if results else ()
    return [
        (f"Memory after batch {step['batch_size']}", [_grown(result["arena"][place]) for result in results])
        for place, step in enumerate(steps)
    ]


def _grown(step: Mapping[str, Any]) -> str:
    kept, shrunk = (_cell(step[key], "MB") or "does not fit" for key in ("rss_mb", "shrunk_rss_mb"))
    return f"{kept} (shrunk: {shrunk})"


def _stream_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    figures = [{step["streams"]: step for step in result["streams"]} for result in results]
    return [
        (f"{callers} stream{'' if callers == 1 else 's'}", [_stream(steps.get(callers)) for steps in figures])
        for callers in dict.fromkeys(callers for steps in figures for callers in steps)
    ]


def _stream(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "does not fit"
    return f"{quantity(step['throughput_per_s'], '/s')}, p95 {quantity(step['latency_p95_ms'], 'ms')}"


def _rate_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """A row for each rate that all packages met, and for the highest that keeps the budget."""
    loops = [result["open_loop"] for result in results]
    there = [loop for loop in loops if loop]
    if not there:
        return []
    figures = [{rate["rate_per_s"]: rate for rate in loop["rates"]} if loop else None for loop in loops]
    common = set.intersection(*(set(rates) for rates in figures if rates is not None))
    rows = [
        (f"At {number(rate)} arrivals/s", [_rate(rates[rate] if rates else None) for rates in figures])
        for rate in sorted(common)
    ]
    budget = there[0]["budget_p95_ms"]
    if budget is not None:
        label = f"Most arrivals/s with p95 within {quantity(budget, 'ms')}"
        rows.append((label, [_highest(loop) for loop in loops]))
    return rows


def _rate(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "does not fit"
    return f"p95 {quantity(figures['latency_p95_ms'], 'ms')}, {figures['utilization']:.0%} busy"


def _highest(loop: Mapping[str, Any] | None) -> str:
    if loop is None:
        return "does not fit"
    return "none" if loop["highest_rate_per_s"] is None else number(loop["highest_rate_per_s"])


def _agreement(agreement: Mapping[str, Any] | None) -> str:
    if agreement is None:
        return ""
    if agreement["min_cosine"] is None:
        return "NO: of another shape, or no numbers"
    told = f"cosine {agreement['min_cosine']:.5f}, largest difference {agreement['max_difference']:.2g}"
    return f"{told}: {'within' if agreement['within'] else 'BEYOND'} the bound"


def _speedup(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    return f"{_ratio(comparison)}\n{comparison['verdict']}"


def _ratio(comparison: Mapping[str, Any]) -> str:
    low, high = comparison["interval"]
    return f"{number(comparison['speedup_p50'])}x ({number(low)} to {number(high)})"


def measurement_table(measurement: Mapping[str, Any]) -> Table:
    """Packages side by side, a row for each figure; latencies with their 95 % intervals."""
    table = Table(title=Text(conditions(measurement)), title_justify="left")
    table.add_column("")
    for label in labels_of(measurement["results"]):
        table.add_column(Text(label), justify="right", overflow="fold")
    for label, cells in figure_rows(measurement):
        table.add_row(label, *map(Text, cells))
    return table


def labels_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call each package: its folder's name, or its whole path where several folders have that name."""
    names = [result["name"] for result in results]
    return [name if names.count(name) == 1 else result["package"] for name, result in zip(names, results, strict=True)]


def measurement_remarks(document: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know besides: failures, limits, noise, emulation."""
    cells = document["cells"] if document["kind"] == "grid" else [document]
    remarks = []
    for cell in cells:
        where = f"{conditions(cell)}: " if len(cells) > 1 else ""
        for failure in cell["failures"]:
            remarks.append(f"{where}{failure['package']} does not fit ({failure['stage']}): {failure['reason']}")
        for result in cell["results"]:
            if result["agreement"] and not result["agreement"]["within"]:
                remarks.append(
                    f"{where}{result['package']} is another model there: its answers are beyond the bound "
                    f"({result['agreement']['bound']})"
                )
            if elsewhere := result.get("elsewhere"):
                operators = ", ".join(f"{count} {name}" for name, count in elsewhere.items())
                remarks.append(
                    f"{where}{result['package']} runs {sum(elsewhere.values())} operators on the CPU's own provider, "
                    f"for {cell['device']} has none of them: {operators}"
                )
        for remark in (cell["noise"] or {}).get("remarks", ()):
            remarks.append(f"{where}{remark}")
    first = cells[0]
    for name, limit in first["limits"].items():
        remarks.append(f"Limited to {limit['limit']:g} {_LIMITS[name]}, by {limit['by']}")
    if first["emulated"]:
        remarks.append("Emulated: times are the emulator's and say nothing of the device; answers and memory count")
    if texts := first["texts"]:
        remarks.append(
            f"Texts: {texts['texts']} of {texts['source']}, {texts['tokens_p50']:g} tokens at the median, "
            f"{texts['tokens_p95']:g} at p95, {texts['tokens_max']} at most"
        )
    return list(dict.fromkeys(remarks))


GRID_HEAD = (
    *("Threads", "Batch", "Length", "Package", "p50, ms", "p95, ms", "Per second", "Memory, MB", "Steady"),
    *("Against the first", "Budget"),
)
_LEFT = ("Package", "Steady", "Against the first", "Budget")


def grid_rows(grid: Mapping[str, Any]) -> list[list[str]]:
    """The rows under `GRID_HEAD`: one for each condition and package."""
    rows = []
    for cell in grid["cells"]:
        against = {line["package"]: line for line in cell["comparisons"]}
        last = cell["results"][-1]["package"] if cell["results"] else None
        for result, label in zip(cell["results"], labels_of(cell["results"]), strict=True):
            rows.append(
                [
                    str(cell["threads"]),
                    str(cell["batch_size"]),
                    str(cell["length"]),
                    label,
                    number(result["latency_p50_ms"]),
                    number(result["latency_p95_ms"]),
                    number(result["throughput_per_s"]),
                    number(result["peak_rss_mb"]),
                    "yes" if result["verdict"] == "steady" else "too noisy",
                    _speedup(against.get(result["package"])).replace("\n", ", "),
                    _kept(cell["budget"]) if result["package"] == last else "",
                ]
            )
    return rows


def _kept(budget: Sequence[Mapping[str, Any]]) -> str:
    """What a whole budget comes to."""
    if any(line["kept"] is False for line in budget):
        return "missed"
    if any(line["kept"] is None for line in budget):
        return "too noisy to call"
    return "kept" if budget else ""


def grid_table(grid: Mapping[str, Any]) -> Table:
    """A grid of conditions, a row for each package in each."""
    table = Table(title=Text(grid["cells"][0]["device"]), title_justify="left", box=box.SIMPLE_HEAD)
    rows = grid_rows(grid)
    told = [column for column in range(len(GRID_HEAD)) if any(row[column] for row in rows)]
    for column in told:
        head = GRID_HEAD[column]
        table.add_column(head, justify="left" if head in _LEFT else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[column]) for column in told))
    return table


def change_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """Two runs against each other, a row for each package."""
    table = Table(title="After against before", title_justify="left")
    for head in ("Package", "Conditions", "Before p50", "After p50", "After is", "Verdict"):
        table.add_column(head)
    for change in changes:
        table.add_row(
            Text(change["package"]),
            conditions(change),
            quantity(change["before_p50_ms"], "ms"),
            quantity(change["after_p50_ms"], "ms"),
            _ratio(change),
            change["verdict"],
        )
    return table


def device_table(devices: Sequence[Mapping[str, Any]]) -> Table:
    """Targets, a row for each: whether they are ready, and what is there."""
    table = Table(title="Where packages can be measured", title_justify="left")
    for head in ("Device", "Ready", "Cores", "Memory", "Machine", "Runs on"):
        table.add_column(head, overflow="fold")
    for device in devices:
        host = device["host"]
        ready = "yes" if device["ready"] else "no: see homoexport doctor"
        sets = ", ".join(host.get("instruction_sets", ()))
        table.add_row(
            Text(device["how"]),
            f"{ready}{', emulated' if device['emulated'] else ''}",
            f"{device['cores']} of {host['cores']}" if host else "",
            quantity(host["memory_mb"] / 1000, "GB") if host else "",
            Text(f"{host['cpu']} ({host['architecture']}{': ' if sets else ''}{sets})" if host else ""),
            ", ".join(device["providers"]) if host else "",
        )
    return table


def need_lines(devices: Sequence[Mapping[str, Any]]) -> list[Text]:
    """A line for each kind of target: ready, or what is missing and the command that gets it."""
    lines = []
    for device in devices:
        if device["ready"]:
            lines.append(Text(f"{device['name']}: ready", style="green"))
        for need in device["needs"]:
            text = Text(f"{device['name']}: {need['what']} is missing", style="yellow")
            lines.append(text.append(f"\n    {need['command']}", style="default"))
    return lines
