"""Temporary folders of killed processes are found and removed; those of living ones, and of others, are not."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from homoexport.errors import OutputError
from homoexport.lock import MARK, scratch_folder

HOLDING = """
import sys
import tempfile
from pathlib import Path
from homoexport.lock import scratch_folder
with scratch_folder(parent=Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process with a temporary folder in `tmp_path`, and the folder."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_scratch_folder_goes_at_the_end_however_the_block_ends(tmp_path, error):
    def end() -> None:
        with scratch_folder(parent=tmp_path) as folder:
            (folder / "x").write_text("x")
            raise error

    with pytest.raises(error):
        end()
    assert list(tmp_path.iterdir()) == []


def test_those_of_the_killed_are_removed_and_those_of_the_living_stay(tmp_path, holder):
    process, theirs = holder
    with scratch_folder(parent=tmp_path):
        assert theirs.is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert theirs.is_dir()
    with scratch_folder(parent=tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_nothing_goes_that_may_be_a_living_processs(tmp_path, monkeypatch, holder, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    process, theirs = holder
    for name, said in (("host", "1 elsewhere"), ("words", "no number"), ("long", "9" * 30)):
        (tmp_path / f"homoexport-{name}").mkdir()
        (tmp_path / f"homoexport-{name}" / MARK).write_text(said)
    with scratch_folder(parent=tmp_path) as outer, scratch_folder(parent=tmp_path) as inner:
        assert outer.is_dir()
        assert inner.is_dir()
        assert len(list(tmp_path.iterdir())) == 6
    process.kill()
    process.wait()
    with scratch_folder(parent=tmp_path):
        assert not theirs.exists()
        assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_that_there_is_no_place_for_one_is_one_line(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    told = rf"{place}: no temporary folder can be made \(.*; free some room"
    with pytest.raises(OutputError, match=told), scratch_folder():
        pass


def test_what_others_called_alike_stays(tmp_path):
    mine = tmp_path / "homoexport-thesis"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "homoexport-link").symlink_to(mine)
    (tmp_path / "homoexport-file").write_text("x")
    marked = tmp_path / "homoexport-marked"
    marked.mkdir()
    os.mkfifo(marked / MARK)
    with scratch_folder(parent=tmp_path):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"homoexport-thesis", "homoexport-link", "homoexport-file", "homoexport-marked"}
    assert (mine / "thesis.txt").exists()
