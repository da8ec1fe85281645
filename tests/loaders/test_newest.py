"""The newest loaders, on transformers 5, and a server: as docs/loading.md and docs/serving.md have them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from homoexport.data import sample_text
from homoexport.runtime.inference import open_package
from homoexport.runtime.vectors import cosines
from homoexport.stages.measure import answers_of_file
from tests.loaders.conftest import SET_UP, TEXTS, in_order, with_head
from tests.snippets import snippets
from tests.stages.export.conftest import export_package

pytestmark = [pytest.mark.loaders, pytest.mark.weights]
PYTHON = SET_UP / "newest/bin/python"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.fixture(scope="module")
def place(encoder, tmp_path_factory):
    """A folder with a sentence package and a reranker in int8, and with files for OpenVINO, too."""
    folder = tmp_path_factory.mktemp("newest")
    reranker = with_head(folder / "model", num_labels=1)
    for model, name, output in ((encoder, "package", "sentence_embedding"), (reranker, "reranker", "logits")):
        run = partial(answers_of_file, device="cpu", pad_token_id=0, output=output)
        made = {"texts": sample_text(), "beside": {"openvino": run}, "runtime": "openvino", "quantize": "int8"}
        export_package(model, out_dir=folder / name, rank=in_order, **made)
    return folder


@pytest.fixture(scope="module")
def answers(place):
    (page,) = snippets("loading.md", "fastembed", "python")
    (place / "page.py").write_text(page)
    command = [PYTHON, Path(__file__).with_name("by_newest.py"), place]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["fastembed", "sentence-transformers", "optimum-intel"])
def test_they_answer_as_the_package_does(place, answers, name):
    assert answers["transformers"].startswith("5.")
    runtime = "onnxruntime" if name == "fastembed" else "openvino"
    vectors = open_package(place / "package", runtime=runtime).embed(TEXTS)
    assert cosines(np.array(answers["vectors"][name]), vectors).min() > 0.9999
    scores = open_package(place / "reranker", runtime=runtime).score([tuple(TEXTS), tuple(TEXTS[::-1])])
    np.testing.assert_allclose(answers["scores"][name], scores, atol=0.02)


def test_the_server_of_the_docs(place):
    (code,) = snippets("serving.md", "FastAPI", "python")
    (place / "server.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "uvicorn", "server:app", "--port", str(port)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *ENVIRONMENT.get("PYTHONPATH", "").split()])
    server = subprocess.Popen(command, cwd=place, env=ENVIRONMENT | {"PYTHONPATH": path})
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/embed",
            json.dumps({"texts": TEXTS}).encode(),
            {"Content-Type": "application/json"},
        )
        for _ in range(300):
            try:
                found = json.load(urllib.request.urlopen(request))
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
    finally:
        server.terminate()
        server.wait()
    np.testing.assert_allclose(found, open_package(place / "package").embed(TEXTS), atol=1e-4)
