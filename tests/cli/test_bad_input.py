"""Bad input: exit code 2, one clear line, nothing half-written, nothing lost."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model

from homoexport.documents.artifact import write_manifest
from homoexport.documents.run_folder import begin
from tests.conftest import QUICK, tiny_tokenizer, write_sentences
from tests.stages.measure.tiny_onnx import write_package


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    """Writes a small recipe; nested changes go in as dotted keys."""
    text = write_sentences(tmp_path / "text.txt")
    teacher = str(tiny_folder())

    def write(**changes: object) -> Path:
        tree = {
            "name": "small",
            "teacher": teacher,
            "text": {"sources": [{"files": str(text)}], "max_length": 24, "held_out": 20},
            "student": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2},
            "distill": {"objective": "sentence-embedding", "steps": 4, "batch_size": 8},
            "export": QUICK,
            "measure": {"length": 16, "threads": 1, "min_seconds": 0.1},
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            node = tree
            for parent in parents:
                node = node[parent]
            node[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


def assert_refused(outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("command", ["run", "distill"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "no/such-model"}, ["no/such-model"]),
        ({"teacher": "./nowhere/at/all"}, ["nowhere", "no such model folder"]),
        ({"teacher": "/tmp"}, ["is not a model"]),
        ({"distill__stepz": 3}, ["unknown key 'distill.stepz'", "did you mean 'steps'?"]),
        ({"studnet": 3}, ["unknown key 'studnet'", "did you mean 'student'?"]),
        ({"distill__steps": "many"}, ["'distill.steps'", "many"]),
        ({"student__hidden_size": 64}, ["wider than the teacher's 32"]),
        ({"student__hidden_size": 15}, ["not divisible into 2 heads"]),
        ({"text__sources": [{"files": "none*.txt"}]}, ["none*.txt"]),
        ({"text__sources": []}, ["text.sources"]),
        ({"distill__batch_size": 4000}, ["fewer than one batch of 4000"]),
        ({"text__max_length": 100}, ["max_length 100 is more than the teacher's 64 positions"]),
        ({"teacher": "/models/[old]/[b]ert"}, ["/models/[old]/[b]ert"]),
        ({"text": 3}, ["'text'"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_recipes(homoexport, recipe, tmp_path, command, changes, words):
    out = tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    path = recipe(**changes)
    assert_refused(homoexport(command, path, "-o", out), *words)
    assert sorted(tmp_path.iterdir()) == sorted([*before, path])


def test_family_that_is_not_supported(homoexport, recipe, tmp_path):
    folder = tmp_path / "gpt"
    GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=100)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert_refused(homoexport("distill", recipe(teacher=str(folder)), "-o", tmp_path / "out"), "'gpt2'", "bert")


def test_empty_text(homoexport, recipe, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    path = recipe(text__sources=[{"files": str(empty)}])
    assert_refused(homoexport("distill", path, "-o", tmp_path / "out"), "text")


@pytest.mark.parametrize("command", ["run", "distill"])
def test_output_that_exists_is_kept(homoexport, recipe, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for flags in ([], ["--force"], ["--resume"]):
        assert_refused(homoexport(command, recipe(), "-o", out, *flags), str(out))
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distill.steps", ["is not KEY=VALUE"]),
        ("distill.stepz=3", ["did you mean 'steps'?"]),
        ("teacher.name=3", ["'teacher' holds a value"]),
        ("text.sources.7.files=x", ["'7' is not an index"]),
    ],
)
def test_bad_overrides(homoexport, recipe, tmp_path, override, words):
    assert_refused(homoexport("distill", recipe(), "-o", tmp_path / "out", "--set", override), *words)


def test_recipes_that_are_none(homoexport, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    assert_refused(homoexport("run", tmp_path / "none.yaml"), "no such recipe")
    assert_refused(homoexport("run", broken), "is not YAML")


def test_resume_wants_to_know_which_run(homoexport, recipe):
    for command in ("run", "distill"):
        assert_refused(homoexport(command, recipe(), "--resume"), "-o DIR")


@pytest.mark.slow
def test_outputs_have_default_names(homoexport, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert homoexport("distill", recipe()).code == 0
    (student,) = (tmp_path / "runs").iterdir()
    assert student.name.startswith("small-")
    quick = ("--graph", "standard", "--seconds", 0.02)
    assert homoexport("export", "--onnx", student, "--quantize", "int8", *quick).code == 0
    assert (tmp_path / f"{student.name}-onnx" / "onnx" / "model_quantized.onnx").is_file()


@pytest.mark.parametrize("command", [["bench"], ["verify"], ["embed"]])
def test_damaged_packages(homoexport, tmp_path, command):
    package = tmp_path / "package"
    assert_refused(homoexport(*command, package), "does not exist")
    package.mkdir()
    assert_refused(homoexport(*command, package), "no manifest.json")
    package.rmdir()
    model = write_package(package) / "onnx" / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    assert_refused(homoexport(*command, package), "truncated", "model.onnx")
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(homoexport(*command, package), "altered", "model.onnx")


def test_what_is_no_run_is_not_reported_and_what_to_give_is_told(homoexport, tmp_path):
    package, empty = write_package(tmp_path / "package"), tmp_path / "empty"
    empty.mkdir()
    runs = "name folders that `homoexport run` wrote, or one of bench -o and one of eval -o together"
    for folder, told in (
        (package, "is a package, not a run"),
        (empty, "is no run: it has no summary.json"),
        (tmp_path / "nowhere", "does not exist or is not a folder"),
    ):
        assert_refused(homoexport("report", folder), f"{folder}: {told}; {runs}")
        another = empty if folder is package else package
        assert_refused(homoexport("report", folder, another), f"{folder}: {told}; {runs}")
    write_manifest(empty, "measurement")
    assert_refused(homoexport("report", empty), f"is a measurement, not a run; its report is {empty / 'report.html'}")
    (tmp_path / "begun").mkdir()
    begin(tmp_path / "begun", "run", "work")
    assert_refused(homoexport("report", tmp_path / "begun"), "is a run that is not finished; finish it: ", "--resume")


class _Folder(io.RawIOBase):
    """What a shell gives for `< folder`."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise IsADirectoryError(21, "Is a directory")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (io.BufferedReader(_Folder()), "stdin: cannot be read ([Errno 21] Is a directory)"),
        (io.BytesIO(b"w1 \xff\n"), "stdin: is not UTF-8"),
        (io.BytesIO("\u20ac".encode() * 400_000), "stdin: has a line, a row or a cell of more than 100000 characters"),
    ],
    ids=["a folder", "bytes", "much"],
)
def test_stdin_that_embed_cannot_take(homoexport, tmp_path, monkeypatch, given, told):
    package = write_package(tmp_path / "package")
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "line_characters=100000")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=given))
    assert_refused(homoexport("embed", package, "-o", tmp_path / "vectors.npy"), told)
    assert not list(tmp_path.glob("*vectors*"))


@pytest.mark.processes
@pytest.mark.parametrize(
    "checkpoint_every",
    [pytest.param(1, id="in a checkpoint"), pytest.param(100, id="in the student")],
)
@pytest.mark.slow
def test_disk_that_takes_no_more(recipe, tmp_path, checkpoint_every):
    """A limit on the size of a file stands in for a full disk: the writes fail in the same places."""
    out = tmp_path / "out"
    path = recipe(distill__checkpoint_every=checkpoint_every)
    script = (
        "import resource, sys\n"
        "from homoexport.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        f"sys.argv = ['homoexport', 'distill', {str(path)!r}, '-o', {str(out)!r}]\n"
        "main()\n"
    )
    warm = tmp_path / "warm"  # fills the cache of tokenized text, which is not what is tested
    subprocess.run([sys.executable, "-m", "homoexport", "distill", path, "-o", warm], check=True)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert "larger than this system allows" in done.stderr
    assert not out.exists()


def test_what_cannot_be_measured_is_found_before_distilling(homoexport, recipe, tmp_path):
    for settings, words in (
        ({"device": "phone"}, "phone"),
        ({"threads": 4096}, "4096 threads"),
        ({"length": 1000}, "length 1000 is more than the teacher's 64 tokens"),
    ):
        assert_refused(homoexport("run", recipe(measure=settings), "-o", tmp_path / "out"), words)
        assert not (tmp_path / "out").exists()


def test_force_does_not_take_another_programs_manifest_for_ours(homoexport, recipe, tmp_path):
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "manifest.json").write_text('{"manifest_version": 3, "name": "theirs"}')
    outcome = homoexport("distill", recipe(), "-o", extension, "--force")
    assert_refused(outcome, "was not written by homoexport")
    assert (extension / "manifest.json").is_file()


def test_head_that_would_be_lost_is_refused(homoexport, tiny_folder, tmp_path):
    folder = tiny_folder()
    config = (folder / "config.json").read_text().replace("BertModel", "BertForQuestionAnswering")
    (folder / "config.json").write_text(config)
    assert_refused(homoexport("export", "--onnx", folder, "-o", tmp_path / "out"), "BertForQuestionAnswering")


def test_teacher_that_answers_with_no_numbers(homoexport, recipe, tiny_folder, tmp_path):
    folder = tiny_folder("broken")
    weights = load_file(folder / "model.safetensors")
    for value, told in (
        (float("nan"), "LayerNorm.weight holds what is no number"),
        (3e38, "its answers are not finite numbers"),
    ):
        weights["encoder.layer.0.output.LayerNorm.weight"][:] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        outcome = homoexport("distill", recipe(teacher=str(folder)), "-o", tmp_path / "out")
        assert_refused(outcome, told)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "distill"])
def test_output_that_cannot_be_made(homoexport, recipe, tmp_path, command):
    (tmp_path / "file").write_text("")
    assert_refused(homoexport(command, recipe(), "-o", tmp_path / "file" / "out"), "cannot be made")
