"""transformers.js and onnxruntime-web under Node.js, against torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from homoexport.stages.measure.targets.web import runtime_folder
from tests.conftest import sentence_vectors
from tests.loaders.conftest import LABELS, SET_UP, TEXTS, run_node
from tests.snippets import snippets
from tests.trimmed import TEXTS as PLAIN
from tests.trimmed import each_family, ids_alone, package_once, texts_for, told_alike, trimmed_once

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


@each_family
def test_transformers_js_loads_what_is_trimmed(family, tmp_path, tmp_path_factory):
    """Its tokenizers are its own, and differ on some awkward texts: there the whole one's ids differ, too."""
    trimmed = trimmed_once(tmp_path_factory, family)
    (tmp_path / "whole").symlink_to(trimmed / "whole")
    (tmp_path / "package").symlink_to(package_once(tmp_path_factory, family))
    texts, (told, vectors) = texts_for(trimmed / "trimmed"), told_alike(trimmed)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = f"""{LOCAL}
import {{ AutoTokenizer }} from "@huggingface/transformers";
import fs from "node:fs";
const texts = JSON.parse(fs.readFileSync("texts.json")), found = {{}};
for (const name of ["whole", "package"]) {{
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  found[name] = texts.map((text) => tokenizer.encode(text));
}}
const embed = await pipeline("feature-extraction", "package");
found.vectors = (await embed({json.dumps(told)}, {{ pooling: "mean", normalize: true }})).tolist();"""
    found = transformers_js(script, tmp_path, "found")
    oracles = {"whole": trimmed / "whole", "package": trimmed / "trimmed"}
    expected = {name: ids_alone(oracle, texts) for name, oracle in oracles.items()}
    differ = {
        name: {text for text, ids, wanted in zip(texts, found[name], expected[name], strict=True) if ids != wanted}
        for name in oracles
    }
    assert differ["package"] <= differ["whole"]
    assert differ["whole"].isdisjoint(PLAIN)
    assert len(differ["whole"]) < len(texts) / 10
    assert (np.array(found["vectors"]) * vectors).sum(1).min() > COSINE["int8"]


def test_onnxruntime_web_as_the_docs_have_it(encoder, packages):
    (script,) = snippets("loading.md", "onnxruntime-web", "js")
    modules = runtime_folder() / "node_modules"
    found = run_node(script, folder=packages("int8"), modules=modules, result="Array.from(vector)")
    assert encoder.tokenizer("why?")["input_ids"] == [101, 2339, 1029, 102]
    assert np.dot(found, sentence_vectors(encoder, ["why?"])[0]) > COSINE["int8"]
