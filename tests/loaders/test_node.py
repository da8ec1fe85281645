"""transformers.js and onnxruntime-web under Node.js, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from homoexport.stages.measure.targets.web import runtime_folder
from tests.conftest import sentence_vectors
from tests.loaders.conftest import LABELS, SET_UP, TEXTS, run_node
from tests.snippets import snippets

pytestmark = [pytest.mark.loaders, pytest.mark.weights]
LOCAL = """import { env, pipeline } from "@huggingface/transformers";
env.allowRemoteModels = false;
env.localModelPath = "./";
"""
COSINE = {"none": 0.99999, "int8": 0.97}


def transformers_js(script: str, folder, result: str):
    return run_node(script, folder=folder, modules=SET_UP / "node_modules", result=result)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_transformers_js_as_the_docs_have_it(encoder, packages, quantize):
    (script,) = snippets("loading.md", "transformers.js", "js")
    found = transformers_js(script, packages(quantize), "vectors.tolist()")
    assert (np.array(found) * sentence_vectors(encoder, TEXTS)).sum(1).min() > COSINE[quantize]


@pytest.mark.parametrize(("quantize", "dtype"), [("none", "fp32"), ("int8", "q8")])
def test_transformers_js_with_the_dtype_given(encoder, packages, quantize, dtype):
    script = f"""{LOCAL}
const embed = await pipeline("feature-extraction", "package", {{ dtype: "{dtype}" }});
const vectors = await embed({TEXTS}, {{ pooling: "mean", normalize: true }});"""
    found = transformers_js(script, packages(quantize), "vectors.tolist()")
    assert (np.array(found) * sentence_vectors(encoder, TEXTS)).sum(1).min() > COSINE[quantize]


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_transformers_js_names_labels(classifier, packages, quantize):
    script = f"""{LOCAL}
const classify = await pipeline("text-classification", "classifier");
const labels = await classify({TEXTS}, {{ top_k: 3 }});"""
    found = transformers_js(script, packages(quantize), "labels")
    with torch.no_grad():
        logits = classifier.model(**classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    for answers, expected in zip(found, logits.softmax(1).tolist(), strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert scores == pytest.approx(
            dict(zip(LABELS, expected, strict=True)), abs=1e-4 if quantize == "none" else 0.1
        )


def test_onnxruntime_web_as_the_docs_have_it(encoder, packages):
    (script,) = snippets("loading.md", "onnxruntime-web", "js")
    modules = runtime_folder() / "node_modules"
    found = run_node(script, folder=packages("int8"), modules=modules, result="Array.from(vector)")
    assert encoder.tokenizer("why?")["input_ids"] == [101, 2339, 1029, 102]
    assert np.dot(found, sentence_vectors(encoder, ["why?"])[0]) > COSINE["int8"]
