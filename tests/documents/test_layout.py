"""What --force may replace: folders that hold nothing but what homoexport put there."""

from __future__ import annotations

import json

import pytest

from homoexport.documents.artifact import PackageManifest, verify, write_manifest
from homoexport.documents.output import refuse_existing
from homoexport.documents.run_folder import begin
from homoexport.errors import OutputError
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import write_package


@pytest.mark.parametrize("kind", ["student", "run", "finetuning", "unfinished"])
@pytest.mark.parametrize("name", ["thesis.txt", ".git/HEAD", "more/x.json", "1_Pooling/notes.md", ".cache/x", "link"])
def test_force_spares_a_folder_with_files_that_are_not_its_own(tmp_path, kind, name):
    artifact = tmp_path / "artifact"
    begin(artifact, "student" if kind == "unfinished" else kind, work="ab")
    (artifact / ".DS_Store").touch()
    if kind in ("student", "unfinished"):
        (artifact / "1_Pooling").mkdir()
        for own in ("1_Pooling/config.json", "trackers/events", ".checkpoint.pt"):
            (artifact / own).parent.mkdir(exist_ok=True)
            (artifact / own).touch()
    if kind == "student":
        write_manifest(artifact, "student", details=student_details())
    refuse_existing(artifact, force=True)
    (artifact / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (artifact / name).symlink_to("run.json")
    else:
        (artifact / name).touch()
    with pytest.raises(OutputError, match=f"holds {name.partition('/')[0]}.*, which homoexport did not"):
        refuse_existing(artifact, force=True)


def test_force_takes_the_runs_of_a_recipe_with_several_and_spares_another_run_in_there(tmp_path):
    run = tmp_path / "run"
    begin(run, "run", work="ab")
    mark = json.loads((run / "run.json").read_text())
    for name in ("wide", "phone", "mine"):
        begin(run / name, "run", work="ab")
    with pytest.raises(OutputError, match="holds mine, which"):
        refuse_existing(run, force=True)
    mark["recipe"] = {"students": [{"name": "wide"}], "budgets": {"phone": {}}}
    (run / "run.json").write_text(json.dumps(mark))
    with pytest.raises(OutputError, match="holds mine, which"):
        refuse_existing(run, force=True)
    (run / "mine").rename(tmp_path / "mine")
    refuse_existing(run, force=True)


def test_force_spares_packages_among_students_and_an_edited_card(tmp_path):
    students = tmp_path / "students"
    begin(students, "student", work="ab")
    for name in ("small", "2_tiny"):
        begin(students / name, "student", work="ab")
        write_manifest(students / name, "student", details=student_details())
    refuse_existing(students, force=True)
    write_package(students / "small-onnx")
    with pytest.raises(OutputError, match="holds small-onnx, which"):
        refuse_existing(students, force=True)
    package = students / "small-onnx"
    (package / "README.md").write_text("made")
    write_manifest(package, "package", details=verify(package, PackageManifest, strict=False).details)
    refuse_existing(package, force=True)
    write_manifest(students, "student", details=student_details())  # of one student, with others of the user's in it
    (students / "more").mkdir()
    with pytest.raises(OutputError, match="holds more, which"):
        refuse_existing(students, force=True)
    (package / "README.md").write_text("edited")
    with pytest.raises(OutputError, match=r"holds README\.md, which homoexport did not write"):
        refuse_existing(package, force=True)


@pytest.mark.parametrize("damage", ["{", "", None])
def test_what_is_damaged_is_replaced(tmp_path, damage):
    run = tmp_path / "run"
    begin(run, "run", work="ab")
    begin(run / "1-student", "student", work="ab")
    (run / "1-student/config.json").touch()
    write_manifest(run / "1-student", "student", details=student_details())
    write_package(run / "2-onnx")
    for stage in ("1-student", "2-onnx"):
        (run / stage / "manifest.json").unlink()
        if damage is not None:
            (run / stage / "manifest.json").write_text(damage)
    for folder in (run, run / "1-student"):
        refuse_existing(folder, force=True)
    (run / "2-onnx" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds 2-onnx/thesis\.txt"):
        refuse_existing(run, force=True)


def test_what_stopped_work_leaves_is_its_own(tmp_path):
    run = tmp_path / "run"
    begin(run, "run", work="ab")
    begin(run / "turns" / "1" / "1-student", "student", work="ab")
    for name in ("log.jsonl", ".checkpoint.good.pt", "model.safetensors"):
        (run / "turns/1/1-student" / name).touch()
    write_manifest(run / "turns/1/1-student", "student", details=student_details())
    (run / "plots").mkdir()
    for name in ("report.md", "report.html", "summary.json", "plots/latency.png", f".report.md.{'0' * 16}.homoexport"):
        (run / name).touch()
    refuse_existing(run, force=True)
    (run / "plots" / "mine.txt").touch()
    with pytest.raises(OutputError, match=r"holds plots/mine\.txt"):
        refuse_existing(run, force=True)
