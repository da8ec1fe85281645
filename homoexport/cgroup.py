"""Control groups: what this process is allowed, and groups of its own for other processes.

Version 2 has one tree with all controllers, version 1 one tree for each (cgroups(7)); a machine may
have both mounted. A limit of any group above counts, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

Controller = Literal["cpu", "memory"]

_MOUNTS = Path("/proc/self/mountinfo")
_MEMBERSHIP = Path("/proc/self/cgroup")
_PERIOD_US = 100_000
_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")  # of version 1 and of version 2


@dataclass(frozen=True)
class Group:
    """The group of this process in the tree that has a controller: its folder and the tree's mount."""

    version: int
    folder: Path
    mount: Path

    def chain(self) -> list[Path]:
        """The folder and all above it, up to the mount."""
        return [self.folder, *(folder for folder in self.folder.parents if folder.is_relative_to(self.mount))]


def find_group(controller: Controller) -> Group | None:
    """This process's group for a controller; None where there is no such tree."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text().splitlines()]
        membership = [line.split(":", 2) for line in _MEMBERSHIP.read_text().splitlines()]
    except OSError:
        return None
    unified = None
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        mount, root = Path(fields[4]), fields[3]
        for _, controllers, path in membership:
            if kind == "cgroup" and controller in options and controller in controllers.split(","):
                return Group(1, _folder(mount, root, path), mount)
            if kind == "cgroup2" and controllers == "":
                unified = Group(2, _folder(mount, root, path), mount)
    if unified is None:
        return None
    # The groups above may keep a controller to themselves; their limits count all the same.
    known = any(controller in _words(folder / "cgroup.controllers") for folder in unified.chain())
    return unified if known else None


def _folder(mount: Path, root: str, path: str) -> Path:
    """A container's mount may show only a part of the tree, whose root the paths still hold."""
    inner = path[len(root) :] if root != "/" and path.startswith(root) else path
    folder = mount / inner.strip("/")
    return folder if folder.is_dir() else mount


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def cpu_quota() -> float | None:
    """Cores that the CPU quota of this process's groups allows; None where there is no limit."""
    group = find_group("cpu")
    quotas = [quota for folder in group.chain() if (quota := _quota_of(folder)) is not None] if group else []
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    try:
        if words := _words(folder / "cpu.max"):
            return None if words[0] == "max" else int(words[0]) / int(words[1])
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        return None if microseconds < 0 else microseconds / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, IndexError):
        return None


def memory_limit_bytes() -> int | None:
    """Memory that this process's groups allow; None where there is no limit."""
    group = find_group("memory")
    limits = []
    for folder in group.chain() if group else []:
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and words[0].isdigit() and int(words[0]) < 1 << 60:  # version 1 has a huge number for none
                limits.append(int(words[0]))
    return min(limits, default=None)


def _own(controller: Controller) -> Group:
    group = find_group(controller)
    if group is None:
        raise OSError(errno.ENOENT, f"no control group has the controller '{controller}'")
    return group


def _limiting(chain: Sequence[Path], controllers: Sequence[Controller]) -> Path:
    """The first of these groups whose groups below can be limited, and into which this process may write."""
    refusal = OSError(errno.EACCES, "no control group may be made")
    for folder in chain:
        try:
            missing = [each for each in controllers if each not in _words(folder / "cgroup.subtree_control")]
            if missing:
                enabled = " ".join(f"+{controller}" for controller in missing)
                (folder / "cgroup.subtree_control").write_text(enabled)
            if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
                return folder
        except OSError as error:
            refusal = error
    raise refusal


class ChildGroups:
    """Groups of this process's making, all with the same limits, for processes that are to be limited.

    In version 1 they are below its own group. In version 2 a group that holds processes cannot limit groups
    below it ("no internal processes", cgroups(7)), so they are below the nearest group above that can and
    that this process may write into: `app.slice` of a user's own systemd, any slice for root.
    A quota is cores' worth of time; the memory is with swap where the kernel counts that.

    Raises:
        OSError: the kernel or its configuration does not allow it.
    """

    def __init__(self, *, quota: float | None, memory_bytes: int | None) -> None:
        self._made: list[Path] = []
        self._stem = f"homoexport-{os.getpid()}-{uuid4().hex[:6]}"
        wanted: dict[Controller, bool] = {"cpu": quota is not None, "memory": memory_bytes is not None}
        groups = {controller: _own(controller) for controller, limited in wanted.items() if limited}
        self.version = min((group.version for group in groups.values()), default=0)
        unified = [controller for controller, group in groups.items() if group.version == 2]
        limiting = _limiting(groups[unified[0]].chain(), unified) if unified else None
        self._limits: dict[Path, dict[str, str]] = defaultdict(dict)  # by the group above: files, and what they get
        for controller, group in groups.items():
            parent = limiting if limiting and group.version == 2 else group.folder
            if quota is not None and controller == "cpu":
                self._limits[parent] |= _cpu_files(quota, group.version)
            if memory_bytes is not None and controller == "memory":
                self._limits[parent] |= _memory_files(memory_bytes, group.version)

    def make(self, name: str) -> list[Path]:
        """A new group in each tree; a process joins by writing 0 into their `cgroup.procs`. Raises OSError."""
        folders = [parent / f"{self._stem}-{name}" for parent in self._limits]
        for folder, limits in zip(folders, self._limits.values(), strict=True):
            folder.mkdir()
            self._made.append(folder)
            for file, text in limits.items():
                if file not in _SWAP or (folder / file).exists():  # not where the kernel keeps no account of it
                    (folder / file).write_text(text)
        return folders

    def remove(self) -> None:
        """Remove all groups; their processes must be gone."""
        while self._made:
            with contextlib.suppress(FileNotFoundError):
                self._made[-1].rmdir()
            self._made.pop()


def _cpu_files(quota: float, version: int) -> dict[str, str]:
    microseconds = round(quota * _PERIOD_US)
    if version == 2:
        return {"cpu.max": f"{microseconds} {_PERIOD_US}"}
    return {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(microseconds)}


def _memory_files(limit: int, version: int) -> dict[str, str]:
    if version == 2:
        return {"memory.max": str(limit), _SWAP[1]: "0"}
    return {"memory.limit_in_bytes": str(limit), _SWAP[0]: str(limit)}
