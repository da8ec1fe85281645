"""Recipes out of YAML and `a.b=value` overrides; mistakes are told in one line."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from homoexport.documents.document import first_fault
from homoexport.documents.recipe.paths import looked_for, resolved
from homoexport.documents.recipe.run import Recipe, RecipePart, Tree
from homoexport.errors import RecipeError, first_line, refusing
from homoexport.limits import limit, raise_hint

SHIPPED = Path(__file__).parents[2] / "recipes"

_DEEPEST, _MOST_NODES, _BEYOND = 50, 100_000, 10**100  # of a recipe's tree, and of its whole numbers

# What devices in files may say: a kind, a processor's name, and options that are figures or words, never a path.
_OPTION = r"[\w-]+|(threads|memory|quota|backend|isolation)=[\w.]+"
_PLAIN_DEVICE = re.compile(rf"(?!ssh:)\w+(:({_OPTION})(,({_OPTION}))*)?", re.ASCII)
_LOGIN = re.compile(r"ssh://[\w.@:-]+", re.ASCII)

_Place: TypeAlias = "tuple[int | str, ...]"
_UNKNOWN, _MISSING = "extra_forbidden", "missing"  # pydantic's words for faults of keys

_Kind = TypeVar("_Kind", bound=BaseModel)


def section_of(annotation: object) -> type[BaseModel] | None:
    """The section that a field holds, alone, optional or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(section_of, get_args(annotation))), None)


def _fields_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the section at `location` of a kind of recipe."""
    section = kind
    for part in location:
        if part in section.model_fields:  # else a place in a list, or a name that the user gave
            section = section_of(section.model_fields[str(part)].annotation) or kind
    return list(section.model_fields)


def _explain(error: ValidationError, kind: type[BaseModel], where: str) -> RecipeError:
    """The first mistake of a recipe, in one line; of its keys, the first that is unknown and all that are missing."""
    faults = error.errors()
    key, given = _dotted(faults[0]["loc"]), faults[0]["input"]
    if faults[0]["type"] in (_UNKNOWN, _MISSING):
        unknown = next((fault["loc"] for fault in faults if fault["type"] == _UNKNOWN), None)
        return _of_keys(unknown, [fault["loc"] for fault in faults if fault["type"] == _MISSING], kind, where)
    message = first_fault(error).removeprefix(f"'{key}': ")
    is_told = not key or isinstance(given, dict | list | tuple | BaseModel) or message.startswith(repr(given))
    return RecipeError(message if is_told else f"{message} (given: {given!r})", where=where, key=key)


def _of_keys(unknown: _Place | None, missing: Sequence[_Place], kind: type[BaseModel], where: str) -> RecipeError:
    """That a key is unknown, with the nearest known one, and that others are missing."""
    told, mends, meant = [], [], None
    if unknown is not None:
        known = _fields_at(kind, unknown[:-1])
        near = difflib.get_close_matches(str(unknown[-1]), known, n=1, cutoff=0.5)
        meant = (*unknown[:-1], *near)
        told.append(f"unknown key '{_dotted(unknown)}'")
        mends.append(f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}")
    if missing:
        names = ", ".join(f"'{_dotted(place)}'" for place in missing)
        told.append(f"{names} {'is' if len(missing) == 1 else 'are'} missing")
    if any(place != meant for place in missing):
        mends.append("add what is missing, or give it with --set")
    return RecipeError(", and ".join(told), where=where, hint="; ".join(mends))


def _dotted(place: _Place) -> str:
    return ".".join(map(str, place))


def _apply(tree: Tree, assignment: str) -> None:
    """Write one `a.b.c=value` into a nested dict; the value is YAML."""
    path, separator, value = assignment.partition("=")
    if not separator or not path:
        raise RecipeError(f"'{assignment}' is not KEY=VALUE", where="--set", hint="write --set distill.steps=300")
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, path, create=True)
    parsed = _parsed_yaml(value, where=f"--set {path}", what=f"'{value}' is not a YAML value")
    if isinstance(node, list):
        _child(node, last, path, create=False)
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, path: str, *, create: bool) -> Any:
    if isinstance(node, list):
        if not (part.isascii() and part.isdecimal() and len(part) < 9 and int(part) < len(node)):
            raise RecipeError(f"'{part}' is not an index of a list of {len(node)}", where=f"--set {path}")
        return node[int(part)]
    if create and node.get(part) is None:
        node[part] = {}
    child = node.get(part)
    if not isinstance(child, dict | list):
        raise RecipeError(f"'{part}' holds a value, not a section", where=f"--set {path}")
    return child


def parse_as(kind: type[_Kind], tree: Tree, *, where: str, overrides: Sequence[str] = ()) -> _Kind:
    """A recipe of a kind from a nested dict and `a.b=value` overrides.

    A kind that is a part of a run's recipe takes its sections out of a whole one.

    Raises:
        RecipeError: unknown key (with the nearest known one), missing key, or a bad value.
    """
    if issubclass(kind, Recipe | RecipePart) and "finetune" in tree and "teacher" not in tree:
        hint = "give it to `homoexport finetune MODEL --task TASK --recipe FILE`"
        raise RecipeError("is a recipe for fine-tuning", where=where, hint=hint)
    tree = copy.deepcopy(kind.part_of(tree) if issubclass(kind, RecipePart) else tree)
    for assignment in overrides:
        _apply(tree, assignment)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        told = _explain(error, kind, where)
        given = {assignment.partition("=")[0] for assignment in overrides}
        raise (told.of_flag(f"--set {told.key}") if told.key in given else told) from None


def with_target(tree: Tree, target: Tree) -> Tree:
    """A recipe's tree for a target: its budget in place of the recipe's own, its other values over the recipe's."""
    merged = dict(tree)
    for key, value in target.items():
        mine = merged.get(key)
        if key != "budget" and isinstance(value, dict) and isinstance(mine, dict):
            value = {**mine, **value}
        merged[key] = value
    return merged


def _parsed_yaml(text: str, *, where: str, what: str) -> Any:
    """What YAML holds: plain values alone, no more of them than a recipe may need, whatever its aliases repeat."""
    with refusing(RecipeError, what, where=where):
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or first_line(error)
            place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
            hint = "look for an odd indent, a tab, or a quote or bracket without its other half, there or just before"
            raise RecipeError(f"{what} ({problem})", where=f"{where}{place}", hint=hint) from None
    waiting, seen = [(tree, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        parts = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        if depth > _DEEPEST or seen + len(waiting) + len(parts) > _MOST_NODES:
            raise RecipeError("is nested too deeply, or its aliases (*) repeat too much", where=where)
        if (
            isinstance(node, dict)
            and (odd := next((key for key in node if not isinstance(key, str)), None)) is not None
        ):
            raise RecipeError(f"the key {odd!r} is no text", where=where, hint="write it in quotes")
        if isinstance(node, int) and abs(node) >= _BEYOND:
            raise RecipeError("holds a whole number of more than 100 digits", where=where)
        if not isinstance(node, dict | list | str | int | float | None):
            raise RecipeError(
                f"holds a {type(node).__name__}, which no key takes", where=where, hint="write it in quotes"
            )
        waiting += [(part, depth + 1) for part in parts]
    return tree


def read_recipe_tree(path: Path, *, is_target: bool = False) -> Tree:
    """A recipe's YAML as a nested dict, not yet checked; a recipe may be a stranger's, and does nothing but compute.

    A bare name such as `quickstart` is that of a recipe which comes with homoexport, unless a file is called so.
    Paths lead through the recipe's folder where it has what they name; all others are the working directory's.

    Args:
        is_target: a target's recipe, which may name a machine to log in to.

    Raises:
        RecipeError: no such file, too large, not a YAML mapping, or one that starts programs or sends things elsewhere.
    """
    where = str(path)
    with refusing(RecipeError, "cannot be read", where=where, hint="name a YAML file"):
        shipped = SHIPPED / f"{path}.yaml"
        if not path.exists() and path.name == str(path) and shipped.is_file():
            path = shipped
        if not path.is_file():
            names = ", ".join(sorted(each.stem for each in SHIPPED.glob("*.yaml")))
            with looked_for(path):
                raise RecipeError("no such recipe", where=where, hint=f"name a YAML file, or one of: {names}")
        if path.stat().st_size > limit("recipe_kb") * 1000:
            raise RecipeError(f"is larger than {limit('recipe_kb')} kB", where=where, hint=raise_hint("recipe_kb"))
        text = path.read_text(encoding="utf-8")
    tree = _parsed_yaml(text, where=where, what="is not YAML")
    if not isinstance(tree, dict):
        raise RecipeError("is not a YAML mapping", where=where, hint="see recipes/quickstart.yaml")
    _refuse_reach(tree, where, is_target=is_target)
    return resolved(tree, path.parent)


def _refuse_reach(tree: Tree, where: str, *, is_target: bool) -> None:
    """Refuse what starts programs, logs in elsewhere or uploads; the command line alone may ask for that."""
    measure, distill = (tree.get(name) for name in ("measure", "distill"))
    device = measure.get("device") if isinstance(measure, dict) else None
    trackers = distill.get("trackers") if isinstance(distill, dict) else None
    if isinstance(device, str) and not (_PLAIN_DEVICE.fullmatch(device) or (is_target and _LOGIN.fullmatch(device))):
        hint = "if it is yours, give it with --set measure.device or --device"
        raise RecipeError(f"a file may not ask for the device '{device}'", where=where, hint=hint)
    for tracker in trackers if isinstance(trackers, list) else []:
        if tracker != "tensorboard":
            hint = "if it is yours, give it with --set distill.trackers"
            raise RecipeError(f"a file may not ask for the tracker '{tracker}'", where=where, hint=hint)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file and `a.b=value` overrides.

    Raises:
        RecipeError: no such file, not YAML, unknown key (with the nearest known one), bad value.
    """
    return parse_as(Recipe, read_recipe_tree(path), where=str(path), overrides=overrides)
