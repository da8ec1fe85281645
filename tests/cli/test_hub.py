"""From the hub and back, by its own client, against a hub double: pull a teacher, push its package, pull that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from homoexport.documents.artifact import PackageManifest, verify
from tests.hub import NEVER, TOKEN, Hub, hub_double
from tests.pooling import move_inside, write_modules
from tests.snippets import snippets

pytestmark = pytest.mark.processes
WAYS = {"inside the commit": NEVER, "by Git LFS": 1000}


@pytest.fixture(params=WAYS)
def hub(request: pytest.FixtureRequest):
    with hub_double(large_from=WAYS[request.param]) as double:
        yield double


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A process with the double for its hub, in a folder of its own; as the one who may write there."""

    def call(*command: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        settings["HF_HOME"] = str(tmp_path / "hf")
        environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"}  # which the double does not speak
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # no terminal that it could ask
        )

    return call


EXPORT = (sys.executable, "-m", "homoexport", "export", "big/teacher", "--onnx", "-o", "package")
LOAD = """from homoexport.encoder import load_encoder, max_length_of
encoder = load_encoder("old/teacher")
print(encoder.pooling.mode, max_length_of(encoder), *encoder.prompts.texts)"""
QUICK = ("--task", "sentence-similarity", "--quantize", "none", "--graph", "unfused", "--seconds", "0.02")


@pytest.mark.slow
def test_a_teacher_comes_and_its_package_goes_and_comes_back(hub, run, tiny_folder, tmp_path):
    hub.add("big/teacher", tiny_folder("there"))
    done = run(*EXPORT, *QUICK, "--push-to-hub", "me/small")
    assert done.returncode == 0, done.stderr
    package = tmp_path / "package"
    sent = {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert hub.files["me/small"] == sent
    assert hub.commits == ["Package by homoexport"]
    assert bool(hub.large) == (hub.large_from < NEVER)
    front = yaml.safe_load(sent["README.md"].decode().split("---\n")[1])
    assert (front["pipeline_tag"], front["base_model"]) == ("sentence-similarity", "big/teacher")
    (code,) = snippets("exporting.md", "The hub", "python")
    back = run(sys.executable, "-c", code.replace("OWNER/NAME", "me/small"))
    assert back.returncode == 0, back.stderr
    assert verify(tmp_path / "small", PackageManifest, strict=False) == verify(package, PackageManifest)


def test_the_snippet_of_the_docs_pulls_what_a_package_is(hub, run, tmp_path):
    from tests.stages.measure.tiny_onnx import write_package

    hub.add("me/small", write_package(tmp_path / "there"))
    (code,) = snippets("exporting.md", "The hub", "python")
    done = run(sys.executable, "-c", code.replace("OWNER/NAME", "me/small"))
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "small", PackageManifest, strict=False) == verify(tmp_path / "there", PackageManifest)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_in_a_folder_of_its_own_comes_with_all_that_is_read_of_it(hub, run, tiny_folder, tmp_path, weights):
    there = write_modules(tiny_folder("there"), {"pooling_mode": "max"})
    (there / "config_sentence_transformers.json").write_text('{"prompts": {"query": "w3 "}}')
    (there / "sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    move_inside(there, "0_Transformer")
    (there / "0_Transformer/unread.txt").write_text("")
    if weights == "pytorch_model.bin":
        file = there / "0_Transformer/model.safetensors"
        torch.save(load_file(file), file.with_name(weights))
        file.unlink()
    hub.add("old/teacher", there)
    done = run(sys.executable, "-c", LOAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["max", "40", "query"]
    come = [path.name for path in (tmp_path / "hf").rglob("0_Transformer/*")]
    assert (weights in come, "unread.txt" in come) == (True, False)


@pytest.mark.slow
def test_who_may_not_write_there_is_told_in_one_line(hub, run, tiny_folder):
    hub.add("big/teacher", tiny_folder("there"))
    done = run(*EXPORT, *QUICK, "--push-to-hub", "me/small", token="hf_of_another")
    assert done.returncode == 2
    assert "me/small" in done.stderr.splitlines()[-1]
    assert "hf auth login" in done.stderr
    assert "me/small" not in hub.files


@pytest.mark.slow
def test_a_name_that_the_hub_does_not_have_is_one_line(hub, run):
    done = run(*EXPORT, *QUICK)
    assert done.returncode == 2
    assert "big/teacher" in done.stderr.splitlines()[-1]
