"""How a folder of a run, a student or several is begun, gone on with and replaced; `layout` says what lies there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_serializer

from homoexport.choices import WorkKind
from homoexport.documents.artifact import MANIFEST, RUN_MARK, refuse_links
from homoexport.documents.document import Document, read_document, write_document
from homoexport.documents.layout import CHECKPOINT, GOOD_CHECKPOINT
from homoexport.documents.output import make_folder, refuse_existing, settle
from homoexport.documents.recipe import Recipe, Tree
from homoexport.errors import OutputError, RecipeError
from homoexport.host import library_versions


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
    folder: Path, kind: WorkKind, work: str, *, inputs: Sequence[str], force: bool = False, resume: bool = False
) -> None:
    """Stop before any work is done where it can neither begin in a folder nor go on in it.

    Args:
        work: digest of all that must not change between the work and its resumption.
        inputs: paths and globs that the work reads.
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
    refuse_other_work(folder, work)


def refuse_other_work(folder: Path, work: str) -> None:
    """Refuse (RecipeError) to go on in a folder whose mark is of other work; to be asked again once it is held."""
    if read_mark(folder).work != work:
        raise RecipeError(
            "the run to resume was started with other settings, data or models",
            where=str(folder),
            hint="give the same recipe and flags, or start another run elsewhere",
        )


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
