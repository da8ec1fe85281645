"""Artifacts: manifests, and what verify sees of a folder that may come from a stranger."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from homoexport.documents.artifact import (
    FileEntry,
    Manifest,
    PackageManifest,
    StudentManifest,
    digest_in,
    read_manifest,
    sha256_file,
    verify,
    write_manifest,
)
from homoexport.documents.document import digest_of
from homoexport.documents.layout import foreign_in
from homoexport.documents.output import refuse_existing
from homoexport.errors import OutputError, PackageError
from homoexport.runtime.inference import read_package
from homoexport.workflow.text import write_held_out
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import weights, write_package


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
        (
            lambda folder: (folder / "manifest.json").write_text("{\n  bad}"),
            r"manifest.json: is not JSON \(.* at line 2 column 3\); copy or download the folder again",
        ),
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
    (artifact / ".checkpoint.pt").write_bytes(b"state")
    verify(artifact, Manifest)
    (artifact / "README.md").write_text("A model card.")
    write_manifest(artifact, "student", details=student_details())
    (artifact / "README.md").write_text("A model card, edited.")
    for name in ("license", "LICENCE", "README", "CITATION.cff", "Thumbs.db", ".gitmodules", ".idea/x", ".nfs1"):
        (artifact / name).parent.mkdir(exist_ok=True)
        (artifact / name).touch()
    assert verify(artifact, Manifest, strict=False).kind == "student"
    with pytest.raises(PackageError):
        verify(artifact, Manifest)


def test_kind_and_format_are_checked(artifact):
    with pytest.raises(PackageError, match="is a student, not a package"):
        verify(artifact, PackageManifest)
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps({**manifest, "schema_version": "99.0"}))
    with pytest.raises(PackageError, match=r"is of schema version 99.0, and this homoexport reads 2\.7"):
        read_manifest(artifact, Manifest)


def test_held_out_text_may_be_left_out_but_not_altered(artifact):
    write_held_out(artifact, ["one text", "another"])
    made = write_manifest(artifact, "student", details=student_details())
    assert (artifact / ".gitignore").read_text().splitlines() == ["held_out.txt"]
    assert verify(artifact, StudentManifest) == made
    assert foreign_in(artifact) is None
    (artifact / "held_out.txt").write_text("a third\n")
    with pytest.raises(PackageError, match=r"held_out\.txt: "):
        verify(artifact, StudentManifest)
    (artifact / "held_out.txt").unlink()
    assert verify(artifact, StudentManifest) == made


def test_only_what_was_fine_tuned_is_a_model(artifact):
    with pytest.raises(ValueError, match="details"):
        write_manifest(artifact, "model", details=student_details())
    forge(artifact, lambda manifest: manifest.update(kind="model"))
    with pytest.raises(PackageError, match="only what was fine-tuned is of kind 'model'"):
        verify(artifact, StudentManifest)
    with pytest.raises(PackageError, match="is a model, not a package"):
        verify(artifact, PackageManifest)


def test_kinds_have_their_article(tmp_path):
    write_manifest(tmp_path, "evaluation")
    with pytest.raises(PackageError, match="is an evaluation, not a student; name a student folder"):
        verify(tmp_path, StudentManifest)
    with pytest.raises(OutputError, match="is an evaluation, not a student"):
        refuse_existing(tmp_path, force=True, kind="student")


def forge(folder: Path, change: object) -> None:
    """Change a manifest's tree, and have its digest fit its files again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest["digest"] = digest_of({name: entry["sha256"] for name, entry in manifest["files"].items()})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def entry_of(path: Path) -> dict[str, object]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "inner/../../outside.txt",
        "inner/../weights.bin",
        "{parent}/outside.txt",
        "/etc/hostname",
        "./weights.bin",
        "inner//config.json",
        "inner/",
        "",
        ".",
        "..",
        ".hidden",
        "inner/.hidden",
        "..\\outside.txt",
        "C:\\outside.txt",
        "C:outside.txt",
        "a\0b",
        "a\nb",
        "a\x1b[31mb",
        "\u202eb",
        "\ud800",
        "inner/.git/x",
    ],
)
def test_names_that_are_not_plain_are_refused(artifact, name):
    """Also where the file that is meant is there, whole, and as the manifest has it."""
    outside = artifact.parent / "outside.txt"
    outside.write_text("x")
    for inside in (".hidden", "inner/.hidden"):
        (artifact / inside).write_text("x")
    forge(artifact, lambda manifest: manifest["files"].update({name.format(parent=artifact.parent): entry_of(outside)}))
    with pytest.raises(PackageError, match=r"does not follow the schema|is not JSON"):
        verify(artifact)


def to_file(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere / "file")


def to_folder(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def to_itself(path: Path, _: Path) -> None:
    path.symlink_to(path)


def to_nothing(path: Path, _: Path) -> None:
    path.symlink_to("nowhere")


def to_a_neighbour(path: Path, _: Path) -> None:
    path.symlink_to(path.parent / "config.json")


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def listening(path: Path, _: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


MAKERS = [to_file, to_folder, to_itself, to_nothing, to_a_neighbour, pipe, listening]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "place", ["more.txt", "README.md", ".git", ".checkpoint.pt", ".hidden", "inner/more.txt", "weights.bin", "inner"]
)
def test_links_and_special_files_are_refused_wherever_they_are(artifact, make, place):
    elsewhere = artifact.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(artifact / "weights.bin", elsewhere / "file")
    shutil.copy(artifact / "inner" / "config.json", elsewhere / "config.json")
    path = artifact / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path, elsewhere)
    with pytest.raises(PackageError, match=r"is a link|is neither a file nor a folder"):
        verify(artifact, strict=False)
    with pytest.raises(PackageError):
        digest_in(artifact)


@pytest.mark.parametrize(
    "extra", ["model.safetensors", "adapter_config.json", "1_Pooling/config.json", "inner/x", "empty/", "README.md/x"]
)
@pytest.mark.parametrize("strict", [True, False])
def test_what_a_loader_may_find_is_in_the_manifest(artifact, extra, strict):
    path = artifact / extra
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if extra.endswith("/") else path.write_text("{}")
    with pytest.raises(PackageError, match="is not in the manifest; remove it"):
        verify(artifact, strict=strict)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest.update(digest="0" * 64), "its digest is not that of its files"),
        (lambda manifest: manifest.update(digest=None), "'digest'"),
        (lambda manifest: manifest["files"].update(more=manifest["files"]["weights.bin"]), "its digest is not"),
        (lambda manifest: manifest["files"]["weights.bin"].update(bytes=-1), "'files.weights.bin.bytes'"),
        (lambda manifest: manifest["files"]["weights.bin"].update(sha256="../x"), "'files.weights.bin.sha256'"),
        (lambda manifest: manifest.update(files=[]), "'files'"),
    ],
)
def test_a_manifest_that_does_not_fit_itself_is_refused(artifact, change, told):
    manifest = json.loads((artifact / "manifest.json").read_text())
    change(manifest)
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=told):
        verify(artifact)


def test_an_artifact_without_files_is_none(artifact):
    for path in ("weights.bin", "inner/config.json"):
        (artifact / path).unlink()
    (artifact / "inner").rmdir()
    forge(artifact, lambda manifest: manifest.update(files={}))
    with pytest.raises(PackageError, match="its manifest names no files"):
        verify(artifact)


def test_a_key_that_stands_twice_is_refused(artifact):
    """One reader would take the first, another the last."""
    path = artifact / "manifest.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "files": {}}')
    with pytest.raises(PackageError, match=r"is not JSON \('files' stands there twice\)"):
        verify(artifact)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_file": "../p/onnx/model.onnx"}, "is not among its files"),
        ({"model_file": "{folder}/onnx/model.onnx"}, "is not among its files"),
        ({"model_file": "onnx"}, "is not among its files"),
        ({"model_file": "onnx/other.onnx"}, "is not among its files"),
        ({"model_file": "config.json"}, "should end with .onnx"),
        ({"max_length": 0}, "'details.max_length'"),
        ({"max_length": 10**30}, "'details.max_length'"),
        ({"vocab_size": -1}, "'details.vocab_size'"),
        ({"pad_token_id": 10**30}, "'details.pad_token_id'"),
        ({"parameters": -1}, "'details.parameters'"),
        ({"ort_format": {"file": "/etc/hostname", "operators": "config.json"}}, "is not among its files"),
    ],
)
def test_a_packages_files_are_its_own(tmp_path, change, told):
    folder = write_package(tmp_path / "p")
    if "model_file" in change:
        change = {"model_file": change["model_file"].format(folder=folder)}
    forge(folder, lambda manifest: manifest["details"].update(change))
    with pytest.raises(PackageError, match=told):
        verify(folder)


def external_tensor(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(weights()["layer0"], "w")
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def as_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)


def as_constant(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def as_branch(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    graph = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["b"], ["c"], then_branch=graph, else_branch=graph))


def as_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor)]
    model.functions.append(helper.make_function("own", "f", [], ["c"], nodes, [helper.make_opsetid("", 18)]))


def as_sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)


PLACES = [as_initializer, as_constant, as_branch, as_function, as_sparse]


def with_external(folder: Path, location: str, put: object = as_initializer) -> Path:
    """A package with one more tensor whose numbers lie elsewhere, and a manifest of all files that it may name."""
    write_package(folder)
    file = folder / "onnx" / "model.onnx"
    model = onnx.load(file)
    put(model, external_tensor(location))
    file.write_bytes(model.SerializeToString())
    return folder


def describe(folder: Path) -> None:
    write_manifest(folder, "package", details=read_manifest(folder, PackageManifest).details)


@pytest.mark.parametrize("put", PLACES)
@pytest.mark.parametrize(
    "location", [".weights", "weights.data", "../../outside", "/etc/hostname", "*/_ORT_MEM_ADDR_/*", "", "..\\x"]
)
def test_weights_outside_of_the_manifest_are_refused(tmp_path, location, put):
    folder = with_external(tmp_path / "p", location, put)
    describe(folder)
    (tmp_path / "outside").write_bytes(bytes(1024))
    with pytest.raises(PackageError, match=r"its weights lie in .*, which is not in the manifest"):
        verify(folder, strict=False)


@pytest.mark.parametrize("put", PLACES)
def test_files_that_hold_weights_count_as_the_packages(tmp_path, put):
    """Whatever they are called: by name, one that is not the graph's, or another graph's, would not count."""
    folder = with_external(tmp_path / "p", "numbers", put)
    (folder / "onnx" / "numbers").write_bytes(bytes(5000))
    (folder / "onnx" / "model.onnx_more").write_bytes(bytes(7000))
    describe(folder)
    assert read_package(folder).file_bytes == (folder / "onnx" / "model.onnx").stat().st_size + 5000


@pytest.mark.parametrize("content", [b"location", b"\x0alocation" + bytes(100), b"{location}"])
def test_a_graph_that_cannot_be_read_is_told(tmp_path, content):
    folder = write_package(tmp_path / "p")
    (folder / "onnx" / "model.onnx").write_bytes(content)
    describe(folder)
    with pytest.raises(PackageError, match="is no ONNX file"):
        verify(folder)


def test_the_hubs_cache_keeps_files_behind_links_of_its_own(artifact, tmp_path):
    snapshot, blobs = tmp_path / "models--x--y" / "snapshots" / "abc", tmp_path / "models--x--y" / "blobs"
    shutil.copytree(artifact, snapshot)
    blobs.mkdir()
    for number, name in enumerate(("weights.bin", "inner/config.json", "manifest.json")):
        (snapshot / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    assert verify(snapshot).kind == "student"
    (tmp_path / "models--x--y" / "private").write_bytes(b"0123456789")
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to("../../private")
    with pytest.raises(PackageError, match="is a link"):
        verify(snapshot)


def test_a_manifest_of_another_program_makes_no_artifact(artifact):
    for content in ('{"digest": 5}', '{"name": "app", "icons": []}', "[]", "{"):
        (artifact / "manifest.json").write_text(content)
        assert digest_in(artifact) is None
