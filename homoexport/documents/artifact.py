"""Artifacts: folders with a `manifest.json` that says what they are and where they come from.

A manifest holds the artifact's kind, the sha256 and size of every file, its parent's digest, the
recipe's digest, library versions and the host. An artifact's own digest is the sha256 of its
files' digests, so that a child names exactly the parent it was made from.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from homoexport.choices import ArtifactKind
from homoexport.documents.document import (
    Document,
    Figures,
    digest_of,
    parse_document,
    read_json,
    write_document,
)
from homoexport.documents.package import PackageDetails
from homoexport.documents.student import DistilledDetails, FinetunedDetails, StudentDetails
from homoexport.errors import HomoexportError, OutputError, PackageError
from homoexport.host import HostDescription, describe_host, library_versions

MANIFEST = "manifest.json"
RUN_MARK = "run.json"  # stands in the folder of a run from its first second on: see `run_folder`


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class FileEntry(Figures):
    """One file of an artifact."""

    sha256: str
    bytes: int


class Manifest(Document):
    """What an artifact is. `parent` is the digest of the artifact, or the name of the model, that it was made from.

    `digest` is that of its files' digests, `recipe` that of the recipe.
    """

    VERSION: ClassVar[str] = "2.0"

    kind: ArtifactKind
    digest: str
    created: str
    parent: str | None
    recipe: str | None
    files: dict[str, FileEntry]
    versions: dict[str, str]
    host: HostDescription


class StudentManifest(Manifest):
    """The manifest of a student."""

    kind: Literal["student"]
    details: StudentDetails


class DistilledManifest(StudentManifest):
    """The manifest of a student that was distilled."""

    details: DistilledDetails


class FinetunedManifest(StudentManifest):
    """The manifest of a student that was fine-tuned."""

    details: FinetunedDetails


class PackageManifest(Manifest):
    """The manifest of a package."""

    kind: Literal["package"]
    details: PackageDetails


_FORMS: dict[str, type[Manifest]] = {"student": StudentManifest, "package": PackageManifest}
M = TypeVar("M", bound=Manifest)


def _files_of(folder: Path) -> list[Path]:
    """The artifact's files: all but the manifest and what lies under names with a dot in front."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def write_manifest(
    folder: Path,
    kind: ArtifactKind,
    *,
    parent: str | None = None,
    recipe: str | None = None,
    details: DistilledDetails | FinetunedDetails | PackageDetails | None = None,
) -> Manifest:
    """Describe every file now in `folder` and write its manifest; see `Manifest`."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in _files_of(folder)
    }
    content: dict[str, Any] = {} if details is None else {"details": details}
    manifest = _FORMS.get(kind, Manifest)(
        kind=kind,
        digest=digest_of({name: entry.sha256 for name, entry in files.items()}),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        parent=parent,
        recipe=recipe,
        files=files,
        versions=library_versions(),
        host=describe_host(),
        **content,
    )
    write_document(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path, form: type[M]) -> M:
    """The manifest of an artifact: of one kind, or of any where `form` is `Manifest`, with all that its kind has.

    Raises:
        PackageError: no folder, no manifest, not JSON, another format version, or another kind.
    """
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist or is not a folder"
        raise PackageError(what, where=str(folder), hint="name a folder that homoexport wrote")
    content = read_json(path)
    found = content.get("kind") if isinstance(content, dict) else None
    asked = next((kind for kind, its_form in _FORMS.items() if issubclass(form, its_form)), None)
    if isinstance(found, str) and asked not in (None, found):
        what = f"is {_with_article(found)}, not {_with_article(asked)}"
        raise PackageError(what, where=str(folder), hint=f"name {_with_article(asked)} folder")
    whole = form if asked else _FORMS.get(str(found), form)
    manifest = parse_document(content, whole, where=str(path), hint="write the artifact again")
    assert isinstance(manifest, form)
    return manifest


def _with_article(kind: str | None) -> str:
    return f"{'an' if str(kind)[0] in 'aeiou' else 'a'} {kind}"


def verify(
    folder: Path | str,
    form: type[M] = Manifest,  # type: ignore[assignment]  # a type variable has no default before Python 3.13
    *,
    strict: bool = True,
) -> M:
    """Check every file of an artifact against its manifest, and return the manifest.

    Args:
        form: the manifest's class, of the kind that it must be; by default any kind will do.
        strict: whether a file that the manifest does not name is a fault; to use an artifact it is none.

    Raises:
        PackageError: a file is missing, truncated, altered, or not named by the manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, form)
    hint = "copy or export the folder again"
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise PackageError("is missing", where=str(path), hint=hint)
        if (size := path.stat().st_size) != entry.bytes:
            what = "truncated" if size < entry.bytes else "altered"
            raise PackageError(f"{what}: {size} bytes where the manifest has {entry.bytes}", where=str(path), hint=hint)
        if sha256_file(path) != entry.sha256:
            raise PackageError("altered: its sha256 is not the manifest's", where=str(path), hint=hint)
    for path in _files_of(folder) if strict else ():
        if path.relative_to(folder).as_posix() not in manifest.files:
            raise PackageError("is not in the manifest", where=str(path), hint="remove it")
    return manifest


_FULL = ("the disk is full", "free some room, or name another folder")
_FORBIDDEN = ("permission denied", "name a folder that you may write")
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("the file is larger than this system allows", "raise the limit, or name another folder"),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: ("the file system is read-only", "name a folder that you may write"),
}


@contextmanager
def output_errors(where: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden path into one clear line.

    Raises:
        OutputError: where the operating system said so, also through a library that wraps its
            answer in an exception of its own (safetensors and torch do).
    """
    try:
        yield
    except Exception as error:  # libraries wrap the system's answer in types that share no base but this
        refusal = None if isinstance(error, HomoexportError) else _refusal(error)
        if refusal is None:
            raise
        number, path = refusal
        what, hint = _HINTS[number]
        raise OutputError(what, where=path or str(where), hint=hint) from error


def _refusal(error: BaseException | None) -> tuple[int, str | None] | None:
    """The operating system's refusal to write behind an error, or behind one that it followed, and the file."""
    while error is not None:
        for number in _HINTS:
            if isinstance(error, OSError) and error.errno == number:
                return number, None if error.filename is None else str(error.filename)
            if f"(os error {number})" in str(error):
                return number, None
        error = error.__cause__ or error.__context__
    return None


def refuse_existing(out_dir: Path, *, force: bool, kind: str | None = None, inputs: Sequence[str] = ()) -> None:
    """Stop before any work is done where `out_dir` exists with something in it.

    Args:
        kind: of the artifact to be made, which replaces nothing of another kind; by default one of any kind.
        inputs: paths and globs that the work reads; what names no local file, as a hub's names, does no harm.

    Raises:
        OutputError: it exists and `force` is not set, or it is nothing that homoexport wrote, or an artifact of
            another kind, or it holds an input.
    """
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise OutputError("is a file, not a folder", where=str(out_dir), hint="name another folder")
    if not any(out_dir.iterdir()):
        return
    if not force:
        hint = "name another folder, or give --force to replace it"
        raise OutputError("already exists", where=str(out_dir), hint=hint)
    found = _kind_of(out_dir)
    if found is None or kind not in (None, found):
        wrong = f"is {_with_article(found)}, not {_with_article(kind)}" if found else "was not written by homoexport"
        what = f"exists and {wrong}, so --force does not replace it"
        raise OutputError(what, where=str(out_dir), hint="name another folder")
    for spec in inputs:
        if any(out_dir.resolve() in (path, *path.parents) for path in _files_named(spec)):
            raise OutputError(f"would be replaced, but {spec} is read", where=str(out_dir), hint="name another folder")


def _files_named(spec: str) -> list[Path]:
    """The files and folders there are that a path or a glob names."""
    path = Path(spec).expanduser()
    hits = [path, *map(Path, glob.glob(str(path), recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute one
    return [hit.resolve() for hit in hits if hit.exists()]


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are not there.

    Raises:
        OutputError: the operating system does not let us.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise OutputError(f"cannot be made ({reason})", where=str(path), hint="name another folder") from None


def _kind_of(folder: Path) -> str | None:
    """The kind of the artifact in a folder, whole or not; None of what homoexport did not write.

    Other programs have a manifest.json, too.
    """
    for name, keys in ((MANIFEST, {"schema_version", "kind", "digest"}), (RUN_MARK, {"homoexport", "kind"})):
        try:
            content = read_json(folder / name)
        except PackageError:
            continue
        if isinstance(content, dict) and keys <= content.keys():
            return str(content["kind"])
    return None


def _temporary_sibling(path: Path) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except FileNotFoundError:  # of a folder that is there, as /proc is, but where nothing can be made
        hint = "name a folder somewhere else"
        raise OutputError("no folder can be made there", where=str(path), hint=hint) from None


@contextmanager
def staged(out_dir: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary sibling of `out_dir` that takes its place when the block ends well.

    Where the block raises, the sibling is removed and what stood at `out_dir` is untouched.

    Raises:
        OutputError: `out_dir` exists (unless `force`), before or after the block, or cannot be written.
    """
    refuse_existing(out_dir, force=force)
    make_folder(out_dir.parent)
    with output_errors(out_dir):
        staging = _temporary_sibling(out_dir)
        try:
            staging.chmod(0o755)
            yield staging
            refuse_existing(out_dir, force=force)  # another process may have been here meanwhile
            replaced = staging.with_suffix(".old")
            if out_dir.exists():
                out_dir.replace(replaced)
            staging.replace(out_dir)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
