"""Output folders: whole or not there, one process's alone, and never at the cost of what stood there before.

Beside an output `NAME` stands `.NAME.homoexport` while it is worked on, held by a lock that ends with the process:

    new        what is going to take the output's place
    replaced   what stood there, while `new` is moved, where they cannot change places at once
    aside      what stood there before work that goes on in the output's own place; kept until that work is done
    dropped-*  what is being removed

A process that finds such a folder of a killed one puts back what is needed and removes the rest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from homoexport.documents.artifact import MANIFEST, kind_of, with_article
from homoexport.documents.document import PART, has_name_of_half, is_half
from homoexport.documents.layout import foreign_in
from homoexport.errors import HomoexportError, OutputError
from homoexport.globs import at_home, matching
from homoexport.lock import MARK, FolderHeldError, held, is_ours

_HERE, _RENAME_EXCHANGE = -100, 2  # of Linux: AT_FDCWD, and a flag of renameat2
_NEW, _REPLACED, _ASIDE = "new", "replaced", "aside"
_FULL = ("the disk is full", "free some room, or name another folder")
_FORBIDDEN = ("permission denied", "name another, or change who may read and write it")
_OF_DISKS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("the file is larger than this system allows", "raise the limit, or name another folder"),
    errno.EROFS: ("the file system is read-only", "name a folder that you may write"),
    errno.EIO: ("the disk failed", "look after the disk, or name another folder"),
}
_OF_PATHS = {
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EBUSY: ("is in use, or a place where a disk is mounted", "name a folder inside it"),
    errno.EISDIR: ("is a folder", "name a file"),
    errno.ENAMETOOLONG: ("the name is too long", "name a shorter one"),
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
        what, hint, path = refusal
        raise OutputError(what, where=path or str(where), hint=hint) from error


def _refusal(error: BaseException) -> tuple[str, str, str | None] | None:
    """What the operating system refused, a hint, and the file.

    A disk's refusal counts behind any error that followed it, a path's only where it is itself the error: a mistake of
    ours may follow one that was minded.
    """
    if isinstance(error, FileNotFoundError) and error.filename and has_name_of_half(Path(error.filename)):
        # Of a file that was to be made, in a folder that is there, as /proc is, but where nothing can be.
        return "no file can be made there", "name a file somewhere else", None
    followed: BaseException | None = error
    while followed is not None:
        for number, (what, hint) in (_OF_DISKS | _OF_PATHS if followed is error else _OF_DISKS).items():
            path = getattr(followed, "filename", None)
            is_systems = isinstance(followed, OSError) and followed.errno == number
            if (is_systems and (path is not None or number in _OF_DISKS)) or f"(os error {number})" in str(followed):
                return what, hint, None if path is None else str(path)
        followed = followed.__cause__ or followed.__context__
    return None


def refuse_existing(out_dir: Path, *, force: bool, kind: str | None = None, inputs: Sequence[str] = ()) -> None:
    """Stop before any work is done where `out_dir` exists with something in it, or another process works on it.

    Args:
        kind: of the artifact to be made, which replaces nothing of another kind; by default one of any kind.
        inputs: paths and globs that the work reads; what names no local file, as a hub's names, does no harm.

    Raises:
        OutputError: it exists and `force` is not set, or it is nothing that homoexport wrote, or an artifact of
            another kind, or it holds an input; or another process is writing there.
    """
    settle(out_dir)
    _refuse_existing(out_dir, force=force, kind=kind, inputs=inputs)


def _refuse_existing(out_dir: Path, *, force: bool, kind: str | None = None, inputs: Sequence[str] = ()) -> None:
    if out_dir.is_symlink():
        raise OutputError("is a link", where=str(out_dir), hint="name the folder that it leads to, or another")
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise OutputError("is a file, not a folder", where=str(out_dir), hint="name another folder")
    if all(map(is_half, out_dir.iterdir())):  # empty, but for those
        return
    if not force:
        hint = "name another folder, or give --force to replace it"
        raise OutputError("already exists", where=str(out_dir), hint=hint)
    found = kind_of(out_dir)
    if found is None or kind not in (None, found):
        wrong = f"is {with_article(found)}, not {with_article(kind)}" if found else "was not written by homoexport"
        what = f"exists and {wrong}, so --force does not replace it"
        raise OutputError(what, where=str(out_dir), hint="name another folder")
    if foreign := foreign_in(out_dir):
        what = f"holds {foreign.relative_to(out_dir)}, which homoexport did not write and which would be lost"
        raise OutputError(what, where=str(out_dir), hint="move that away, or name another folder")
    for spec in inputs:
        if any(out_dir.resolve() in (path, *path.parents) for path in _files_named(spec)):
            raise OutputError(f"would be replaced, but {spec} is read", where=str(out_dir), hint="name another folder")


def _files_named(spec: str) -> list[Path]:
    """The files and folders there are that a path or a glob names."""
    path = at_home(spec)
    hits = [path, *matching(str(path))]
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


def settle(out_dir: Path) -> None:
    """Put back what a killed process had set aside, if nothing stands at `out_dir`, and remove what it left half-made.

    Of many processes the first does it, which alone writes.

    Raises:
        OutputError: another process is writing there.
    """
    if os.environ.get("RANK", "0") == "0" and is_ours(_beside(out_dir)):
        with _worked_on(out_dir):
            pass


def settle_inside(folder: Path) -> None:
    """`settle` every output in a folder that this process works on, and remove the halves of files."""
    for left in list(folder.rglob(f".*{PART}")):
        if is_half(left):
            left.unlink()
        elif is_ours(left):
            settle(left.with_name(left.name[1 : -len(PART)]))


def _beside(out_dir: Path) -> Path:
    path = Path(os.path.abspath(out_dir))  # noqa: PTH100 - Path.absolute keeps `..`
    if not path.name or "\0" in path.name:
        raise OutputError("is no name for a folder of results", where=str(out_dir), hint="name another folder")
    return path.with_name(f".{path.name}{PART}")


@contextmanager
def _worked_on(out_dir: Path, *, force: bool = False, is_done: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """The folder beside an output, which is this process's alone by then, with what a killed one left put right.

    With `force` what it had set aside comes back, unless the work that should replace it is done.
    """
    beside = _beside(out_dir)
    make_folder(beside.parent)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(beside))
        except FolderHeldError as other:
            what = f"another process is writing there (pid {other.process_id or 'unknown'})"
            raise OutputError(what, where=str(out_dir), hint="wait for its end, or name another folder") from None
        except FileExistsError:
            hint = "rename or remove it, or name another folder"
            raise OutputError("is in the way, and homoexport did not make it", where=str(beside), hint=hint) from None
        except FileNotFoundError:  # in a folder that is there, as /proc is, but where nothing can be made
            hint = "name a folder somewhere else"
            raise OutputError("no folder can be made there", where=str(out_dir), hint=hint) from None
        for left in beside.iterdir():
            if left.name not in (MARK, _REPLACED, _ASIDE) or left.is_symlink():
                _remove(left)
        if force and (beside / _ASIDE).exists():
            _refuse_existing(out_dir, force=True)
            _drop(beside / _ASIDE if is_done() else out_dir, into=beside)
        _put_back(beside, out_dir)
        yield beside


def _put_back(beside: Path, out_dir: Path) -> None:
    """Have at `out_dir` what was moved away from there, where nothing took its place."""
    for left in (beside / _REPLACED, beside / _ASIDE):
        if left.exists() and not out_dir.exists():
            left.rename(out_dir)
    _drop(beside / _REPLACED, into=beside)


def _drop(folder: Path, *, into: Path) -> None:
    """Remove a folder, which is gone at once; what cannot be removed is left in the folder beside the output."""
    if folder.exists():
        dropped = into / f"dropped-{secrets.token_hex(4)}"
        folder.rename(dropped)
        _remove(dropped)


def _exchanged(one: Path, other: Path) -> bool:
    """Have two folders change places at once, so that there is no moment without one; Linux alone can do it."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_HERE, os.fsencode(one), _HERE, os.fsencode(other))
    return exchange is not None and exchange(*names, _RENAME_EXCHANGE) == 0


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def staged(out_dir: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder that takes the place of `out_dir` when the block ends well.

    Where the block raises, it is removed and what stood at `out_dir` is untouched.

    Raises:
        OutputError: `out_dir` exists (unless `force`), before or after the block, or cannot be written, or another
            process is writing there.
    """
    is_done = partial(Path.is_file, out_dir / MANIFEST)
    with output_errors(out_dir), _worked_on(out_dir, force=force, is_done=is_done) as beside:
        _refuse_existing(out_dir, force=force)
        new = beside / _NEW
        new.mkdir()
        try:
            yield new
            _refuse_existing(out_dir, force=force)  # another program may have been here meanwhile
            try:
                if not out_dir.exists() or not _exchanged(new, out_dir):
                    if out_dir.exists():
                        out_dir.rename(beside / _REPLACED)
                    new.rename(out_dir)
            finally:
                _put_back(beside, out_dir)
        finally:
            _remove(new)


@contextmanager
def replacing(
    folder: Path, *, force: bool, resume: bool, is_worth_keeping: Callable[[], bool], is_done: Callable[[], bool]
) -> Iterator[None]:
    """Work in a folder itself, with an old one set aside until the new is done.

    Where the work fails before there is anything worth keeping, the old folder comes back. Where work is resumed, what
    is there stays in any case.

    Raises:
        OutputError: see `refuse_existing`.
    """
    with output_errors(folder), _worked_on(folder, force=force, is_done=is_done) as beside:
        if resume:
            settle_inside(folder)
        else:
            _refuse_existing(folder, force=force)
            if folder.exists():
                folder.rename(beside / _ASIDE)
        try:
            yield
        except BaseException:
            if not resume and not is_worth_keeping():
                _drop(folder, into=beside)
                _put_back(beside, folder)
            raise
        _drop(beside / _ASIDE, into=beside)
