"""`homoexport bench`: packages measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from homoexport.cli import screen
from homoexport.cli.options import BUDGET, AsJson, Force, Provider, RunsIn, TargetFile, flags, on_provider, parsed
from homoexport.documents.budget import Limit
from homoexport.documents.layout import HTML_REPORT
from homoexport.documents.output import refuse_existing, staged
from homoexport.documents.recipe import BenchRecipe, Tree, looked_for
from homoexport.errors import UserError
from homoexport.units import parse_percent

if TYPE_CHECKING:
    from homoexport.documents.measurement import Grid, Measurement
    from homoexport.report.table import Table
    from homoexport.stages.measure import Extras


def _several(explanation: str) -> Any:
    return typer.Option(metavar="N[,N...]", help=explanation)


Packages = Annotated[list[Path] | None, typer.Argument(metavar="[PACKAGE...]", help="Package folders.")]
FindRate = Annotated[
    bool, typer.Option("--find-rate", help="Also: the most arrivals a second that keep --latency-p95.")
]
MemoryBatches = Annotated[
    str | None, _several("Also: memory after batches of these sizes, one after the other, as 1,8,32,1.")
]
RecipeFile = Annotated[
    Path | None, typer.Option(help="A recipe: its measure section is the default here, its budget is judged.")
]
Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="BEFORE.json AFTER.json", help="Compare two results of --json; nothing is measured."),
]
FailIfSlower = Annotated[
    str | None, typer.Option(metavar="5%", help="Exit with 3 unless no package is slower by more than that, as proven.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep results, plots and a report there.")
]
Schema = Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json, and end.")]


@flags(BenchRecipe, *BUDGET, "measure.device", "measure.text", "measure.min_seconds")
def bench(
    given: Tree,
    packages: Packages = None,
    provider: Provider = None,
    threads: Annotated[str | None, _several("Threads of one inference (default: all cores there).")] = None,
    batch_size: Annotated[str | None, _several("Sequences of one inference (default: 1).")] = None,
    length: Annotated[str | None, _several("Tokens of one sequence (default: 128).")] = None,
    runtime: RunsIn = "auto",
    streams: Annotated[str | None, _several("Also: throughput with so many callers at once.")] = None,
    rate: Annotated[str | None, _several("Also: latency with random arrivals, so many a second.")] = None,
    find_rate: FindRate = False,
    memory_batches: MemoryBatches = None,
    recipe: RecipeFile = None,
    target: TargetFile = None,
    compare: Compare = None,
    fail_if_slower: FailIfSlower = None,
    output: Output = None,
    schema: Schema = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure packages in fresh processes, in turns: latency, load time, memory, ratios.

    Each package is compared with the first. A budget is held against the last one; lines that are relative to the
    teacher, against the first. Several threads, batch sizes or lengths make a grid. Exit code 3: a budget is missed or
    too noisy to call, memory does not suffice, a package answers otherwise on the device than here, or --fail-if-slower
    found something or could not decide.
    """
    allowed = None if fail_if_slower is None else parse_percent(fail_if_slower, where="--fail-if-slower")
    if schema:
        _print_schema()
        return
    if compare is not None:
        _compare(*compare, packages=packages, allowed=allowed, as_json=as_json)
        return
    asked = parsed(BenchRecipe, on_provider(given, provider), command="bench", recipe=recipe, target=target)
    if find_rate and not isinstance(asked.budget.latency_p95_ms, float):
        raise UserError("which p95 should be kept?", where="--find-rate", hint="give --latency-p95 in ms, too")
    if allowed is not None:
        _refuse_no_pace(packages or [], asked.measure.device)
    extras = _extras(streams, rate, memory_batches, p95_ms=asked.budget.latency_p95_ms if find_rate else None)
    if output is not None:
        refuse_existing(output, force=force, kind="measurement", inputs=list(map(str, packages or [])))
    screen.stage_line(f"Measuring on {asked.measure.device}")
    from homoexport.workflow.measure import is_proven, measure
    from homoexport.workflow.progress import Progress

    with looked_for(*packages or (), asked, recipe=recipe), screen.Bars() as bars:
        document = measure(
            packages or [],
            device=asked.measure.device,
            threads=_numbers(threads, "--threads") or asked.measure.threads,
            batch_size=_numbers(batch_size, "--batch-size") or asked.measure.batch_size,
            length=_numbers(length, "--length") or asked.measure.length,
            text=asked.measure.text,
            runtime=runtime,
            min_seconds=asked.measure.min_seconds,
            budget=asked.budget,
            extras=extras,
            progress=Progress(on_share=bars.on_measure),
        )
    _keep_and_show(document, output, force=force, as_json=as_json, allowed=allowed)
    if not is_proven(document, allowed_slowdown=allowed):
        raise typer.Exit(3)


def _refuse_no_pace(packages: list[Path], device: str) -> None:
    """A gate for a slowdown needs a package to compare with, and times that are the device's own."""
    from homoexport.stages.measure import find_target

    flag = "--fail-if-slower"
    if len(packages) == 1:
        raise UserError("one package is measured", where=flag, hint="name the one that is in use first")
    if find_target(device).emulated:
        what = f"the times of {device} are an emulator's and say nothing of the device"
        raise UserError(what, where=flag, hint="count instructions with `homoexport gate`, or measure on a real one")


def _print_schema() -> None:
    from homoexport.documents.measurement import json_schema

    screen.print_json(json_schema())


def _extras(streams: str | None, rate: str | None, memory_batches: str | None, *, p95_ms: Limit) -> Extras:
    from homoexport.stages.measure import Extras

    assert not isinstance(p95_ms, str)
    return Extras(
        streams=tuple(_numbers(streams, "--streams")),
        rates_per_s=tuple(_numbers(rate, "--rate", float)),
        budget_p95_ms=p95_ms,
        arena_batches=tuple(_numbers(memory_batches, "--memory-batches")),
    )


def _numbers(text: str | None, flag: str, kind: type[int] | type[float] = int) -> list[Any]:
    """The numbers of `1,8,32`."""
    try:
        numbers = [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = [0]
    if any(not 0 < number < float("inf") for number in numbers):
        raise UserError(f"'{text}' is no list of positive numbers", where=flag, hint="write it as 1,8,32")
    return numbers


def _keep_and_show(
    document: Measurement | Grid, output: Path | None, *, force: bool, as_json: bool, allowed: float | None
) -> None:
    from homoexport.documents.measurement import Grid
    from homoexport.report import (
        gate_lines,
        grid_table,
        measurement_remarks,
        measurement_table,
        verdict_lines,
        wording,
        write_bench_report,
    )
    from homoexport.stages.measure import keeps_pace

    if output is not None:
        with staged(output, force=force) as folder:
            write_bench_report(folder, document)
    told: list[str | Text | Table] = []
    if isinstance(document, Grid):
        told.append(grid_table(document))
    elif document.results:
        told.append(measurement_table(document))
    for cell in document.cells:
        where = f"{wording.conditions(cell)}: " if isinstance(document, Grid) else ""
        told += [Text(where).append(line) for line in verdict_lines(cell.budget)]
        if allowed is not None:
            gate = [(line.package, keeps_pace(line, allowed)) for line in cell.comparisons]
            told += [Text(where).append(line) for line in gate_lines(gate, allowed)]
    told += measurement_remarks(document)
    if output is not None:
        told.append(f"Report: {output / HTML_REPORT}")
    screen.show(document, *told, as_json=as_json)


def _compare(before: Path, after: Path, *, packages: list[Path] | None, allowed: float | None, as_json: bool) -> None:
    if packages:
        raise UserError("packages are not measured here", where="--compare", hint="leave them, or --compare, out")
    from homoexport.documents.measurement import read_measurement
    from homoexport.report import change_table, gate_lines
    from homoexport.stages.measure import compare_results, keeps_pace

    changes = compare_results(read_measurement(before), read_measurement(after))
    remarks = dict.fromkeys(remark for change in changes for remark in change.remarks)
    gate = [] if allowed is None else [(change.package, keeps_pace(change, allowed)) for change in changes]
    told: list[str | Text] = [*remarks, *([] if allowed is None else gate_lines(gate, allowed))]
    screen.show(changes, change_table(changes), *told, as_json=as_json)
    if not all(kept for _, kept in gate):
        raise typer.Exit(3)
