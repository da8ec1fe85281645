"""Our figures of a torch model against sentence-transformers' own evaluator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from homoexport.data import sample_text
from homoexport.encoder import resolve_folder
from homoexport.stages.evaluate import Examples, evaluate_models
from tests.conftest import MINILM

pytestmark = [pytest.mark.interop, pytest.mark.weights]


def test_sts_is_what_sentence_transformers_evaluator_says():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    texts = list(dict.fromkeys(sample_text()))
    pairs = tuple(itertools.combinations(texts, 2))[:200]  # no two alike, whose cosines would be ties but for rounding
    scores = np.random.default_rng(0).integers(0, 6, len(pairs))
    model = SentenceTransformer(str(resolve_folder(MINILM)), device="cpu")
    left, right = map(list, zip(*pairs, strict=True))
    theirs = EmbeddingSimilarityEvaluator(left, right, [float(score) for score in scores])(model)
    (found,) = evaluate_models([MINILM], Examples("", pairs, tuple(map(str, scores))), task="sts")
    ours = {each.metric: each.value for each in found.metrics}
    for kind in ("spearman", "pearson"):
        assert ours[f"sts_{kind}"] == pytest.approx(theirs[f"{kind}_cosine"], abs=5e-4)
