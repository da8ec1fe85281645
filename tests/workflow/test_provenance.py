"""Whoever uses an artifact uses it verified: what was altered is refused, and nothing is made of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from homoexport.documents.artifact import verify, write_manifest
from homoexport.encoder import load_encoder, parent_of
from homoexport.errors import PackageError, TeacherError
from tests.conftest import write_sentences
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import write_package


@pytest.fixture
def student(tiny_folder) -> Path:
    """A student's folder, as distilling leaves it."""
    folder = tiny_folder("student")
    (folder / "held_out.txt").write_text("w1 w2 w3\n" * 10)
    write_manifest(folder, "student", parent="some/teacher", details=student_details())
    return folder


def flip_a_bit(folder: Path) -> None:
    path = next(iter([*folder.glob("model.safetensors"), *folder.glob("onnx/model.onnx")]))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def add_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "other", "peft_type": "LORA"}))


def add_a_pooling(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))


def change_the_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"w1"', '"w1000"'))


def change_the_text(folder: Path) -> None:
    (folder / "held_out.txt").write_text("other\n")


def link_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "model.safetensors").symlink_to("../elsewhere")


def lose_a_file(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    "alter",
    [
        flip_a_bit,
        add_an_adapter,
        add_a_pooling,
        change_the_tokenizer,
        change_the_text,
        link_the_weights,
        lose_a_file,
    ],
)
def test_an_altered_student_is_not_loaded(student, alter):
    digest = verify(student).digest
    assert parent_of(load_encoder(str(student))) == digest
    alter(student)
    with pytest.raises(PackageError):
        load_encoder(str(student))


def test_a_digest_is_that_of_what_was_loaded(student):
    """Not of what lies there by the time that something is made of it."""
    encoder, digest = load_encoder(str(student)), verify(student).digest
    shutil.rmtree(student)
    assert parent_of(encoder) == digest


DISTILLED = ["--objective", "sentence-embedding", "--hidden-size", 16, "--heads", 4, "--steps", 2, "--batch-size", 4]
LABELLED = ["--task", "classification", "--train", "{data}", "--dev", "{data}", "-o", "{out}"]
OF_STUDENT = {
    "export": ["export", "{it}", "-o", "{out}", "--quantize", "none"],
    "export-onnx": ["export", "--onnx", "{it}", "-o", "{out}", "--quantize", "none"],
    "distill": ["distill", "--teacher", "{it}", "--data", "{text}", "-o", "{out}", *DISTILLED],
    "finetune": ["finetune", "{it}", *LABELLED],
    "finetune-many": ["finetune", "{it}", *LABELLED, "--set", "seeds=[1,2]"],
    "finetune-teacher": ["finetune", "{whole}", *LABELLED, "--teacher", "{it}"],
    "plan": ["plan", "--teacher", "{it}", "--size", "12MB", "-o", "{out}"],
    "eval": ["eval", "{it}", "--task", "classification", "--data", "{data}", "-o", "{out}"],
    "eval-teacher": ["eval", "{whole}", "--task", "fidelity", "--teacher", "{it}", "--data", "{text}", "-o", "{out}"],
}
OF_PACKAGE = {
    "bench": ["bench", "{it}", "--threads", 1, "--length", 16, "-o", "{out}"],
    "eval": ["eval", "{it}", "--task", "fidelity", "--teacher", "{whole}", "--data", "{text}", "-o", "{out}"],
    "verify": ["verify", "{it}"],
}


def refused(homoexport, tmp_path: Path, words: list[object], altered: Path, whole: Path) -> str:
    """The line of a command on an altered folder, which makes nothing."""
    text, data = write_sentences(tmp_path / "text.txt"), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"w{row} w2", "label": "ab"[row % 2]}) + "\n" for row in range(40)))
    names = {"it": altered, "whole": whole, "text": text, "data": data, "out": tmp_path / "out"}
    told = homoexport(*(str(word).format(**names) for word in words))
    assert told.code == 2, told.err
    assert not os.path.lexists(tmp_path / "out")
    return told.err


@pytest.mark.parametrize("verb", OF_STUDENT)
def test_no_verb_takes_an_altered_student(homoexport, student, tmp_path, verb):
    whole = Path(shutil.copytree(student, tmp_path / "whole"))
    flip_a_bit(student)
    assert "altered" in refused(homoexport, tmp_path, OF_STUDENT[verb], student, whole)


@pytest.mark.parametrize("verb", OF_PACKAGE)
def test_no_verb_takes_an_altered_package(homoexport, tmp_path, verb):
    folder = write_package(tmp_path / "package")
    whole = Path(shutil.copytree(folder, tmp_path / "whole"))
    flip_a_bit(folder)
    assert "altered" in refused(homoexport, tmp_path, OF_PACKAGE[verb], folder, whole)


def test_a_package_whose_parameters_are_fewer_than_its_weights_is_refused(homoexport, tmp_path):
    from tests.documents.test_artifact import forge
    from tests.stages.measure.tiny_onnx import weights

    folder = write_package(tmp_path / "package", arrays=weights(vocab_size=80_000))
    forge(folder, lambda manifest: manifest["details"].update(parameters=100))
    told = homoexport("bench", folder, "--threads", 1, "--length", 16, "--parameters", "1M")
    assert told.code == 2
    assert "its graph holds 1280256 weights" in told.err


@pytest.mark.parametrize("link", [True, False], ids=["link", "pipe"])
@pytest.mark.parametrize(
    "name",
    [
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "modules.json",
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "model.safetensors",
        "added_tokens.json",
        "README.md",
        "1_Pooling",
    ],
)
def test_a_models_folder_holds_no_link_to_a_private_file(tiny_folder, tmp_path, name, link):
    """Which would be read, and go into the package and to the hub with it."""
    folder = tiny_folder()
    private = tmp_path / "id_rsa"
    private.write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(private) if link else os.mkfifo(folder / name)
    with pytest.raises((PackageError, TeacherError), match=r"is a link|is neither a file nor a folder|no config.json"):
        load_encoder(str(folder))


def test_a_models_folder_may_lie_behind_a_link_that_the_user_names(tiny_folder, tmp_path):
    (tmp_path / "latest").symlink_to(tiny_folder())
    assert load_encoder(str(tmp_path / "latest")).artifact is None
