"""Artifacts: folders with a `manifest.json` that says what they are and where they come from.

A manifest holds the artifact's kind, the sha256 and size of every file, its parent's digest, the
recipe's digest, library versions and the host. An artifact's own digest is the sha256 of its
files' digests, so that a child names exactly the parent it was made from.

Whatever is read out of an artifact, its digest included, is read after `verify`: a folder may come from a stranger.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AfterValidator, Field, model_validator

from homoexport.choices import ArtifactKind
from homoexport.documents.document import (
    Document,
    Figures,
    digest_of,
    parse_document,
    read_json,
    write_document,
)
from homoexport.documents.graph import external_files
from homoexport.documents.package import RUNTIME_FILES, PackageDetails
from homoexport.documents.student import DistilledDetails, FinetunedDetails, StudentDetails, TrimmedDetails
from homoexport.documents.vocabulary import VocabularyDescription
from homoexport.errors import PackageError, readable
from homoexport.host import HostDescription, describe_host, library_versions

MANIFEST = "manifest.json"
RUN_MARK = "run.json"  # stands in the folder of a run from its first second on: see `run_folder`
STATES = (".checkpoint.pt", ".checkpoint.good.pt", ".end.pt")  # that work goes on from: no part of an artifact
HELD_OUT = "held_out.txt"  # people's texts, by which an export checks itself: see `write_held_out`
_HIDDEN = {*STATES, ".git", ".gitattributes", ".gitignore", ".cache", ".DS_Store"}  # others' that do no harm
_NOTES = ("*.md", "readme*", "licen[cs]e*", "notice*", "citation*", "thumbs.db", "desktop.ini")  # in any case


def sha256_file(path: Path, *, keep: bool = False) -> str:
    """Hex sha256 of a file's bytes; `keep` has them on the disk, too, before it says it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        if keep:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _plain(name: str) -> str:
    """A name that means the same file, inside the folder, whoever reads it."""
    escapes = "\\" in name or PureWindowsPath(name).drive
    if escapes or not name.isprintable() or any(not part or part[0] == "." for part in name.split("/")):
        raise ValueError("a file's name is relative and plain, with no part that is empty or begins with a dot")
    return name


class FileEntry(Figures):
    """One file of an artifact."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(Document):
    """What an artifact is. `parent` is the digest of the artifact, or the name of the model, that it was made from.

    `digest` is that of its files' digests, `recipe` that of the recipe.
    """

    VERSION: ClassVar[str] = "2.7"

    kind: ArtifactKind
    digest: str
    created: str
    parent: str | None
    recipe: str | None
    files: dict[Annotated[str, AfterValidator(_plain)], FileEntry]
    versions: dict[str, str]
    host: HostDescription

    @model_validator(mode="after")
    def _is_of_its_files(self) -> Manifest:
        if self.digest != _digest_of(self.files):
            raise ValueError("its digest is not that of its files")
        return self


class StudentManifest(Manifest):
    """The manifest of a student, or of a fine-tuned model, which was called a student, too, before version 2.6."""

    kind: Literal["student", "model"]
    details: StudentDetails

    @model_validator(mode="after")
    def _is_called_what_it_is(self) -> StudentManifest:
        if self.kind == "model" and not isinstance(self.details, FinetunedDetails):
            raise ValueError("only what was fine-tuned is of kind 'model'")
        return self


class DistilledManifest(StudentManifest):
    """The manifest of a student that was distilled."""

    details: DistilledDetails


class FinetunedManifest(StudentManifest):
    """The manifest of a model that was fine-tuned."""

    kind: Literal["model", "student"]
    details: FinetunedDetails


class TrimmedManifest(StudentManifest):
    """The manifest of a model with fewer words."""

    details: TrimmedDetails


class PackageManifest(Manifest):
    """The manifest of a package."""

    kind: Literal["package"]
    details: PackageDetails

    @property
    def graphs(self) -> tuple[str, ...]:
        """The ONNX files that are there to be run; the package's own is the first."""
        packed = self.details.with_tokenizer
        return (self.details.model_file, *([packed.file] if packed else []))

    @model_validator(mode="after")
    def _names_its_own_files(self) -> PackageManifest:
        ort, beside = self.details.ort_format, self.details.beside
        others = [ort.file, ort.operators] if ort else []
        others += [name for runtime in beside for name in RUNTIME_FILES[runtime]]
        for name in (*self.graphs, *others):
            if name not in self.files:
                raise ValueError(f"{name} is not among its files")
        if any(not name.endswith(".onnx") for name in self.graphs):
            raise ValueError(f"{' and '.join(self.graphs)} should end with .onnx")
        for runtime, file in beside.items():
            if file.file != RUNTIME_FILES[runtime][0]:
                raise ValueError(f"{file.file} should be {RUNTIME_FILES[runtime][0]}")
        return self

    def graph_files(self, folder: Path, graph: str) -> set[str]:
        """Names of a graph's file and of those that hold weights of it, as the graph itself has them.

        Raises:
            PackageError: it names one that is not among the package's files.
        """
        beside = {posixpath.join(posixpath.dirname(graph), name) for name in external_files(folder / graph)}
        if unlisted := sorted(beside - self.files.keys()):
            what = f"its weights lie in {unlisted[0]}, which is not in the manifest"
            raise PackageError(what, where=str(folder / graph), hint="export the package again")
        return {graph, *beside}


_FORMS: dict[str, type[Manifest]] = {
    "student": StudentManifest,
    "model": FinetunedManifest,
    "package": PackageManifest,
}
M = TypeVar("M", bound=Manifest)


def _digest_of(files: dict[str, FileEntry]) -> str:
    return digest_of({name: entry.sha256 for name, entry in files.items()})


def contents(folder: Path, *, hidden: bool = True) -> Iterator[Path]:
    """Every file and folder in a folder, but for hidden ones of others' that do no harm.

    Args:
        hidden: whether to look at other names with a dot in front.

    Raises:
        PackageError: a link, which may lead anywhere, or what is neither a file nor a folder; or one cannot be read.
    """
    left = [folder]
    while left:
        try:
            entries = sorted(os.scandir(left.pop()), key=lambda entry: entry.name)
        except OSError as error:
            raise PackageError(f"cannot be read ({error.strerror})", where=str(error.filename)) from None
        for entry in entries:
            path = Path(entry.path)
            if entry.name[0] == "." and not hidden:
                continue
            if entry.is_symlink() and not _is_of_hub_cache(path, folder):
                what = "is a link, and may lead anywhere"
                raise PackageError(what, where=str(path), hint="put the file itself there (cp -rL copies a folder so)")
            if not entry.is_dir() and not entry.is_file():
                raise PackageError("is neither a file nor a folder", where=str(path), hint="remove it")
            if entry.name in _HIDDEN:
                continue
            if entry.is_dir():
                left.append(path)
            yield path


def _is_of_hub_cache(link: Path, folder: Path) -> bool:
    """The hub's cache keeps a repository's files in `blobs`, and links in `snapshots/REVISION` that lead there."""
    here, target = (Path(os.path.realpath(path)) for path in (folder, link))
    return here.parent.name == "snapshots" and target.parent == here.parents[1] / "blobs" and target.is_file()


def refuse_links(folder: Path, *, hidden: bool = True) -> None:
    """Refuse (PackageError) a folder that holds links, or what is neither a file nor a folder; see `contents`."""
    for _ in contents(folder, hidden=hidden):
        pass


def write_manifest(
    folder: Path,
    kind: ArtifactKind,
    *,
    parent: str | None = None,
    recipe: str | None = None,
    details: StudentDetails | PackageDetails | None = None,
) -> Manifest:
    """Describe every file now in `folder`, and write its manifest once they are on the disk; see `Manifest`."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(path, keep=True), bytes=path.stat().st_size)
        for path in sorted(contents(folder, hidden=False))
        if path.is_file() and path != folder / MANIFEST
    }
    content: dict[str, Any] = {} if details is None else {"details": details}
    manifest = _FORMS.get(kind, Manifest)(
        kind=kind,
        digest=_digest_of(files),
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
    """The manifest of an artifact of one kind, or of any where `form` is `Manifest`, with all that its kind has.

    The files are not looked at: what uses an artifact takes its manifest from `verify`.

    Raises:
        PackageError: no folder, no manifest, not JSON, another format version, or another kind.
    """
    path = folder / MANIFEST
    with readable(PackageError, folder):
        is_there, has_folder = path.is_file(), folder.is_dir()
    if not is_there:
        what = "has no manifest.json" if has_folder else "does not exist or is not a folder"
        raise PackageError(what, where=str(folder), hint="name a folder that homoexport wrote")
    content = read_json(path, hint="copy or download the folder again, or have it written again")
    found = content.get("kind") if isinstance(content, dict) else None
    asked = () if form is Manifest else get_args(form.model_fields["kind"].annotation)
    if isinstance(found, str) and asked and found not in asked:
        what = f"is {with_article(found)}, not {with_article(asked[0])}"
        raise PackageError(what, where=str(folder), hint=f"name {with_article(asked[0])} folder")
    whole = form if asked else _FORMS.get(str(found), form)
    manifest = parse_document(content, whole, where=str(path), hint="write the artifact again")
    assert isinstance(manifest, form)
    return manifest


def with_article(kind: str | None) -> str:
    return f"{'an' if str(kind)[:1] in 'aeiou' else 'a'} {kind}"


def kind_of(folder: Path) -> str | None:
    """The kind of the artifact in a folder, whole or not; None of what homoexport did not write.

    Other programs have a manifest.json, too.
    """
    for name, keys in ((MANIFEST, {"schema_version", "kind", "digest"}), (RUN_MARK, {"homoexport", "kind"})):
        try:
            content = read_json(folder / name) if (folder / name).is_file() else None
        except PackageError:
            continue
        if isinstance(content, dict) and keys <= content.keys():
            return str(content["kind"])
    return None


def digest_in(folder: Path) -> str | None:
    """The digest of the artifact in a model's folder, all of which is verified; None where homoexport made none."""
    has_own = (folder / MANIFEST).is_file() and kind_of(folder) is not None
    return verify(folder, Manifest, strict=False).digest if has_own else None


def vocabulary_of(folder: Path) -> VocabularyDescription | None:
    """What is told of the vocabulary of a trimmed model in a folder; None of any other."""
    if kind_of(folder) not in ("model", "student"):
        return None
    return read_manifest(folder, StudentManifest).details.vocabulary


def verify(
    folder: Path | str,
    form: type[M] = Manifest,  # type: ignore[assignment]  # a type variable has no default before Python 3.13
    *,
    strict: bool = True,
) -> M:
    """Check every file of an artifact against its manifest, and return the manifest.

    Besides that the manifest names all files there are; the artifact's digest is that of its files; there are no links;
    and a package's graphs take their weights from its own files. Held-out text alone may be missing, for it is not
    published with a model.

    Args:
        form: the manifest's class, of the kind that it must be; by default any kind will do.
        strict: whether notes count (a README that was edited, a license that was added) and hidden files; to use an
            artifact they are no fault, for no loader opens them.

    Raises:
        PackageError: a file is missing, truncated, altered, or not named by the manifest; or the manifest is none.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, form)
    if not manifest.files:
        raise PackageError("its manifest names no files", where=str(folder), hint="write the artifact again")
    with readable(PackageError, folder):
        _refuse_others(folder, manifest, strict=strict)
        for name, entry in manifest.files.items():
            is_left_out = name == HELD_OUT and not (folder / name).exists()
            if not is_left_out and (strict or not _is_note(name)):
                _check_file(folder / name, entry)
    if isinstance(manifest, PackageManifest):
        for name in (name for graph in manifest.graphs for name in manifest.graph_files(folder, graph)):
            if _is_note(name):  # by a stranger's choice
                _check_file(folder / name, manifest.files[name])
    return manifest


def _refuse_others(folder: Path, manifest: Manifest, *, strict: bool) -> None:
    """Refuse what is in the folder and not in the manifest: a loader may find it."""
    named = {MANIFEST, *manifest.files}
    named |= {parent.as_posix() for name in manifest.files for parent in PurePosixPath(name).parents}
    for path in contents(folder):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part[0] == "." for part in name.split("/"))
        is_harmless = is_hidden or (_is_note(name) and path.is_file())
        if name not in named and (strict or not is_harmless):
            raise PackageError("is not in the manifest", where=str(path), hint="remove it")


def _is_note(name: str) -> bool:
    return "/" not in name and any(fnmatch(name.lower(), pattern) for pattern in _NOTES)


def _check_file(path: Path, entry: FileEntry) -> None:
    hint = "copy or export the folder again"
    if not path.is_file():
        raise PackageError("is missing", where=str(path), hint=hint)
    if (size := path.stat().st_size) != entry.bytes:
        what = "truncated" if size < entry.bytes else "altered"
        raise PackageError(f"{what}: {size} bytes where the manifest has {entry.bytes}", where=str(path), hint=hint)
    if sha256_file(path) != entry.sha256:
        raise PackageError("altered: its sha256 is not the manifest's", where=str(path), hint=hint)
