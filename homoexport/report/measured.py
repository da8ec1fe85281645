"""Measurements in words and tables: packages side by side, grids, changes between runs, targets.

Nothing here prints: the caller does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from homoexport.documents.budget import DOWNLOAD
from homoexport.documents.measurement import (
    Agreement,
    ArenaStep,
    Change,
    Comparison,
    Device,
    Grid,
    Interval,
    Measurement,
    OpenLoop,
    PackageFigures,
    RateFigures,
    StreamFigures,
)
from homoexport.report.table import Table
from homoexport.report.wording import (
    conditions,
    in_runtime,
    megabytes,
    number,
    parameters,
    quantity,
    ratio,
    verdict_word,
)

_LIMITS = {"cores": "of its cores", "quota": "cores' worth of time", "memory_mb": "MB of memory"}


def figure_rows(measurement: Measurement) -> list[tuple[str, list[str]]]:
    """The rows of a measurement's table: what it is, and each package's figure. Rows without figures are left out."""
    results = measurement.results

    def row(label: str, figure: Callable[[PackageFigures], float | None], unit: str) -> tuple[str, list[str]]:
        return label, [_cell(figure(result), unit) for result in results]

    rows = [
        ("Precision", [in_runtime(result.precision, result.runtime) for result in results]),
        ("Parameters", [parameters(result.parameters) for result in results]),
        ("File", [megabytes(result.file_bytes) for result in results]),
        *_download_rows(measurement),
        row("Load", lambda one: one.load_ms, "ms"),
        row("Time to first result", lambda one: one.time_to_first_result_ms, "ms"),
        row("First inference", lambda one: one.first_inference_ms, "ms"),
        row("Tokenizing before it, p50", lambda one: one.tokenize_p50_ms, "ms"),
        *latency_rows(results),
    ]
    rows += [
        row("Mean", lambda one: one.latency_mean_ms, "ms"),
        row("Standard deviation", lambda one: one.latency_std_ms, "ms"),
        row("Post-processing after it, p50", lambda one: one.post_p50_ms, "ms"),
        row("Throughput", lambda one: one.throughput_per_s, "/s"),
        row("Energy, whole processor", lambda one: one.energy_mj, "mJ"),
        row("Instructions", lambda one: one.instructions, ""),
        row("Peak memory", lambda one: one.peak_rss_mb, "MB"),
        row("of which runtime", lambda one: one.runtime_rss_mb, "MB"),
        *_arena_rows(results),
        *_stream_rows(results),
        *_rate_rows(results),
        ("Answers as on this CPU", [_agreement(result.agreement) for result in results]),
        ("Runs", [f"{result.runs:,}" for result in results]),
        ("Verdict", [_steadiness(measurement, result) for result in results]),
    ]
    if measurement.comparisons:
        against = {line.package: line for line in measurement.comparisons}
        rows.append(("Against the first", [_speedup(against.get(result.package)) for result in results]))
    return [(label, cells) for label, cells in rows if any(cells)]


def _steadiness(measurement: Measurement, result: PackageFigures) -> str:
    """Of an emulator's times nothing is called."""
    return "emulated" if measurement.emulated else result.verdict


def _download_rows(measurement: Measurement) -> list[tuple[str, list[str]]]:
    """What a browser downloads, where the package was measured in one, or a budget asks."""
    results = measurement.results
    asked = any(result.download_bytes is not None for result in results)
    asked = asked or any(verdict.line == DOWNLOAD for verdict in measurement.budget)
    return [
        ("Download", [_bytes(result.package_download_bytes) if asked else "" for result in results]),
        ("Runtime's files beside it", [_bytes(result.runtime_download_bytes) for result in results]),
        ("Fetched by the page", [_bytes(result.download_bytes) for result in results]),
    ]


def latency_rows(results: Sequence[PackageFigures]) -> list[tuple[str, list[str]]]:
    """A row for each percentile of the latency, with its interval where it has one."""
    each = [result.latencies_ms for result in results]
    percents = each[0] if each else ()
    return [
        (f"Latency p{percent}", [_cell(found[percent][0], "ms", found[percent][1]) for found in each])
        for percent in percents
    ]


def _cell(value: float | None, unit: str, interval: Interval | None = None) -> str:
    return "" if value is None else quantity(value, unit, interval)


def _bytes(count: int | None) -> str:
    return "" if count is None else megabytes(count)


def _arena_rows(results: Sequence[PackageFigures]) -> list[tuple[str, list[str]]]:
    steps = results[0].arena if results else ()
    return [
        (f"Memory after batch {step.batch_size}", [_grown(result.arena[place]) for result in results])
        for place, step in enumerate(steps)
    ]


def _grown(step: ArenaStep) -> str:
    kept, shrunk = (_cell(memory, "MB") or "does not fit" for memory in (step.rss_mb, step.shrunk_rss_mb))
    return f"{kept} (shrunk: {shrunk})"


def _stream_rows(results: Sequence[PackageFigures]) -> list[tuple[str, list[str]]]:
    figures = [{step.streams: step for step in result.streams} for result in results]
    return [
        (f"{callers} stream{'' if callers == 1 else 's'}", [_stream(steps.get(callers)) for steps in figures])
        for callers in dict.fromkeys(callers for steps in figures for callers in steps)
    ]


def _stream(step: StreamFigures | None) -> str:
    if step is None:
        return "does not fit"
    return f"{quantity(step.throughput_per_s, '/s')}, p95 {quantity(step.latency_p95_ms, 'ms')}"


def _rate_rows(results: Sequence[PackageFigures]) -> list[tuple[str, list[str]]]:
    """A row for each rate that all packages met, and for the highest that keeps the budget."""
    loops = [result.open_loop for result in results]
    there = [loop for loop in loops if loop]
    if not there:
        return []
    figures = [{rate.rate_per_s: rate for rate in loop.rates} if loop else None for loop in loops]
    common = set.intersection(*(set(rates) for rates in figures if rates is not None))
    rows = [
        (f"At {number(rate)} arrivals/s", [_rate(rates[rate] if rates else None) for rates in figures])
        for rate in sorted(common)
    ]
    budget = there[0].budget_p95_ms
    if budget is not None:
        label = f"Most arrivals/s with p95 within {quantity(budget, 'ms')}"
        rows.append((label, [_highest(loop) for loop in loops]))
    return rows


def _rate(figures: RateFigures | None) -> str:
    if figures is None:
        return "does not fit"
    return f"p95 {quantity(figures.latency_p95_ms, 'ms')}, {figures.utilization:.0%} busy"


def _highest(loop: OpenLoop | None) -> str:
    if loop is None:
        return "does not fit"
    return "none" if loop.highest_rate_per_s is None else number(loop.highest_rate_per_s)


def _agreement(agreement: Agreement | None) -> str:
    if agreement is None:
        return ""
    if agreement.min_cosine is None:
        return "NO: of another shape, or no numbers"
    told = f"cosine {agreement.min_cosine:.5f}, largest difference {agreement.max_difference:.2g}"
    return f"{told}: {'within' if agreement.within else 'BEYOND'} the bound"


def _speedup(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{_ratio(comparison)}\n{comparison.verdict}"


def _ratio(comparison: Comparison) -> str:
    low, high = comparison.interval
    return f"{number(comparison.speedup_p50)}x ({number(low)} to {number(high)})"


def measurement_table(measurement: Measurement) -> Table:
    """Packages side by side, a row for each figure; latencies with their 95 % intervals."""
    rows = [(label, *cells) for label, cells in figure_rows(measurement)]
    return Table(("", *labels_of(measurement.results)), rows, conditions(measurement), by_column=True)


def labels_of(results: Sequence[PackageFigures]) -> list[str]:
    """What to call each package: its folder's name, or its whole path where several folders have that name."""
    names = [result.name for result in results]
    return [name if names.count(name) == 1 else result.package for name, result in zip(names, results, strict=True)]


def measurement_remarks(document: Measurement | Grid) -> list[str]:
    """What a reader of the figures should know besides: failures, limits, noise, emulation."""
    cells = document.cells
    remarks = [
        f"{conditions(cell)}: {remark}" if len(cells) > 1 else remark for cell in cells for remark in _of_cell(cell)
    ]
    first = cells[0]
    for name, limit in first.limits.items():
        remarks.append(f"Limited to {limit.limit:g} {_LIMITS[name]}, by {limit.by}")
    if first.emulated:
        remarks.append("Emulated: times are the emulator's and say nothing of the device; answers and memory count")
    if texts := first.texts:
        remarks.append(
            f"Texts: {texts.texts} of {texts.source}, {texts.tokens_p50:g} tokens at the median, "
            f"{texts.tokens_p95:g} at p95, {texts.tokens_max} at most"
        )
    return list(dict.fromkeys(remarks))


def _of_cell(cell: Measurement) -> list[str]:
    """What is to be said of the figures under one condition."""
    remarks = [f"{failure.package} does not fit ({failure.stage}): {failure.reason}" for failure in cell.failures]
    for result in cell.results:
        if result.agreement and not result.agreement.within:
            remarks.append(
                f"{result.package} is another model there: its answers are beyond the bound ({result.agreement.bound})"
            )
        if elsewhere := result.elsewhere:
            operators = ", ".join(f"{count} {name}" for name, count in elsewhere.items())
            remarks.append(
                f"{result.package} runs {sum(elsewhere.values())} operators on the CPU's own provider, "
                f"for {cell.device} has none of them: {operators}"
            )
        if waited := len(result.disturbed_rounds):
            rounds = result.runs // result.runs_per_round
            remarks.append(f"{result.package} waited for a core, which others had, in {waited} of {rounds} rounds")
        given = cell.limits.get("memory_mb")
        if given is not None and result.peak_rss_mb > given.limit:
            remarks.append(
                f"{result.package} has more resident than the {given.limit:g} MB that it was given: {given.by} does "
                "not count pages of files that other processes have in memory, too"
            )
    medians = {result.package: result.latency_p50_ms for result in cell.results}
    for line in cell.comparisons:
        ours, theirs = medians.get(line.package), medians.get(line.against)
        if ours is None or theirs is None or line.verdict not in ("faster", "slower"):
            continue
        if (theirs - ours) * (line.speedup_p50 - 1) < 0:
            remarks.append(
                f"{line.package} is {_ratio(line)} {line.verdict} within turns, where both see the same noise, though "
                "its p50 over all turns says the contrary"
            )
    return [*remarks, *(cell.noise.remarks if cell.noise else ())]


_SHORT = {"steady": "yes", "emulated": "emulated"}
_GRID_HEAD = (
    "Threads",
    "Batch",
    "Length",
    "Package",
    "p50, ms",
    "p95, ms",
    "Per second",
    "Memory, MB",
    "Steady",
    "Against the first",
    "Budget",
)
_LEFT = [_GRID_HEAD.index(label) for label in ("Package", "Steady", "Against the first", "Budget")]


def grid_table(grid: Grid) -> Table:
    """A grid of conditions, a row for each package in each."""
    rows = []
    for cell in grid.cells:
        against = {line.package: line for line in cell.comparisons}
        last = cell.results[-1].package if cell.results else None
        for result, label in zip(cell.results, labels_of(cell.results), strict=True):
            rows.append(
                (
                    str(cell.threads),
                    str(cell.batch_size),
                    str(cell.length),
                    label,
                    number(result.latency_p50_ms),
                    number(result.latency_p95_ms),
                    number(result.throughput_per_s),
                    number(result.peak_rss_mb),
                    _SHORT.get(_steadiness(cell, result), "too noisy"),
                    _speedup(against.get(result.package)).replace("\n", ", "),
                    verdict_word(*cell.budget) if cell.budget and result.package == last else "",
                )
            )
    return Table(_GRID_HEAD, rows, grid.cells[0].device, _LEFT).filled()


def change_table(changes: Sequence[Change]) -> Table:
    """Two runs against each other, a row for each package."""
    rows = [
        (
            " -> ".join(dict.fromkeys((change.before_package, change.package))),
            conditions(change),
            quantity(change.before_p50_ms, "ms"),
            quantity(change.after_p50_ms, "ms"),
            ratio(change.speedup_p50, "faster", "slower", change.interval),
            change.verdict,
        )
        for change in changes
    ]
    head = ("Package", "Conditions", "Before p50", "After p50", "Change", "Verdict")
    return Table(head, rows, "After against before", left=range(len(head)))


def gate_lines(gate: Sequence[tuple[str, bool | None]], allowed: float) -> list[Text]:
    """What a gate for that slowdown says of packages that it does not let pass; None where it could not decide."""
    share = f"slower by more than {100 * allowed:g} %"
    told = {
        False: (f"is {share}", "bold red"),
        None: (f"may be {share}, or not: too noisy to call; measure again when nothing else runs", "yellow"),
    }
    return [Text(f"{package} {told[kept][0]}", style=told[kept][1]) for package, kept in gate if kept is not True]


def device_table(devices: Sequence[Device]) -> Table:
    """Targets, a row for each: whether they are ready, and what is there."""
    rows = []
    for device in devices:
        host = device.host
        ready = "yes" if device.ready else "no: " + "; ".join(need.what for need in device.needs)
        sets = ", ".join(host.instruction_sets) if host else ""
        rows.append(
            (
                device.how,
                f"{ready}{', emulated' if device.emulated else ''}",
                f"{device.cores} of {host.cores}" if host else "",
                quantity(host.memory_mb / 1000, "GB") if host else "",
                f"{host.cpu} ({host.architecture}{': ' if sets else ''}{sets})" if host else "",
                ", ".join(device.providers) if host else "",
            )
        )
    head = ("Device", "Ready", "Cores", "Memory", "Machine", "Runs on")
    return Table(head, rows, "Where packages can be measured", left=range(len(head)))


def need_lines(devices: Sequence[Device]) -> list[Text]:
    """A line for each kind of target: ready, or what is missing and the command that gets it."""
    lines = []
    for device in devices:
        if device.ready:
            lines.append(Text(f"{device.name}: ready", style="green"))
        for need in device.needs:
            text = Text(f"{device.name}: {need.what} is missing", style="yellow")
            lines.append(text.append(f"\n    {need.command}", style="default"))
    return lines
