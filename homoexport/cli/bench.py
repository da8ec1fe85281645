"""`homoexport bench`: packages measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from homoexport.cli import screen
from homoexport.cli.options import BUDGET, AsJson, Force, Provider, TargetFile, Tree, flags, on_provider, parsed
from homoexport.documents.recipe import BenchRecipe
from homoexport.errors import UserError
from homoexport.units import parse_percent

if TYPE_CHECKING:
    from homoexport.documents.measurement import Grid, Measurement


def _several(explanation: str) -> Any:
    return typer.Option(metavar="N[,N...]", help=explanation)


@flags(BenchRecipe, *BUDGET, "measure.device", "measure.text", "measure.min_seconds")
def bench(
    given: Tree,
    packages: Annotated[list[Path] | None, typer.Argument(metavar="[PACKAGE...]", help="Package folders.")] = None,
    provider: Provider = None,
    threads: Annotated[str | None, _several("Threads of one inference (default: all cores there).")] = None,
    batch_size: Annotated[str | None, _several("Sequences of one inference (default: 1).")] = None,
    length: Annotated[str | None, _several("Tokens of one sequence (default: 128).")] = None,
    streams: Annotated[str | None, _several("Also: throughput with so many callers at once.")] = None,
    rate: Annotated[str | None, _several("Also: latency with random arrivals, so many a second.")] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Also: the most arrivals a second that keep --latency-p95.")
    ] = False,
    memory_batches: Annotated[
        str | None, _several("Also: memory after batches of these sizes, one after the other, as 1,8,32,1.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe: its measure section is the default here, its budget is judged.")
    ] = None,
    target: TargetFile = None,
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

    Each package is compared with the first. A budget is held against the last one; lines that are relative to the
    teacher, against the first. Several threads, batch sizes or lengths make a grid. Exit code 3: a budget is missed,
    memory does not suffice, a package does not answer on the device as it does here, or --fail-if-slower found
    something.
    """
    allowed = None if fail_if_slower is None else parse_percent(fail_if_slower, where="--fail-if-slower")
    if schema:
        from homoexport.documents.measurement import json_schema

        screen.print_json(json_schema())
        return
    if compare is not None:
        if packages:
            raise UserError("packages are not measured here", where="--compare", hint="leave them, or --compare, out")
        _compare(*compare, allowed=allowed, as_json=as_json)
        return
    asked = parsed(BenchRecipe, on_provider(given, provider), command="bench", recipe=recipe, target=target)
    p95_ms = asked.budget.latency_p95_ms
    if find_rate and not isinstance(p95_ms, float):
        raise UserError("which p95 should be kept?", where="--find-rate", hint="give --latency-p95 in ms, too")
    extras = {
        "streams": tuple(_numbers(streams, "--streams")),
        "rates_per_s": tuple(_numbers(rate, "--rate", float)),
        "budget_p95_ms": p95_ms if find_rate else None,
        "arena_batches": tuple(_numbers(memory_batches, "--memory-batches")),
    }
    conditions = {
        "threads": _numbers(threads, "--threads") or asked.measure.threads,
        "batch_size": _numbers(batch_size, "--batch-size") or asked.measure.batch_size,
        "length": _numbers(length, "--length") or asked.measure.length,
    }
    document = _measured(packages or [], asked, extras, conditions, output=output, force=force)
    if as_json:
        screen.print_json(document.model_dump(mode="json"))
    else:
        _show(document)
        if output is not None:
            screen.output.print(f"Report: {output / 'report.md'}", soft_wrap=True)
    from homoexport.workflow.measure import is_proven

    if not is_proven(document, allowed_slowdown=allowed):
        raise typer.Exit(3)


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
    asked: BenchRecipe,
    extras: dict[str, Any],
    conditions: dict[str, Any],
    *,
    output: Path | None,
    force: bool,
) -> Measurement | Grid:
    """The measurement, kept where that was asked for."""
    from homoexport.documents.artifact import refuse_existing, staged

    if output is not None:
        refuse_existing(output, force=force, kind="measurement", inputs=list(map(str, packages)))
    screen.stage_line(f"Measuring on {asked.measure.device}")
    from homoexport.report import write_bench_report
    from homoexport.stages.measure import Extras
    from homoexport.workflow.measure import measure
    from homoexport.workflow.progress import Progress

    with screen.Bars() as bars:
        document = measure(
            packages,
            device=asked.measure.device,
            text=asked.measure.text,
            min_seconds=asked.measure.min_seconds,
            budget=asked.budget,
            extras=Extras(**extras),
            progress=Progress(on_share=bars.on_measure),
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
    from homoexport.report import change_table
    from homoexport.stages.measure import compare_results, slower_than

    changes = compare_results(read_measurement(before), read_measurement(after))
    if as_json:
        screen.print_json([change.model_dump(mode="json") for change in changes])
    else:
        screen.output.print(change_table(changes).rich())
        for remark in dict.fromkeys(remark for change in changes for remark in change.remarks):
            screen.output.print(remark, soft_wrap=True)
    if allowed is not None and any(slower_than(change, allowed) for change in changes):
        raise typer.Exit(3)
