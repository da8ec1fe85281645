"""Folders that one process alone works in, held by a lock that ends with the process, however that ends.

What a killed process left is so told from what a living one works in, and from what homoexport did not make.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from homoexport.errors import OutputError

MARK = ".homoexport.lock"  # stands in every such folder, and says the number of the process
_UNMARKED = ".homoexport.new"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that have none
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
            if [path.name for path in folder.iterdir()] == [MARK]:
                (folder / MARK).unlink()
                folder.rmdir()
        os.close(handle)


def _taken(folder: Path) -> int:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            if not is_ours(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
                raise
        try:
            return _locked(folder, MARK)
        except FileNotFoundError:  # its process ended and removed it
            continue
        except BlockingIOError:
            if time.monotonic() > until:
                raise FolderHeldError((folder / MARK).read_text(errors="replace").strip()) from None
        time.sleep(0.05)


def _locked(folder: Path, name: str) -> int:
    """A descriptor that holds the lock until it is closed; BlockingIOError where another process does."""
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        if not os.path.samestat(os.fstat(handle), (folder / name).lstat()):
            raise FileNotFoundError(errno.ENOENT, "was removed and made anew", str(folder))
        with suppress(OSError):  # a full disk: then nobody is told the number
            os.ftruncate(handle, 0)
            os.write(handle, b"%d\n" % os.getpid())
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
