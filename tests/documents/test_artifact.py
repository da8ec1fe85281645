"""Artifacts: manifests, what verify sees, and output folders that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from homoexport.documents.artifact import (
    FileEntry,
    Manifest,
    PackageManifest,
    StudentManifest,
    output_errors,
    read_manifest,
    refuse_existing,
    staged,
    verify,
    write_manifest,
)
from homoexport.documents.run_folder import begin
from homoexport.errors import OutputError, PackageError, TextError
from tests.samples import student_details


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"0123456789")
    (folder / "inner" / "config.json").write_text("{}")
    write_manifest(folder, "student", parent="some/teacher", details=student_details())
    return folder


def test_manifest_describes_every_file(artifact):
    manifest = verify(artifact, StudentManifest)
    assert set(manifest.files) == {"weights.bin", "inner/config.json"}
    # printf 0123456789 | sha256sum
    known = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
    assert manifest.files["weights.bin"] == FileEntry(sha256=known, bytes=10)
    assert (manifest.parent, manifest.details) == ("some/teacher", student_details())
    assert manifest.host.available_cores >= 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"01234"), "truncated: 5 bytes where the manifest has 10"),
        (lambda folder: (folder / "weights.bin").write_bytes(b"0123456780"), "its sha256 is not the manifest's"),
        (lambda folder: (folder / "weights.bin").unlink(), "weights.bin: is missing"),
        (lambda folder: (folder / "more.txt").write_text("x"), "more.txt: is not in the manifest"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: is not JSON"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    ],
)
def test_damage_is_named(artifact, damage, words):
    damage(artifact)
    with pytest.raises(PackageError, match=words):
        verify(artifact, Manifest)


def test_files_beside_the_artifacts_own_do_not_forbid_its_use(artifact):
    (artifact / ".git").mkdir()
    (artifact / ".git" / "HEAD").write_text("ref")
    verify(artifact, Manifest)
    (artifact / "README.md").write_text("A model card.")
    assert verify(artifact, Manifest, strict=False).kind == "student"


def test_errors_of_ours_are_not_taken_for_the_disks(tmp_path):
    def fail() -> None:
        try:
            raise PermissionError(errno.EACCES, "denied", "text.txt")
        except PermissionError:
            raise TextError("cannot be read", where="text.txt") from None

    with pytest.raises(TextError), output_errors(tmp_path):
        fail()


def test_kind_and_format_are_checked(artifact):
    with pytest.raises(PackageError, match="is a student, not a package"):
        verify(artifact, PackageManifest)
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps({**manifest, "schema_version": "99.0"}))
    with pytest.raises(PackageError, match=r"is of schema version 99.0, and this homoexport reads 2\.0"):
        read_manifest(artifact, Manifest)


def test_of_two_at_once_the_first_to_end_stays(tmp_path):
    out = tmp_path / "out"

    def meet_another() -> None:
        with staged(out) as mine:
            (mine / "whole.txt").write_text("mine")
            with staged(out) as theirs:
                (theirs / "whole.txt").write_text("theirs")

    with pytest.raises(OutputError, match="already exists"):
        meet_another()
    assert (out / "whole.txt").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_a_place_where_no_folder_can_be_made_is_told():
    with pytest.raises(OutputError, match="/proc/x: no folder can be made there"), staged(Path("/proc/x")):
        pass


def test_kinds_have_their_article(tmp_path):
    write_manifest(tmp_path, "evaluation")
    with pytest.raises(PackageError, match="is an evaluation, not a student; name a student folder"):
        verify(tmp_path, StudentManifest)
    with pytest.raises(OutputError, match="is an evaluation, not a student"):
        refuse_existing(tmp_path, force=True, kind="student")


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


def test_force_replaces_artifacts_of_the_same_kind_alone(artifact):
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
