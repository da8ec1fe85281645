"""Recipes out of YAML and `a.b=value` overrides; mistakes are told in one line."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from homoexport.documents.document import first_fault
from homoexport.documents.recipe.run import Recipe, RecipePart, Tree
from homoexport.errors import RecipeError

SHIPPED = Path(__file__).parents[2] / "recipes"

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
    """The first mistake of a recipe, in one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(kind, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return RecipeError(f"unknown key '{key}'", where=where, hint=hint)
    if first["type"] == "missing":
        return RecipeError(f"'{key}' is missing", where=where, hint="add it, or give it with --set")
    given = "" if isinstance(first["input"], dict | list | tuple | BaseModel) else f" (given: {first['input']!r})"
    return RecipeError(first_fault(error) + (given if key else ""), where=where)


def _apply(tree: Tree, assignment: str) -> None:
    """Write one `a.b.c=value` into a nested dict; the value is YAML."""
    path, separator, value = assignment.partition("=")
    if not separator or not path:
        raise RecipeError(f"'{assignment}' is not KEY=VALUE", where="--set", hint="write --set distill.steps=300")
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, path, create=True)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"'{value}' is not a YAML value", where=f"--set {path}") from None
    if isinstance(node, list):
        _child(node, last, path, create=False)
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, path: str, *, create: bool) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
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
    tree = copy.deepcopy(kind.part_of(tree) if issubclass(kind, RecipePart) else tree)
    for assignment in overrides:
        _apply(tree, assignment)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, kind, where) from None


def with_target(tree: Tree, target: Tree) -> Tree:
    """A recipe's tree for a target: its budget in place of the recipe's own, its other values over the recipe's."""
    merged = dict(tree)
    for key, value in target.items():
        mine = merged.get(key)
        if key != "budget" and isinstance(value, dict) and isinstance(mine, dict):
            value = {**mine, **value}
        merged[key] = value
    return merged


def read_recipe_tree(path: Path) -> Tree:
    """A recipe's YAML as a nested dict, not yet checked.

    A bare name such as `quickstart` is that of a recipe which comes with homoexport, unless a file is called so.

    Raises:
        RecipeError: no such file, or not a YAML mapping.
    """
    shipped = SHIPPED / f"{path}.yaml"
    if not path.exists() and path.name == str(path) and shipped.is_file():
        path = shipped
    if not path.is_file():
        raise RecipeError(
            "no such recipe", where=str(path), hint="name a YAML file, for example recipes/quickstart.yaml"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"is not YAML ({error})", where=str(path)) from None
    if not isinstance(tree, dict):
        raise RecipeError("is not a YAML mapping", where=str(path), hint="see recipes/quickstart.yaml")
    return tree


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file and `a.b=value` overrides.

    Raises:
        RecipeError: no such file, not YAML, unknown key (with the nearest known one), bad value.
    """
    return parse_as(Recipe, read_recipe_tree(path), where=str(path), overrides=overrides)
