"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.documents.artifact import RUN_MARK
from homoexport.errors import RecipeError, UserError

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, for example distill.steps=300. Repeatable."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output folder that homoexport wrote.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]
_PROVIDERS = ("cpu", "cuda", "openvino")
OutDir = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default runs/NAME-TIME.")
]
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="onnxruntime's execution provider on this machine: cpu, cuda, openvino."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one inference.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences of one inference.")]
Length = Annotated[int, typer.Option(min=2, help="Tokens of one sequence.")]

_SHARE = "or relative to the teacher's fp32 package: 4x, 25%"
LatencyP50 = Annotated[str | None, typer.Option(metavar="8ms", help=f"Budget: median latency, {_SHARE}.")]
LatencyP95 = Annotated[str | None, typer.Option(metavar="8ms", help=f"Budget: 95th percentile of latency, {_SHARE}.")]
LatencyP99 = Annotated[str | None, typer.Option(metavar="8ms", help=f"Budget: 99th percentile of latency, {_SHARE}.")]
Throughput = Annotated[
    str | None, typer.Option(metavar="200/s", help=f"Budget: sequences a second at least, {_SHARE}.")
]
Size = Annotated[str | None, typer.Option(metavar="12MB", help=f"Budget: size of the ONNX file, {_SHARE}.")]
PeakMemory = Annotated[
    str | None, typer.Option("--memory", metavar="80MB", help=f"Budget: peak memory of the process, {_SHARE}.")
]
Parameters = Annotated[str | None, typer.Option(metavar="10M", help=f"Budget: parameters, {_SHARE}.")]
TargetFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A target's recipe, as recipes/targets/laptop-core.yaml: device and budget."),
]


def budget_flags(
    latency_p50: str | None,
    latency_p95: str | None,
    latency_p99: str | None,
    throughput: str | None,
    size: str | None,
    memory: str | None,
    parameters: str | None,
) -> dict[str, str | None]:
    """The lines of a budget that were given as flags, by their names in a recipe."""
    return {
        "latency_p50_ms": latency_p50,
        "latency_p95_ms": latency_p95,
        "latency_p99_ms": latency_p99,
        "throughput_per_s": throughput,
        "file_mb": size,
        "peak_rss_mb": memory,
        "parameters": parameters,
    }


def device_of(device: str | None, provider: str | None) -> str | None:
    """The target that --device or --provider names; a provider is this machine's.

    Raises:
        UserError: both are given, or there is no such provider.
    """
    if provider is None:
        return device
    if device is not None:
        raise UserError(f"--device is {device}, too", where="--provider", hint="give one of them")
    if provider not in _PROVIDERS:
        raise UserError(f"'{provider}' is none", where="--provider", hint=f"name one of: {', '.join(_PROVIDERS)}")
    return provider


def run_folder(name: str, output: Path | None, *, resume: bool) -> Path:
    """The output folder that was named, or `runs/NAME-TIME`.

    Raises:
        UserError: a run to resume that was not named.
    """
    if resume and output is None:
        raise UserError("--resume needs to know which run", where=name, hint="name its folder with -o DIR")
    return output or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Say how work that is interrupted goes on, where something of it is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if screen.speaks() and (folder / RUN_MARK).is_file():
            told = f"what is done is in {folder}; the same command goes on with -o {folder} --resume"
            screen.errors.print(told, soft_wrap=True)
        raise


def put(tree: dict[str, Any], section: str, **values: Any) -> None:
    """Write the flags that were given into a section of a recipe's tree."""
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return
    if not isinstance(tree.setdefault(section, {}), dict):
        raise RecipeError(f"'{section}' is not a section", where="recipe", hint=f"write the keys of {section} below it")
    tree[section].update(given)
