"""Control groups: read from trees as kernels show them, and made where this machine lets us."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from homoexport import cgroup


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes a machine's groups: `mountinfo`, `membership`, and files of the trees."""

    def write(*, mounts: list[str], membership: list[str], files: dict[str, str]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "mountinfo").write_text("\n".join(mount.format(root=tmp_path) for mount in mounts))
        (tmp_path / "cgroup").write_text("\n".join(membership))
        monkeypatch.setattr(cgroup, "_MOUNTS", tmp_path / "mountinfo")
        monkeypatch.setattr(cgroup, "_MEMBERSHIP", tmp_path / "cgroup")
        return tmp_path

    return write


UNIFIED = "30 20 0:26 / {root}/v2 rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
CPU = "31 20 0:27 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 20 0:28 / {root}/memory rw - cgroup cgroup rw,memory"


def test_limits_of_version_2_with_those_of_the_groups_above(tree):
    files = {
        "v2/cgroup.controllers": "cpu memory",
        "v2/user/cgroup.controllers": "cpu memory",
        "v2/user/job/cgroup.controllers": "cpu memory",
        "v2/user/cpu.max": "150000 100000",
        "v2/user/job/cpu.max": "max 100000",
        "v2/user/memory.max": "max",
        "v2/user/job/memory.max": "536870912",
    }
    root = tree(mounts=[UNIFIED], membership=["0::/user/job"], files=files)
    assert cgroup.find_group("cpu") == cgroup.Group(2, root / "v2/user/job", root / "v2")
    assert cgroup.cpu_quota() == 1.5
    assert cgroup.memory_limit_bytes() == 536870912


def test_a_controller_that_the_groups_above_keep_to_themselves(tree):
    """A login session's group has no `cpu`; the slice above it does."""
    files = {
        "v2/cgroup.controllers": "cpu memory",
        "v2/slice/cgroup.controllers": "cpu memory",
        "v2/slice/cgroup.subtree_control": "memory",
        "v2/slice/cgroup.procs": "",
        "v2/slice/cpu.max": "100000 100000",
        "v2/slice/session/cgroup.controllers": "memory",
        "v2/slice/session/cgroup.subtree_control/refuses": "",
    }
    root = tree(mounts=[UNIFIED], membership=["0::/slice/session"], files=files)
    assert cgroup.cpu_quota() == 1.0
    (folder,) = cgroup.ChildGroups(quota=0.5, memory_bytes=None).make("one")
    assert folder.parent == root / "v2/slice"


def test_limits_of_version_1_where_version_2_has_no_controllers(tree):
    files = {
        "v2/cgroup.controllers": "hugetlb",
        "cpu/job/cpu.cfs_quota_us": "50000",
        "cpu/job/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
    }
    root = tree(mounts=[CPU, MEMORY, UNIFIED], membership=["5:memory:/", "4:cpu,cpuacct:/job", "0::/"], files=files)
    assert cgroup.find_group("memory") == cgroup.Group(1, root / "memory", root / "memory")
    assert cgroup.cpu_quota() == 0.5
    assert cgroup.memory_limit_bytes() is None


def test_a_containers_mount_shows_a_part_of_the_tree(tree):
    mount = "30 20 0:26 /docker/abc {root}/v2 rw - cgroup2 cgroup2 rw"
    files = {"v2/cgroup.controllers": "cpu", "v2/cpu.max": "200000 100000"}
    tree(mounts=[mount], membership=["0::/docker/abc"], files=files)
    assert cgroup.cpu_quota() == 2.0


def test_without_groups_there_is_no_limit(tree):
    tree(mounts=["1 0 8:1 / / rw - ext4 /dev/sda rw"], membership=[], files={})
    assert cgroup.cpu_quota() is None
    assert cgroup.memory_limit_bytes() is None
    with pytest.raises(OSError, match="no control group has the controller 'cpu'"):
        cgroup.ChildGroups(quota=0.5, memory_bytes=None)


def test_child_groups_of_version_2_are_written_and_removed(tree):
    files = {
        "v2/cgroup.controllers": "cpu memory",
        "v2/job/cgroup.controllers": "cpu memory",
        "v2/job/cgroup.subtree_control": "",
        "v2/job/cgroup.procs": "",
    }
    root = tree(mounts=[UNIFIED], membership=["0::/job"], files=files)
    groups = cgroup.ChildGroups(quota=0.5, memory_bytes=10**8)
    assert groups.version == 2
    assert (root / "v2/job/cgroup.subtree_control").read_text() == "+cpu +memory"
    (folder,) = groups.make("one")
    assert folder.parent == root / "v2/job"
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (folder / "memory.max").read_text() == "100000000"
    for file in folder.iterdir():
        file.unlink()
    groups.remove()
    assert not folder.exists()


def test_where_a_group_holds_processes_the_next_one_above_serves(tree):
    files = {
        **{f"v2{folder}/cgroup.controllers": "cpu memory" for folder in ("", "/slice", "/slice/scope")},
        "v2/slice/cgroup.subtree_control": "cpu memory",
        "v2/slice/cgroup.procs": "",
        # A folder is what refuses to be written here, as the kernel does for a group with processes (EBUSY).
        "v2/slice/scope/cgroup.subtree_control/refuses": "",
    }
    root = tree(mounts=[UNIFIED], membership=["0::/slice/scope"], files=files)
    groups = cgroup.ChildGroups(quota=0.5, memory_bytes=None)
    (folder,) = groups.make("one")
    assert folder.parent == root / "v2/slice"
    assert (folder / "cpu.max").read_text() == "50000 100000"
    assert (root / "v2/slice/cgroup.subtree_control").read_text() == "cpu memory"


def test_where_no_group_can_be_written_it_is_an_error(tree):
    files = {"v2/cgroup.controllers": "cpu", "v2/cgroup.subtree_control/refuses": ""}
    tree(mounts=[UNIFIED], membership=["0::/"], files=files)
    with pytest.raises(OSError, match="directory"):
        cgroup.ChildGroups(quota=0.5, memory_bytes=None)


def test_a_real_quota_slows_a_process_down():
    try:
        groups = cgroup.ChildGroups(quota=0.25, memory_bytes=None)
        (folder,) = groups.make("test")
    except OSError as error:
        pytest.skip(f"groups may not be made here: {error}")
    try:
        script = f"echo 0 > {folder}/cgroup.procs; while :; do :; done"
        with subprocess.Popen(["/bin/sh", "-c", script]) as busy:
            time.sleep(1.5)
            ticks = Path(f"/proc/{busy.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            busy.kill()
        assert sum(map(int, ticks)) / 100 < 0.25 * 1.5 * 2  # half as much again for the group's first periods
    finally:
        groups.remove()
    assert not folder.exists()
