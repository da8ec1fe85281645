"""`homoexport plan`: what a budget can afford on a target, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.cli.options import (
    AsJson,
    Force,
    LatencyP50,
    LatencyP95,
    LatencyP99,
    Overrides,
    Parameters,
    PeakMemory,
    Size,
    TargetFile,
    Throughput,
    budget_flags,
    put,
)
from homoexport.documents.recipe import PlanRecipe, parse_as, read_recipe_tree, with_target


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A run's recipe; the flags below override it.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Hub name, folder, or package:DISTRIBUTION/PATH.")] = None,
    latency_p50: LatencyP50 = None,
    latency_p95: LatencyP95 = None,
    latency_p99: LatencyP99 = None,
    throughput: Throughput = None,
    size: Size = None,
    memory: PeakMemory = None,
    parameters: Parameters = None,
    device: Annotated[
        str | None,
        typer.Option(help="Target that it is for, see `homoexport devices` (default: cpu)."),
    ] = None,
    target: TargetFile = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one inference (default: all cores).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Sequences of one inference (default: 1).")] = None,
    length: Annotated[int | None, typer.Option(min=2, help="Tokens of one sequence (default: 128).")] = None,
    quantize: Annotated[
        str | None, typer.Option(help="How students will be exported: auto, none, int8, int8-static, fp16.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Glob of text to sum the teacher's sensitivity over (default: sentences of our own)."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what an earlier plan has measured on this target.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Keep the plan, its report and a plot there.")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Say which student shapes keep a budget on a target, and which of them keeps most of the teacher.

    Nothing is trained: small models with random weights are measured on the target, whole ones are predicted from
    them, and the choice is measured whole. Takes some minutes the first time, and seconds when it is asked again. A
    budget that no student keeps is refused, with what the smallest one needs (exit code 2).

    Example: homoexport plan --teacher MODEL --latency-p95 8ms --size 12MB --memory 120MB --threads 1
    """
    from homoexport.documents.artifact import refuse_existing
    from homoexport.workflow.plan import plan as make

    tree: dict[str, Any] = read_recipe_tree(recipe) if recipe else {}
    if target is not None:
        tree = with_target(tree, read_recipe_tree(target))
    if teacher is not None:
        tree["teacher"] = teacher
    put(tree, "measure", device=device, threads=threads, batch_size=batch_size, length=length)
    put(tree, "export", quantize=quantize)
    if data:
        put(tree, "text", sources=[{"files": glob} for glob in data])
    put(
        tree,
        "budget",
        **budget_flags(latency_p50, latency_p95, latency_p99, throughput, size, memory, parameters),
    )
    asked = parse_as(PlanRecipe, PlanRecipe.part_of(tree), where=str(recipe or "plan"), overrides=overrides or ())
    if output is not None:
        refuse_existing(output, force=force, kind="plan", inputs=[asked.teacher])
    with screen.plan_bar() as progress:
        found = make(
            asked.teacher,
            budget=asked.budget,
            measure=asked.measure,
            export=asked.export,
            distill=asked.distill,
            text=asked.text,
            fresh=fresh,
            progress=progress,
        )
    from homoexport.report import plan_lines, plan_table, write_plan_report

    if output is not None:
        write_plan_report(output, found, force=force)
    if as_json:
        screen.print_json(found.model_dump(mode="json"))
        return
    screen.output.print(plan_table(found))
    for line in plan_lines(found):
        screen.output.print(line, soft_wrap=True)
    if output is not None:
        screen.output.print(f"Report: {output / 'report.md'}", soft_wrap=True)
