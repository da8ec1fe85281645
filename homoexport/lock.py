"""Folders that one process alone works in, held by a lock that ends with the process, however that ends.

What a killed process left is so told from what a living one works in, and from what homoexport did not make.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from homoexport.errors import OutputError

MARK = ".homoexport.lock"  # stands in every such folder, and says the process's number and host while it works there
_UNMARKED = ".homoexport.new"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have none
_RACE_SECONDS = 0.05  # between two processes that both found a folder without locks free
_PATIENCE_SECONDS = 0.5  # another process may look for a moment whether it is held


class FolderHeldError(Exception):
    """Another process holds the folder; its number, where that is known."""

    def __init__(self, process_id: str) -> None:
        self.process_id = process_id
        super().__init__(process_id)


def is_ours(folder: Path) -> bool:
    """Whether a process of this user's, living or dead, made such a folder; a link to one is none."""
    with suppress(OSError):
        found, mark = folder.lstat(), (folder / MARK).lstat()
        return stat.S_ISDIR(found.st_mode) and stat.S_ISREG(mark.st_mode) and found.st_uid == os.getuid()
    return False


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is not there, and removed at the end where nothing was left in it.

    Raises:
        FolderHeldError: another process holds it.
        FileExistsError: it is there, and homoexport did not make it.
    """
    handle = _taken(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [MARK]:  # noqa: PTH208 - names
                (folder / MARK).unlink()
                folder.rmdir()
            else:
                os.ftruncate(handle, 0)  # from here on the folder may be another process's
        os.close(handle)


def _taken(folder: Path) -> int:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            if not _is_free_or_marked(folder):
                raise FileExistsError(errno.EEXIST, "is not ours", str(folder))
            if folder.lstat().st_uid != os.getuid():
                _refuse_others(folder)
            return _locked(folder, MARK)
        except FileNotFoundError:  # its process ended and removed it
            continue
        except BlockingIOError:
            if time.monotonic() > until:
                with suppress(FileNotFoundError):
                    said = (folder / MARK).read_text(errors="replace").strip()
                    raise FolderHeldError(said.removesuffix(f" {platform.node()}").replace(" ", " on ")) from None
        time.sleep(0.05)


def _is_free_or_marked(folder: Path) -> bool:
    """Whether a folder is empty or a process's; it is looked at once, for one may mark or empty it at any time."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        return False
    names = os.listdir(folder)  # noqa: PTH208 - names
    return not names or (MARK in names and stat.S_ISREG((folder / MARK).lstat().st_mode))


def _refuse_others(folder: Path) -> None:
    """Tell whether another user's process is at work in its folder (BlockingIOError) or not (PermissionError)."""
    with suppress(FileNotFoundError), (folder / MARK).open("rb") as mark:
        _lock(mark.fileno(), fcntl.LOCK_SH)
    raise PermissionError(errno.EACCES, "is another user's", str(folder))


def _lock(handle: int, kind: int) -> bool:
    """Lock a mark; where the file system has no locks, False, if what it says is of no process that may live."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        if _may_live(os.pread(handle, 300, 0).decode(errors="replace").strip()):
            raise BlockingIOError(errno.EWOULDBLOCK, "another process may be at work") from None
        return False
    return True


def _may_live(said: str) -> bool:
    """Whether the process that a mark names may be alive; one of another host always may."""
    number, _, host = said.partition(" ")
    if not said or host != platform.node():
        return bool(said)
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        pass
    return True


def _locked(folder: Path, name: str) -> int:
    """A descriptor that holds the lock until it is closed; BlockingIOError where another process does."""
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        has_locks = _lock(handle, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(handle), (folder / name).lstat()):
            raise FileNotFoundError(errno.ENOENT, "was removed and made anew", str(folder))
        said = f"{os.getpid()} {platform.node()}\n".encode()
        with suppress(OSError) if has_locks else nullcontext():  # a full disk: then nobody is told the number
            os.ftruncate(handle, 0)
            os.pwrite(handle, said, 0)
        if not has_locks:  # of two at the same moment the later one stays
            time.sleep(_RACE_SECONDS)
            if os.pread(handle, 300, 0) != said:
                raise BlockingIOError(errno.EWOULDBLOCK, "another process was faster", str(folder))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def scratch_folder(prefix: str = "homoexport-", *, parent: Path | None = None) -> Iterator[Path]:
    """A temporary folder, which goes at the end; those that killed processes left in the same place go first.

    Raises:
        OutputError: none can be made in the system's place for them.
        OSError: none can be made in `parent`.
    """
    with ExitStack() as stack:
        try:
            place = parent or Path(tempfile.gettempdir())
            _remove_left(place, prefix)
            made = tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            stack.callback(os.close, _locked(folder, _UNMARKED))
            (folder / _UNMARKED).rename(folder / MARK)  # now others may try the lock
        except OSError as error:
            if parent is not None:
                raise
            what, hint = f"no temporary folder can be made ({error.strerror})", "free some room, or set TMPDIR"
            raise OutputError(what, where=str(place), hint=hint) from None
        yield folder


def _remove_left(parent: Path, prefix: str) -> None:
    for folder in parent.iterdir():
        with suppress(OSError):  # in use, or removed by another process
            if folder.name.startswith(prefix) and is_ours(folder):
                handle = _locked(folder, MARK)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)
