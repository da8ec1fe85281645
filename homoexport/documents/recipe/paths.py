"""Paths in recipes: what lies in the recipe's own folder comes first, then what lies in the working directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from homoexport.documents.recipe.run import Tree
from homoexport.errors import UserError
from homoexport.globs import matching
from homoexport.packaged import PREFIX

# Where a recipe names files and folders; a star is each item of a list. Some may be names of the hub.
_PLACES = (
    "teacher",
    "finetune.train",
    "finetune.dev",
    "text.sources.*.files",
    "text.sources.*.dataset",
    "vocabulary.keep",
    "distill.vectors_from",
    "measure.text",
    "quality.data",
    "quality.data_dir",
)


def resolved(tree: Tree, folder: Path) -> Tree:
    """A recipe's tree whose paths lead through `folder`, the recipe's, where that has what they name."""

    def through_folder(value: Any) -> Any:
        is_ours = isinstance(value, str) and _is_relative(value) and _is_there(folder / value)
        return str(folder / value) if is_ours else value

    if folder == Path():
        return tree
    for place in _PLACES:
        tree = _changed(tree, place.split("."), through_folder)
    return tree


@contextmanager
def looked_for(*named: BaseModel | Path | str | None, recipe: Path | None = None) -> Iterator[None]:
    """Where something that was named, by itself or in a recipe, is not there, say in which folders it was looked for.

    Of a recipe that is a file (`recipe`), its own folder is one of them.
    """
    try:
        yield
    except UserError as error:
        where = _file_in(error.where)
        is_named = any(f"{where}/".startswith(f"{each}/") for part in named for each in _names_in(part))
        if not is_named or not _is_relative(where) or _is_there(Path(where)):
            raise
        folders = [Path.cwd(), *([] if recipe is None else [recipe.parent.absolute()])]
        looked = " and ".join(dict.fromkeys(map(str, folders)))
        raise type(error)(
            error.what, where=error.where, hint=f"{error.hint}; looked in {looked}".removeprefix("; ")
        ) from None


def _file_in(where: str) -> str:
    """What is named after the flag, or the place in a recipe, that names it, where one stands before it."""
    first, _, rest = where.partition(" ")
    return rest if first.startswith("--") or first in _PLACES else where


def _names_in(part: BaseModel | Path | str | None) -> list[str]:
    """Files and folders that a recipe names, or the one that this is."""
    if not isinstance(part, BaseModel):
        return [str(part)] if part else []
    found: list[Any] = []
    for place in _PLACES:
        _changed(part.model_dump(), place.split("."), found.append)
    return [each for each in found if isinstance(each, str)]


def _is_relative(value: str) -> bool:
    return not value.startswith((PREFIX, "~")) and not Path(value).is_absolute()


def _is_there(path: Path) -> bool:
    """Whether a file or folder is there, or what a pattern matches."""
    try:
        return bool(matching(str(path)))
    except UserError:  # no path at all, or too many to look through
        return False


def _changed(node: Any, place: Sequence[str], change: Callable[[Any], Any]) -> Any:
    """A tree with what stands at a place changed; the same where nothing stands there."""
    if not place:
        return change(node)
    first, *rest = place
    if first == "*" and isinstance(node, list | tuple):
        return [_changed(each, rest, change) for each in node]
    if isinstance(node, dict) and first in node:
        return {**node, first: _changed(node[first], rest, change)}
    return node
