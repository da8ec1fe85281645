"""`homoexport bench`: packages measured side by side."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, Provider, on_provider
from homoexport.errors import UserError

if TYPE_CHECKING:
    from homoexport.documents.budget import Budget
    from homoexport.documents.measurement import Grid, Measurement
    from homoexport.documents.recipe import MeasureSettings

_ARENA_BATCHES = (1, 8, 32, 1)


def bench(
    packages: Annotated[list[Path] | None, typer.Argument(metavar="[PACKAGE...]", help="Package folders.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Target to measure on, see `homoexport devices` (default: cpu).")
    ] = None,
    provider: Provider = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Threads of one inference (default: all cores there).")
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Sequences of one inference (default: 1).")
    ] = None,
    length: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Tokens of one sequence (default: 128).")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Real texts, one a line: measure with their own lengths.")
    ] = None,
    min_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds timed of each package (default: 2); up to 5 times that while a ratio is unclear."),
    ] = None,
    streams: Annotated[
        str | None, typer.Option(metavar="N[,N...]", help="Also: throughput with so many callers at once.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="R[,R...]", help="Also: latency with random arrivals, so many a second.")
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Also: the most arrivals a second that keep --latency-p95-ms.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also: memory over growing batches, and what shrinking gives back.")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe: its measure section is the default here, its budget is judged.")
    ] = None,
    latency_p50_ms: Annotated[float | None, typer.Option(help="Budget: median latency, milliseconds.")] = None,
    latency_p95_ms: Annotated[float | None, typer.Option(help="Budget: 95th percentile, milliseconds.")] = None,
    file_mb: Annotated[float | None, typer.Option(help="Budget: size of the ONNX file, megabytes.")] = None,
    peak_rss_mb: Annotated[float | None, typer.Option(help="Budget: peak memory of the worker, megabytes.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE.json AFTER.json", help="Compare two results of --json; nothing is measured."),
    ] = None,
    fail_if_slower: Annotated[
        str | None, typer.Option(metavar="5%", help="Exit with 3 where a package is proven slower by more than that.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep results, plots and a report there.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json, and end.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure packages in fresh processes, in turns: latency, load time, memory, ratios.

    Each package is compared with the first. A budget is held against the last one. Several threads, batch
    sizes or lengths make a grid. Exit code 3: a budget is missed, memory does not suffice, a package does not
    answer on the device as it does here, or --fail-if-slower found something.
    """
    from homoexport.documents.measurement import json_schema
    from homoexport.units import parse_percent

    allowed = None if fail_if_slower is None else parse_percent(fail_if_slower, where="--fail-if-slower")
    if schema:
        screen.print_json(json_schema())
        return
    if compare is not None:
        if packages:
            raise UserError("packages are not measured here", where="--compare", hint="leave them, or --compare, out")
        _compare(*compare, allowed=allowed, as_json=as_json)
        return
    limits = {
        "latency_p50_ms": latency_p50_ms,
        "latency_p95_ms": latency_p95_ms,
        "file_mb": file_mb,
        "peak_rss_mb": peak_rss_mb,
    }
    given = on_provider({} if device is None else {"measure": {"device": device}}, provider)
    target = given.get("measure", {}).get("device")
    settings, budget = _settings(recipe, limits, device=target, min_seconds=min_seconds, text=text)
    p95_ms = budget.latency_p95_ms
    if find_rate and not isinstance(p95_ms, float):
        raise UserError("which p95 should be kept?", where="--find-rate", hint="give --latency-p95-ms, too")
    wanted = {
        "streams": tuple(_numbers(streams, "--streams")),
        "rates_per_s": tuple(_numbers(rate, "--rate", float)),
        "budget_p95_ms": p95_ms if find_rate else None,
        "arena_batches": _ARENA_BATCHES if memory else (),
    }
    conditions = {
        "threads": _numbers(threads, "--threads") or [settings.threads],
        "batch_size": _numbers(batch_size, "--batch-size") or [settings.batch_size],
        "length": _numbers(length, "--length") or [settings.length],
    }
    document = _measured(packages or [], settings, wanted, conditions, budget, output=output, force=force)
    if as_json:
        screen.print_json(document.model_dump(mode="json"))
    else:
        _show(document)
    if output is not None and not as_json:
        screen.output.print(f"Report: {output / 'report.md'}", soft_wrap=True)
    from homoexport.workflow.measure import is_proven

    if not is_proven(document, allowed_slowdown=allowed):
        raise typer.Exit(3)


def _settings(
    recipe: Path | None, limits: dict[str, float | None], *, text: Path | None, **flags: Any
) -> tuple[MeasureSettings, Budget]:
    """The recipe's sections, or the defaults, with the flags over them."""
    from homoexport.documents.budget import Budget
    from homoexport.documents.recipe import MeasureSettings, load_recipe

    loaded = load_recipe(recipe) if recipe else None
    given = {name: value for name, value in limits.items() if value is not None}
    for name, value in given.items():
        if value <= 0:
            where = f"--{name.replace('_', '-')}"
            raise UserError(f"{value:g} is not a budget", where=where, hint="give a positive number")
    changes = {name: value for name, value in flags.items() if value is not None}
    if text is not None:
        changes["text"] = str(text)
    settings = (loaded.measure if loaded else MeasureSettings()).model_copy(update=changes)
    return settings, (loaded.budget if loaded else Budget()).model_copy(update=given)


def _numbers(text: str | None, flag: str, kind: type[int] | type[float] = int) -> list[Any]:
    """The numbers of `1,8,32`."""
    try:
        numbers = [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = [0]
    if any(not 0 < number < float("inf") for number in numbers):
        raise UserError(f"'{text}' is no list of positive numbers", where=flag, hint="write it as 1,8,32")
    return numbers


def _measured(
    packages: list[Path],
    settings: MeasureSettings,
    wanted: dict[str, Any],
    conditions: dict[str, list[Any]],
    budget: Budget,
    *,
    output: Path | None,
    force: bool,
) -> Measurement | Grid:
    """One measurement, or a grid of them; kept where that was asked for."""
    from homoexport.documents.artifact import refuse_existing, staged
    from homoexport.measure import Extras
    from homoexport.report import write_bench_report
    from homoexport.workflow.measure import measure

    if output is not None:
        refuse_existing(output, force=force, kind="measurement", inputs=list(map(str, packages)))
    with ExitStack() as stack:
        progress = stack.enter_context(screen.measure_bar())
        document = measure(
            packages,
            device=settings.device,
            text=settings.text,
            min_seconds=settings.min_seconds,
            budget=budget,
            extras=Extras(**wanted),
            progress=progress,
            **conditions,
        )
    if output is not None:
        with staged(output, force=force) as folder:
            write_bench_report(folder, document)
    return document


def _show(document: Measurement | Grid) -> None:
    from homoexport.documents.measurement import Grid
    from homoexport.report import grid_table, measurement_remarks, measurement_table, verdict_lines

    if isinstance(document, Grid):
        screen.output.print(grid_table(document).rich())
    elif document.results:
        screen.output.print(measurement_table(document).rich())
    for cell in document.cells:
        where = f"{cell.threads} threads, {cell.batch_size} x {cell.length}: " if isinstance(document, Grid) else ""
        for line in verdict_lines(cell.budget):
            screen.output.print(Text(where).append(line))
    for remark in measurement_remarks(document):
        screen.output.print(remark, soft_wrap=True)


def _compare(before: Path, after: Path, *, allowed: float | None, as_json: bool) -> None:
    from homoexport.documents.measurement import read_measurement
    from homoexport.measure import compare_results, slower_than
    from homoexport.report import change_table

    changes = compare_results(read_measurement(before), read_measurement(after))
    if as_json:
        screen.print_json([change.model_dump(mode="json") for change in changes])
    else:
        screen.output.print(change_table(changes).rich())
        for remark in dict.fromkeys(remark for change in changes for remark in change.remarks):
            screen.output.print(remark, soft_wrap=True)
    if allowed is not None and any(slower_than(change, allowed) for change in changes):
        raise typer.Exit(3)
