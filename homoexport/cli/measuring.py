"""`homoexport bench`: packages measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson
from homoexport.errors import UserError


def bench(
    packages: Annotated[list[Path], typer.Argument(metavar="PACKAGE...", help="Package folders.")],
    device: Annotated[str | None, typer.Option(help="Target to measure on (default: cpu).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one inference (default: 1).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences of one inference (default: 1).")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of one sequence (default: 128).")] = None,
    min_seconds: Annotated[float | None, typer.Option(help="Seconds timed of each package (default: 2).")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe: its measure section is the default here, its budget is judged.")
    ] = None,
    latency_p50_ms: Annotated[float | None, typer.Option(help="Budget: median latency, milliseconds.")] = None,
    latency_p95_ms: Annotated[float | None, typer.Option(help="Budget: 95th percentile, milliseconds.")] = None,
    file_mb: Annotated[float | None, typer.Option(help="Budget: size of the ONNX file, megabytes.")] = None,
    peak_rss_mb: Annotated[float | None, typer.Option(help="Budget: peak memory of the worker, megabytes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure packages in fresh processes, in turns: latency, load time, memory, ratios.

    Each package is compared with the first. A budget is held against the last one, and a missed
    line exits with 3.
    """
    from homoexport.budget import Budget, proven
    from homoexport.pipeline import judge_result
    from homoexport.pipeline import measure as measure_with
    from homoexport.recipe import MeasureSettings, load_recipe
    from homoexport.report import measurement_table, verdict_lines

    loaded = load_recipe(recipe) if recipe else None
    settings = loaded.measure if loaded else MeasureSettings()
    flags = {
        "device": device,
        "threads": threads,
        "batch_size": batch_size,
        "length": length,
        "min_seconds": min_seconds,
    }
    settings = settings.model_copy(update={name: value for name, value in flags.items() if value is not None})
    limits = {
        "latency_p50_ms": latency_p50_ms,
        "latency_p95_ms": latency_p95_ms,
        "file_mb": file_mb,
        "peak_rss_mb": peak_rss_mb,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    for name, value in given.items():
        if value <= 0:
            raise UserError(
                f"{value:g} is not a budget", where=f"--{name.replace('_', '-')}", mend="give a positive number"
            )
    budget = (loaded.budget if loaded else Budget()).model_copy(update=given)
    with screen.measure_bar() as progress:
        measurement = measure_with(packages, settings, progress)
    verdicts = judge_result(budget, measurement["results"][-1])
    if as_json:
        screen.print_json({**measurement, "budget": [verdict.as_json() for verdict in verdicts]})
    else:
        screen.output.print(measurement_table(measurement))
        for line in verdict_lines(verdicts):
            screen.output.print(line)
    if not proven(verdicts):
        raise typer.Exit(3)
