"""Other people's loaders, in the environment where optimum-onnx lives (transformers 4.57)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from homoexport.encoder import load_encoder
from homoexport.export import export_encoder
from tests.conftest import BERT_TINY, MINILM

pytestmark = [pytest.mark.interop, pytest.mark.weights]
TEXTS = ["A cat sat on the mat.", "The committee met on Tuesday and voted against the plan.", "Why?"]


def first_is_best(files: list[Path]) -> list[float]:
    return [float(index) for index, _ in enumerate(files)]


@pytest.fixture(scope="module")
def sentence_package(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sentence") / "package"
    return export_encoder(load_encoder(MINILM), out_dir=out, rank=first_is_best, quantize="none")


def test_optimum_loads_the_sentence_package_as_it_stands(sentence_package):
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    tokenizer = AutoTokenizer.from_pretrained(sentence_package)
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    ours = ORTModelForFeatureExtraction.from_pretrained(sentence_package)(**tokens).last_hidden_state
    with torch.no_grad():
        theirs = load_encoder(MINILM).model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].bool()
    np.testing.assert_allclose(ours[mask].numpy(), theirs[mask].numpy(), atol=1e-4)


def test_optimum_fills_masks_with_the_package(tmp_path):
    from optimum.onnxruntime import ORTModelForMaskedLM

    encoder = load_encoder(BERT_TINY)
    package = export_encoder(encoder, out_dir=tmp_path / "package", rank=first_is_best, quantize="none")
    tokens = encoder.tokenizer("The president of the united [MASK].", return_tensors="pt")
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(encoder.folder)(**tokens).logits
    answer = ORTModelForMaskedLM.from_pretrained(package)(**tokens).logits
    np.testing.assert_allclose(answer.numpy(), expected.numpy(), atol=1e-3)
