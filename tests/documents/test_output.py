"""Output folders: whole or not there, and what stood there before is never lost."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path

import pytest
from safetensors import SafetensorError

from homoexport.documents import output
from homoexport.documents.artifact import write_manifest
from homoexport.documents.document import write_text
from homoexport.documents.output import output_errors, refuse_existing, replacing, staged
from homoexport.documents.run_folder import begin, read_mark
from homoexport.errors import OutputError, TextError
from tests.samples import student_details


def test_errors_of_ours_are_not_taken_for_the_disks(tmp_path):
    def fail() -> None:
        try:
            raise PermissionError(errno.EACCES, "denied", "text.txt")
        except PermissionError:
            raise TextError("cannot be read", where="text.txt") from None

    with pytest.raises(TextError), output_errors(tmp_path):
        fail()


def in_its_place(out: Path) -> object:
    return replacing(out, force=True, resume=False, is_worth_keeping=lambda: False, is_done=lambda: False)


def gone_on_with(out: Path) -> object:
    return replacing(out, force=False, resume=True, is_worth_keeping=lambda: True, is_done=lambda: False)


def killed_at(moment: str, out: Path, work: object) -> None:
    """Do some work in a process that dies, as by a signal that cannot be caught, when it calls a function."""
    child = os.fork()
    if child == 0:
        calls = 0

        def die(*_: object, **__: object) -> None:
            nonlocal calls
            calls += 1
            if calls == int(moment.partition(" ")[2] or 1):
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*_, **__)

        name = moment.partition(" ")[0]
        kept = getattr(Path, name)
        setattr(Path, name, die)
        with contextlib.suppress(BaseException), work(out) as folder:
            begin(folder or out, "student", "ab")
        os._exit(0)
    os.waitpid(child, 0)


def step_by_step(out: Path) -> object:
    """As on a system where two folders cannot change places at once."""
    output._exchanged = lambda *_: False
    return staged(out, force=True)


@pytest.fixture(autouse=True)
def _exchanging(monkeypatch):
    monkeypatch.setattr(output, "_exchanged", output._exchanged)


@pytest.mark.parametrize("work", [lambda out: staged(out, force=True), step_by_step, in_its_place])
@pytest.mark.parametrize("moment", ["mkdir", "mkdir 2", "rename", "rename 2", "rename 3", "replace", "open", "rmdir"])
def test_what_a_killed_process_set_aside_comes_back(tmp_path, work, moment):
    """At whatever moment: then another `--force` that fails, and one that does not."""
    out = tmp_path / "out"
    begin(out, "student", "old")
    (out / "log.jsonl").write_text("days of it")
    killed_at(moment, out, work)
    with pytest.raises(RuntimeError), work(out):
        raise RuntimeError
    assert read_mark(out).work in ("old", "ab")
    if read_mark(out).work == "old":
        assert (out / "log.jsonl").read_text() == "days of it"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with work(out) as folder:
        begin(folder or out, "student", "new")
    assert read_mark(out).work == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_run_is_kept_until_the_new_one_is_done(tmp_path):
    """Work that was stopped after its first checkpoint can be gone on with, and what it replaces is still there."""
    out = tmp_path / "out"
    begin(out, "run", "old")

    def stopped(work: str) -> None:
        with replacing(out, force=True, resume=False, is_worth_keeping=lambda: True, is_done=lambda: False):
            begin(out, "run", work)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped("new")
    assert read_mark(out).work == "new"
    with (
        pytest.raises(OutputError, match="already exists"),
        replacing(out, force=False, resume=False, is_worth_keeping=lambda: True, is_done=lambda: False),
    ):
        pass
    assert read_mark(out).work == "new"
    with pytest.raises(RuntimeError), in_its_place(out):
        raise RuntimeError
    assert read_mark(out).work == "old"
    with pytest.raises(KeyboardInterrupt):
        stopped("newer")
    with gone_on_with(out):
        pass
    assert read_mark(out).work == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_set_aside_does_not_come_back_where_its_successor_is_done(tmp_path):
    """It was killed after its last file, and before the old folder was removed."""
    out = tmp_path / "out"
    begin(out, "run", "old")

    def work(*, is_done: bool) -> object:
        return replacing(out, force=True, resume=False, is_worth_keeping=lambda: False, is_done=lambda: is_done)

    child = os.fork()
    if child == 0:
        with work(is_done=False):
            begin(out, "run", "new")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(RuntimeError), work(is_done=True):
        raise RuntimeError
    assert read_mark(out).work == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_others_put_there_meanwhile_is_not_touched(tmp_path):
    """Between a killed `--force` and the next one."""
    out = tmp_path / "out"
    begin(out, "run", "old")
    killed_at("replace", out, in_its_place)
    for path in [*out.rglob("*")]:
        path.unlink()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="was not written by homoexport"), in_its_place(out):
        pass
    assert (out / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", [".out.old", ".out.part", ".out.homoexport", ".out.x.part", "new", "aside"])
def test_what_others_called_alike_is_not_touched(tmp_path, name):
    out, theirs = tmp_path / "out", tmp_path / name
    (theirs / "aside").mkdir(parents=True)
    (theirs / "thesis.txt").write_text("years of work")
    begin(out, "run", "old")
    for work in (lambda folder: staged(folder, force=True), in_its_place, gone_on_with):
        with contextlib.suppress(OutputError), work(out) as folder:
            begin(folder or out, "run", "new")
    assert (theirs / "thesis.txt").read_text() == "years of work"
    assert (theirs / "aside").is_dir()
    assert out.is_dir()


@pytest.mark.parametrize(
    "name", ["notes.homoexport", ".notes.homoexport", ".a.homoexport", ".a.0123456789abcdef.homoexport"]
)
@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("work", [lambda out: staged(out, force=True), staged, in_its_place, gone_on_with])
def test_files_of_others_do_not_count_as_halves(tmp_path, name, is_folder, work):
    out = tmp_path / "out"
    out.mkdir()
    if is_folder:
        (out / name / "aside").mkdir(parents=True)
        (out / name / "aside" / "thesis.txt").write_text("years of work")
    elif "0123456789abcdef" not in name:
        (out / name).write_text("years of work")
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    with contextlib.suppress(OutputError), work(out):
        pass
    assert set(before) <= {path.relative_to(out) for path in out.rglob("*")}


def test_what_is_in_the_way_is_told(tmp_path):
    (tmp_path / ".out.homoexport").write_text("mine")
    told = r"\.out\.homoexport: is in the way, and homoexport did not make it"
    with pytest.raises(OutputError, match=told), staged(tmp_path / "out"):
        pass
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OutputError, match="is a link"), staged(tmp_path / "link"):
        pass
    for name in ("/", "a\0b"):
        with pytest.raises(OutputError, match="is no name for a folder"), staged(Path(name)):
            pass


def test_halves_that_a_killed_process_left_in_a_run_go_when_it_is_gone_on_with(tmp_path):
    out = tmp_path / "out"
    begin(out, "run", "old")
    (out / "plots").mkdir()
    (out / "plots" / ".terms.png.0123456789abcdef.homoexport").write_bytes(b"half")
    killed_at("rename", out / "3-measured", staged)
    assert (out / ".3-measured.homoexport" / "new").is_dir()
    (out / ".notes.part").write_text("mine")
    with gone_on_with(out):
        pass
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    assert names == [".notes.part", "plots", "run.json"]


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0o002])
def test_modes_are_the_umasks(tmp_path, mask):
    before = os.umask(mask)
    try:
        with staged(tmp_path / "made") as folder:
            write_text(folder / "a.txt", "x")
            write_manifest(folder, "student", details=student_details())
        begin(tmp_path / "begun", "run", "ab")
    finally:
        os.umask(before)
    for path in (tmp_path / "made", tmp_path / "begun", *tmp_path.glob("*/*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_a_place_where_no_folder_can_be_made_is_told():
    with pytest.raises(OutputError, match="/proc/x: no folder can be made there"), staged(Path("/proc/x")):
        pass


def test_staged_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"

    def fail_halfway() -> None:
        with staged(out) as folder:
            (folder / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    with staged(out) as folder:
        (folder / "a.txt").write_text("whole")
        write_manifest(folder, "student", details=student_details())
    assert (out / "a.txt").read_text() == "whole"
    with pytest.raises(OutputError, match="already exists"), staged(out):
        pass
    with pytest.raises(RuntimeError), staged(out, force=True):
        raise RuntimeError
    assert (out / "a.txt").read_text() == "whole"  # what stood there still stands
    with staged(out, force=True) as folder:
        (folder / "b.txt").write_text("new")
    assert [path.name for path in out.iterdir()] == ["b.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def chained() -> None:
    """As torch.save ends on a full disk: its own error, while handling the system's."""
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        raise RuntimeError("unexpected pos 48384 vs 48278")  # noqa: B904  torch does not say `from` either


def wrapped() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def plain() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fail", [plain, wrapped, chained])
def test_full_disk_is_one_line_however_it_is_told(tmp_path, fail):
    with pytest.raises(OutputError, match=r"out: the disk is full; free some room"), output_errors(tmp_path / "out"):
        fail()


def test_other_errors_pass(tmp_path):
    with pytest.raises(ValueError, match="os"), output_errors(tmp_path):
        raise ValueError("os")


def after(first: Exception) -> None:
    try:
        raise first
    except OSError:
        raise KeyError("a mistake of ours")  # noqa: B904


def test_a_mistake_that_follows_a_refusal_is_no_refusal(tmp_path):
    for number in (errno.EACCES, errno.EISDIR, errno.EBUSY):
        with pytest.raises(KeyError), output_errors(tmp_path):
            after(OSError(number, os.strerror(number), "text.txt"))
    with pytest.raises(PermissionError), output_errors(tmp_path):  # of no file: a connection, a process
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    told = "text.txt: permission denied; name another, or change who may read and write it"
    with pytest.raises(OutputError, match=told), output_errors(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "text.txt")


@pytest.mark.parametrize(
    "spec", ["{out}/texts/a.txt", "{out}/texts/*.txt", "{parent}/*/texts/a.txt", "~/out/**/*.txt"], ids=str
)
def test_force_spares_a_folder_that_holds_an_input(tmp_path, monkeypatch, spec):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out"
    (out / "texts").mkdir(parents=True)
    (out / "texts" / "a.txt").write_text("text")
    write_manifest(out, "student", details=student_details())
    with pytest.raises(OutputError, match="would be replaced, but"):
        refuse_existing(out, force=True, inputs=[spec.format(out=out, parent=tmp_path)])
    assert (out / "texts" / "a.txt").read_text() == "text"


def test_force_replaces_artifacts_of_the_same_kind_alone(tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    write_manifest(artifact, "student", details=student_details())
    for kind in ("student", None):
        refuse_existing(artifact, force=True, kind=kind)
    with pytest.raises(OutputError, match="is a student, not a package"):
        refuse_existing(artifact, force=True, kind="package")
    (artifact / "manifest.json").unlink()
    begin(artifact, "run", work="ab")
    with pytest.raises(OutputError, match="is a run, not a student"):
        refuse_existing(artifact, force=True, kind="student")


def test_force_minds_no_names_that_are_no_files(tmp_path, monkeypatch):
    write_manifest(tmp_path, "student", details=student_details())
    monkeypatch.chdir(tmp_path)
    refuse_existing(tmp_path, force=True, inputs=["org/model", "package:some-package/model"])
