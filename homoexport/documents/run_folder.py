"""How a folder of a run, a student or several is begun, gone on with and replaced; `layout` says what lies there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_serializer

from homoexport.choices import WorkKind
from homoexport.documents.artifact import MANIFEST, RUN_MARK, refuse_links
from homoexport.documents.document import Document, read_document, write_document
from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT
from homoexport.documents.output import make_folder, refuse_existing, settle
from homoexport.documents.recipe import Recipe, Tree
from homoexport.errors import OutputError, RecipeError
from homoexport.host import library_versions

_NAMED = 3  # values that changed between a run and its resumption


class RunMark(Document):
    """What stands in a folder from the first second of its work on (`run.json`).

    `work` is the digest of all that must not change between the work and its resumption; `seconds` is the wall time of
    a run's stages so far.
    """

    VERSION: ClassVar[str] = "2.0"

    kind: WorkKind
    homoexport: str
    work: str
    recipe: Recipe | None = None
    seconds: dict[str, float] = Field(default_factory=dict)

    @field_serializer("recipe")
    def _as_it_was_asked(self, recipe: Recipe | None) -> Tree | None:
        return None if recipe is None else recipe.model_dump(mode="json", exclude_unset=True)


def begin(folder: Path, kind: WorkKind, work: str, *, recipe: Recipe | None = None) -> None:
    """Make a folder anew, with its mark."""
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    version = library_versions().get("homoexport", "unknown")
    write_document(folder / RUN_MARK, RunMark(kind=kind, homoexport=version, work=work, recipe=recipe))


def read_mark(folder: Path) -> RunMark:
    """A folder's mark.

    Raises:
        PackageError: it is missing, or not of this form.
    """
    return read_document(folder / RUN_MARK, RunMark, hint="start again with --force")


def check_output(
    folder: Path,
    kind: WorkKind,
    work: str,
    *,
    inputs: Sequence[str],
    recipe: Recipe | None = None,
    force: bool = False,
    resume: bool = False,
) -> None:
    """Stop before any work is done where it can neither begin in a folder nor go on in it.

    Args:
        work: digest of all that must not change between the work and its resumption.
        inputs: paths and globs that the work reads.
        recipe: of the work, where it has one: another recipe's first different values are named.
        force: a folder of the same kind may be replaced.

    Raises:
        OutputError: see `refuse_existing`; or there is nothing to resume.
        PackageError: the folder to resume in holds links.
        RecipeError: both to begin anew and to go on, or to go on with other work.
    """
    if resume and force:
        raise RecipeError("--force starts anew and --resume goes on", where=str(folder), hint="give one of them")
    if not resume:
        refuse_existing(folder, force=force, kind=kind, inputs=inputs)
        return
    settle(folder)
    if not (folder / RUN_MARK).is_file():
        raise OutputError("holds no run to resume", where=str(folder), hint="leave --resume out to start one")
    refuse_links(folder)
    refuse_other_work(folder, work, recipe=recipe)


def refuse_other_work(folder: Path, work: str, *, recipe: Recipe | None = None) -> None:
    """Refuse (RecipeError) to go on in a folder whose mark is of other work; to be asked again once it is held."""
    mark = read_mark(folder)
    if mark.work == work:
        return
    told = "other settings, data or models"
    if mark.recipe is not None and recipe is not None and (changed := _changed(mark.recipe, recipe)):
        more = f", and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        told = f"{', '.join(changed[:_NAMED])}{more}"
    raise RecipeError(
        f"the run to resume was started with {told}",
        where=str(folder),
        hint="give the same recipe and flags, or start another run elsewhere",
    )


def _changed(before: Recipe, now: Recipe) -> list[str]:
    """What differs between two recipes: `distill.steps 300 (now 400)`."""
    ones, others = (_values(recipe.model_dump(mode="json")) for recipe in (before, now))
    both = [key for key in ones if key in others and ones[key] != others[key]]
    alone = [key for key in {**ones, **others} if (key in ones) != (key in others)]
    told = [f"{key} {ones[key]} (now {others[key]})" for key in both]
    return told + [f"{key} {ones[key]} (now none)" if key in ones else f"no {key} (now {others[key]})" for key in alone]


def _values(tree: Any, place: str = "") -> dict[str, Any]:
    """A tree's values, each by its dotted key."""
    if not isinstance(tree, dict):
        return {place: tree}
    found: dict[str, Any] = {}
    for name, branch in tree.items():
        found |= _values(branch, f"{place}.{name}" if place else str(name))
    return found


def holds(folder: Path, *names: str) -> bool:
    """Whether there is a file of one of the names anywhere in a folder."""
    return any(any(folder.rglob(name)) for name in names)


def forget_checkpoints(folder: Path) -> None:
    """Remove what a finished student does not need."""
    for name in (CHECKPOINT, GOOD_CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Whether a student, or another artifact, is there: its manifest is written last."""
    return (folder / MANIFEST).is_file()
