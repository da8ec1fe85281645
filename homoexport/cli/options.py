"""Options made from the fields of recipes, and those that several commands share.

A command names the fields that it offers, by their place in the recipe:

    @flags(Recipe, "teacher", "distill.steps", Flag("student.num_hidden_layers", "--layers"), *BUDGET)
    def distill(given: Tree, recipe: RecipeFile = None, force: Force = False) -> None:

Each becomes an option: its help is the field's description, its type, choices and bounds are the field's. What the
user gave arrives as `given`, a recipe's tree of those values alone, to be laid over a recipe file (`laid_over`).
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import update_wrapper
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from homoexport.choices import RuntimeChoice
from homoexport.cli import screen
from homoexport.documents.artifact import RUN_MARK
from homoexport.documents.recipe import Tree, parse_as, read_recipe_tree, section_of, with_target
from homoexport.errors import RecipeError, UserError

_Kind = TypeVar("_Kind", bound=BaseModel)

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe key, for example distill.steps=300. Repeatable."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output folder that homoexport wrote.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines.")]
OutDir = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default runs/NAME-TIME.")
]
RecipeFile = Annotated[
    Path | None, typer.Argument(metavar="[RECIPE]", help="A run's YAML recipe; the flags below override it.")
]
TargetFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A target's recipe, as recipes/targets/laptop-core.yaml: device and budget."),
]
Provider = Annotated[
    Literal["cpu", "cuda", "openvino"] | None, typer.Option(help="onnxruntime's execution provider on this machine.")
]
TextColumn = Annotated[
    str | None,
    typer.Option(help="Column of the texts (default: text; of sts: sentence1; of search: query; of tagging: tokens)."),
]
PairColumn = Annotated[
    str | None, typer.Option(help="Column of the second texts (of sts: sentence2, of search: document).")
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of labels or scores (of sts and scores: score, of classification: label, of tagging: ner_tags)."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="GLUE's files, a folder a task (CoLA/dev.tsv); without it the hub is asked."),
]
RunsIn = Annotated[
    RuntimeChoice,
    typer.Option(
        "--runtime",
        help="What packages run in; auto: what each was the fastest in where it was exported, of what is installed.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one inference.")]


@dataclass(frozen=True)
class Flag:
    """A field of a recipe that a command offers."""

    field: str  # its place in the recipe, such as `distill.steps`
    option: str = ""  # where it is not called like the field
    help: str = ""  # where the field's description is not enough
    repeatable: bool = False  # for a list
    as_text: bool = False  # for a number that may be written as 12k

    @property
    def parameter(self) -> str:
        """The Python parameter that holds its value."""
        return self.field.replace(".", "__")

    @property
    def called(self) -> str:
        """What the command line calls it."""
        return self.option or f"--{self.field.rsplit('.', 1)[-1].replace('_', '-')}"


# The one grammar of budgets.
BUDGET = (
    Flag("budget.latency_p50_ms", "--latency-p50"),
    Flag("budget.latency_p95_ms", "--latency-p95"),
    Flag("budget.latency_p99_ms", "--latency-p99"),
    Flag("budget.throughput_per_s", "--throughput"),
    Flag("budget.file_mb", "--size"),
    Flag("budget.download_mb", "--download"),
    Flag("budget.peak_rss_mb", "--memory"),
    Flag("budget.parameters", "--parameters"),
)
VOCAB_SIZE = Flag("student.vocab_size", as_text=True)
# Text files with the columns that are read; `gathered` makes them sources.
DATA = Flag("text.sources.files", "--data", repeatable=True)
COLUMNS = (
    Flag("text.sources.column", "--text-column"),
    Flag("text.sources.pair_column"),
    Flag("text.sources.label_column"),
)
_OF_COLUMNS = {"column": "--text-column", "pair_column": "--pair-column", "label_column": "--label-column"}
_AS_FLAGS = {f"'{key}'": flag for key, flag in (_OF_COLUMNS | {"id_column": "--id-column"}).items()}
# Other words for flags, which no help names: keys of recipes, and what flags were called before.
ALIASES = {
    "--column": "--text-column",
    "--num-attention-heads": "--heads",
    "--num-hidden-layers": "--layers",
    "--seconds": "--min-seconds",
    **{f"--{flag.field.removeprefix('budget.').replace('_', '-')}": flag.option for flag in BUDGET},
}


def flags(kind: type[BaseModel], *offered: str | Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options for fields of a kind of recipe.

    The command's parameter `given` gets the values that the user gave, as a tree; the options stand at its place in
    the help. All other parameters are options of the command's own.
    """
    chosen = [Flag(each) if isinstance(each, str) else each for each in offered]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(function).parameters.values():
            if own.name == "given":
                parameters += [_parameter(flag, _field_at(kind, flag.field)) for flag in chosen]
            else:
                parameters.append(own.replace(annotation=hints[own.name], kind=inspect.Parameter.KEYWORD_ONLY))

        def command(**values: Any) -> None:
            given: Tree = {}
            called: dict[str, str] = {}  # the flags that were given, by their fields, and these' names alone
            for flag in chosen:
                value = values.pop(flag.parameter)
                if value is not None and value != []:
                    _write(given, flag.field, value)
                    called[flag.field] = called[flag.field.rsplit(".", 1)[-1]] = flag.called
            for assignment in values.get("overrides") or ():
                called.pop(assignment.partition("=")[0], None)
            try:
                function(given=given, **values)
            except RecipeError as error:
                field = ".".join(part for part in error.key.split(".") if not part.isdecimal())
                raise (error.of_flag(called[field]) if field in called else error) from None

        update_wrapper(command, function)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate


def _field_at(kind: type[BaseModel], place: str) -> FieldInfo:
    """The field at a place such as `student.hidden_size`; of a list of sections, the field of each of them."""
    *parents, last = place.split(".")
    section: Any = kind
    for part in parents:
        section = section_of(section.model_fields[part].annotation)
    field: FieldInfo = section.model_fields[last]
    return field


def _parameter(flag: Flag, field: FieldInfo) -> inspect.Parameter:
    """A field as an optional parameter of a command."""
    assert field.description or flag.help, f"{flag.field} has no description"
    plain = list[str] if flag.repeatable else str if flag.as_text else _plain(field.annotation)
    rules: list[Any] = field.metadata if plain in (int, float) else []
    settings = typer.Option(
        flag.called,
        help=flag.help or _with_default(str(field.description), field),
        metavar=field.examples[0] if field.examples else None,
        min=next((cast(float, rule.ge) for rule in rules if isinstance(rule, Ge)), None),
        max=next((cast(float, rule.le) for rule in rules if isinstance(rule, Le)), None),
    )
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, settings]
    )


def _plain(annotation: Any) -> Any:
    """What the command line takes for a field: a plain type, a list of one, or the choices."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [_plain(kind) for kind in get_args(annotation) if kind is not type(None)]
        if all(get_origin(kind) is Literal for kind in kinds):
            return Literal[tuple(choice for kind in kinds for choice in get_args(kind))]
        return kinds[0] if len(kinds) == 1 else str
    if get_origin(annotation) is tuple:
        # a type made at run time, for typer, where mypy wants one that it can read
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    return annotation


def _with_default(description: str, field: FieldInfo) -> str:
    """A description with the default, where that says more than that the option may be left out."""
    if field.is_required() or not isinstance(field.default, int | float | str) or field.default is False:
        return description
    return f"{description.removesuffix('.')} (default: {field.default})."


def _write(tree: Tree, place: str, value: Any) -> None:
    *parents, last = place.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[last] = value


def laid_over(
    given: Tree, recipe: Path | None = None, target: Path | None = None, *, without_recipe: Tree | None = None
) -> Tree:
    """The flags over the target's recipe over the recipe's file, or over `without_recipe` where none is named.

    Raises:
        RecipeError: a file that is missing or not YAML; a flag for a section that is not one.
        UserError: columns without files.
    """
    tree = read_recipe_tree(recipe) if recipe else (without_recipe or {})
    if target is not None:
        tree = with_target(tree, read_recipe_tree(target, is_target=True))
    return _merged(tree, gathered(given))


def parsed(
    kind: type[_Kind],
    given: Tree,
    *,
    command: str,
    recipe: Path | None = None,
    target: Path | None = None,
    overrides: Sequence[str] | None = None,
    without_recipe: Tree | None = None,
) -> _Kind:
    """The recipe of a kind that a command was asked for: --set over the flags over the target over the file.

    Raises:
        RecipeError, UserError: as `laid_over` and `parse_as` do.
    """
    tree = laid_over(given, recipe, target, without_recipe=without_recipe)
    return parse_as(kind, tree, where=str(recipe or command), overrides=overrides or ())


def _merged(tree: Tree, given: Tree) -> Tree:
    merged = dict(tree)
    for key, value in given.items():
        mine = tree.get(key)
        if isinstance(value, dict):
            if not isinstance(mine, dict | None):
                hint = f"write the keys of {key} below it"
                raise RecipeError(f"'{key}' is not a section", where="recipe", hint=hint)
            value = _merged(mine or {}, value)
        merged[key] = value
    return merged


def gathered(given: Tree) -> Tree:
    """Flags in which text files and their columns are sources.

    Raises:
        UserError: columns without files.
    """
    text = given.get("text", {})
    if "sources" not in text:
        return given
    columns = dict(text["sources"])
    files = columns.pop("files", None)
    if files is None:
        flag = _OF_COLUMNS[next(iter(columns))]
        raise UserError("is for --data", where=flag, hint="put the column into the recipe")
    return given | {"text": text | {"sources": [{"files": glob, **columns} for glob in files]}}


@contextmanager
def as_flags(given: Tree | None = None, keys: Mapping[str, str] | None = None) -> Iterator[None]:
    """Call columns in hints what the command line calls them, where that named the text (None: always); and so keys of
    recipes, of those that the command has flags for."""
    try:
        yield
    except UserError as error:
        is_ours = given is None or "sources" in given.get("text", {})
        raise (error.renamed({**_AS_FLAGS, **(keys or {})}) if is_ours else error) from None


def on_provider(given: Tree, provider: str | None) -> Tree:
    """Flags in which --provider is the device: this machine with that provider.

    Raises:
        UserError: a device is given, too.
    """
    if provider is None:
        return given
    measure = given.get("measure", {})
    if "device" in measure:
        raise UserError(f"--device is {measure['device']}, too", where="--provider", hint="give one of them")
    return given | {"measure": measure | {"device": provider}}


def name_of(model: str) -> str:
    """What a model is called: the name of its folder, or the last part of its name on the hub."""
    return Path(model).resolve().name if Path(model).is_dir() else model.rstrip("/").rsplit("/", 1)[-1]


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
    """Say of work that is stopped what is kept, and the command that goes on."""
    before = _mark_of(folder)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        is_kept = (folder / RUN_MARK).is_file() and ("--resume" in sys.argv or _mark_of(folder) != before)
        told = f"what is done is in {folder}; this goes on: {_command_to_resume(folder)}"
        if not is_kept:
            told = f"{folder}: nothing was done yet that could be kept"
        screen.say(told)
        raise


def _mark_of(folder: Path) -> int | None:
    """What tells a run's folder from the one that it replaced."""
    mark = folder / RUN_MARK
    return mark.stat().st_ino if mark.is_file() else None


def _command_to_resume(folder: Path) -> str:
    words = [word for word in sys.argv[1:] if word not in ("--force", "--resume")]
    is_named = any(word.startswith(("-o", "--output")) for word in words)
    launcher = "accelerate launch ... -m " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    return f"{launcher}homoexport {shlex.join([*words, *([] if is_named else ['-o', str(folder)]), '--resume'])}"
