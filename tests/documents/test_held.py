"""Output folders are one process's alone, with and without the file system's locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys

import pytest

from homoexport.documents.output import refuse_existing, staged
from homoexport.documents.run_folder import begin
from homoexport.errors import OutputError
from tests.documents.test_output import gone_on_with, in_its_place


@pytest.fixture
def busy(tmp_path):
    """Another process that holds `tmp_path/out`, until it is told to end."""
    code = """
import sys
from pathlib import Path
from homoexport.documents.output import staged
with staged(Path(sys.argv[1])) as folder:
    print("here", flush=True)
    sys.stdin.read()
    (folder / "whole.txt").write_text("theirs")
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        yield process


@pytest.fixture(params=[None, errno.ENOSYS], ids=str)
def locks(monkeypatch, request):
    """The file system's locks, and that it has none."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param is None


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("work", [staged, in_its_place, gone_on_with])
def test_of_two_at_once_the_second_is_refused_before_it_changes_anything(tmp_path, busy, work):
    out, before = tmp_path / "out", sorted(tmp_path.rglob("*"))
    told = f"another process is writing there \\(pid {busy.pid}\\)"
    with pytest.raises(OutputError, match=told), work(out):
        pytest.fail("it began")
    with pytest.raises(OutputError, match=told):
        refuse_existing(out, force=True)
    assert sorted(tmp_path.rglob("*")) == before
    busy.communicate()
    assert (out / "whole.txt").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("locks")
def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path, busy):
    busy.kill()
    busy.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".out.homoexport"]
    with staged(tmp_path / "out") as folder:
        (folder / "whole.txt").write_text("mine")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("locks")
def test_what_was_held_by_this_process_is_free_at_the_end(tmp_path):
    out, beside = tmp_path / "out", tmp_path / ".out.homoexport"
    for _ in range(2):
        with staged(out, force=True) as new:
            begin(beside / "aside", "run", "old")  # stays
            begin(new, "run", "new")
    assert (beside / "aside").is_dir()


def test_another_users_process_is_told_and_what_it_left_is_not_touched(tmp_path, busy, monkeypatch):
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(OutputError, match=f"another process is writing there \\(pid {busy.pid}\\)"):
        staged(tmp_path / "out").__enter__()
    busy.kill()
    busy.wait()
    with pytest.raises(OutputError, match=r"\.out\.homoexport: permission denied; name another"):
        staged(tmp_path / "out").__enter__()
    assert (tmp_path / ".out.homoexport" / "new").is_dir()


def test_many_at_once_are_told_of_each_other(tmp_path, locks):
    """Nobody finds a folder in the way that is only being made, or removed, at that moment."""

    def try_often() -> int:
        for _ in range(100 if locks else 10):
            with contextlib.suppress(InterruptedError):
                try:
                    with staged(tmp_path / "out"):
                        raise InterruptedError
                except OutputError as error:
                    if "another process is writing there" not in str(error):
                        return 1
        return 0

    children = []
    for _ in range(3):
        if not (child := os.fork()):
            code = 1
            try:
                code = try_often()
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []
