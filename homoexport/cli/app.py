"""The `homoexport` command: a list of commands, each of whose modules is imported when it is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from homoexport.limits import LIMITS, change_limits


class _Place(NamedTuple):
    function: str  # MODULE.FUNCTION, below homoexport.cli
    help: str  # the first line of its docstring


_COMMANDS = {
    "init": _Place("init.init", "Write a recipe with comments, from a teacher, text or labels, a device and a budget."),
    "run": _Place("run.run", "Do the whole journey: plan, distil, export, quantize, measure, report."),
    "plan": _Place(
        "plan.plan", "Say which student shapes keep a budget on a target, and which of them keeps most of the teacher."
    ),
    "distill": _Place(
        "distill.distill", "Distil a slim student out of a teacher by HomoDistil, or several students in one run."
    ),
    "trim": _Place(
        "trim.trim",
        "Leave out the words that a text does not need: a smaller model of the same widths, without training.",
    ),
    "export": _Place(
        "export.export",
        "Export a model to an ONNX package: the fastest candidate graph that answers as the model does.",
    ),
    "finetune": _Place(
        "finetune.finetune", "Fine-tune a model on a task, and judge it: a student, or a teacher for one."
    ),
    "bench": _Place(
        "bench.bench", "Measure packages in fresh processes, in turns: latency, load time, memory, ratios."
    ),
    "gate": _Place(
        "gate.gate", "Hold a package against the one in use: is it slower, bigger or worse by more than is allowed?"
    ),
    "devices": _Place(
        "devices.devices",
        "List where packages can be measured, and what is there: cores, instruction sets, memory, providers.",
    ),
    "doctor": _Place("devices.doctor", "Say what is missing for which kind of target, and the command that gets it."),
    "eval": _Place(
        "evaluate.evaluate",
        "Judge packages (in the runtime that ships) and torch models on the same data, with 95 % intervals.",
    ),
    "embed": _Place(
        "package.embed", "Turn texts into vectors, [texts, width] float32: lines on stdin, or a column of files."
    ),
    "score": _Place(
        "package.score", "Write what a reranker or classifier says of pairs or texts, [texts, labels] float32."
    ),
    "verify": _Place("package.verify", "Check every file of an artifact against its manifest."),
    "report": _Place(
        "run.report",
        "Write a run's report again, report.md with its plots and report.html, or lay several runs side by side.",
    ),
}
_LOOK: dict[str, Any] = {"add_completion": False, "rich_markup_mode": "markdown"}


def command_names() -> tuple[str, ...]:
    """Names of the commands, in the order of the help."""
    return tuple(_COMMANDS)


def load_command(name: str) -> Any:
    """A command with its options; imports its module."""
    module, _, function = _COMMANDS[name].function.partition(".")
    alone = typer.Typer(**_LOOK)
    alone.command(name)(getattr(import_module(f"homoexport.cli.{module}"), function))
    command = typer.main.get_command(alone)
    for shared in typer.main.get_command(_shared).params:
        shared.expose_value = False  # its callback has done all
        command.params.append(shared)
    return command


def _set_loudness(level: str) -> Callable[[bool], None]:
    """What a flag does, where it is given."""

    def set_it(given: bool) -> None:
        from homoexport.cli import screen

        if given:
            screen.errors.loudness = screen.Loudness[level]

    return set_it


_shared = typer.Typer(add_completion=False)


@_shared.command()
def _of_all_commands(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing of work in progress.", callback=_set_loudness("QUIET"))
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Say more of it: every term of the loss, the time of each line, tracebacks.",
            callback=_set_loudness("VERBOSE"),
        ),
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help=f"Change a limit on what files may hold: {', '.join(LIMITS)}. Repeatable.",
            callback=lambda given: change_limits(given or []),
        ),
    ] = None,
) -> None: ...


class _Commands(TyperGroup):
    """Lists the commands without importing them; the one that is called is loaded."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=place.help) for name, place in _COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        if name is None:
            return None, None, rest
        command = load_command(name)
        from homoexport.cli.options import ALIASES

        words = [word.partition("=") for word in rest]
        return name, command, [f"{ALIASES.get(flag, flag)}{sign}{value}" for flag, sign, value in words]


app = typer.Typer(
    cls=_Commands,
    name="homoexport",
    help="Distil a slim Transformer encoder to a deployment budget, export it to ONNX, and prove it on the target.",
    pretty_exceptions_enable=False,
    **(_LOOK | {"add_completion": True}),
)


def _version(asked: bool) -> None:
    if asked:
        from homoexport.host import library_versions

        typer.echo(f"homoexport {library_versions().get('homoexport', 'unknown')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...
