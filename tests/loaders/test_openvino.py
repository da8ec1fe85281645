"""The folder openvino of a package, loaded by optimum-intel and sentence-transformers."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from homoexport.data import sample_text
from homoexport.runtime.inference import open_package
from homoexport.runtime.vectors import cosines
from homoexport.stages.measure import answers_of_file
from tests.loaders.conftest import SET_UP, TEXTS, in_order
from tests.stages.export.conftest import export_package

pytestmark = [pytest.mark.loaders, pytest.mark.weights]


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_others_answer_as_the_package_does(encoder, classifier, tmp_path, quantize):
    packages = []
    # A random head of three labels does not keep the gate in int8.
    for model, output, scheme in ((encoder, "sentence_embedding", quantize), (classifier, "logits", "none")):
        run = partial(answers_of_file, device="cpu", pad_token_id=0, output=output)
        settings = {"texts": sample_text(), "beside": {"openvino": run}, "runtime": "openvino", "quantize": scheme}
        packages.append(export_package(model, out_dir=tmp_path / output, rank=in_order, **settings))
    command = [SET_UP / "openvino" / "bin" / "python", Path(__file__).with_name("by_openvino.py"), *packages]
    # Told to be offline, optimum-intel looks for a local folder in the hub's cache.
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run([*command, json.dumps(TEXTS)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    sentences, classes = (open_package(folder, runtime="openvino") for folder in packages)
    vectors = sentences.embed(TEXTS)
    assert cosines(np.array(answers["sentence-transformers"]), vectors).min() > 0.9999
    assert cosines(np.array(answers["optimum-intel"]), vectors).min() > 0.9999
    np.testing.assert_allclose(answers["classifier"], classes.logits(TEXTS), atol=0.02)
