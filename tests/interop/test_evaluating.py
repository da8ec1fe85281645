"""Our figures of a torch model against sentence-transformers' own evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from homoexport.encoder import resolve_folder
from homoexport.evaluate import Examples, evaluate_models
from homoexport.sample_text import SAMPLE_TEXT
from tests.conftest import MINILM

pytestmark = [pytest.mark.interop, pytest.mark.weights]


def test_sts_is_what_sentence_transformers_evaluator_says():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator

    rng = np.random.default_rng(0)
    left, right = (rng.choice(SAMPLE_TEXT, 60) for _ in range(2))
    scores = rng.integers(0, 6, 60)
    model = SentenceTransformer(str(resolve_folder(MINILM)), device="cpu")
    evaluator = EmbeddingSimilarityEvaluator(list(left), list(right), [float(score) for score in scores])
    theirs = evaluator(model)
    pairs = tuple((str(one), str(other)) for one, other in zip(left, right, strict=True))
    (found,) = evaluate_models([MINILM], Examples("", pairs, tuple(map(str, scores))), task="sts")
    ours = {each["metric"]: each["value"] for each in found["metrics"]}
    for kind in ("spearman", "pearson"):
        assert ours[f"sts_{kind}"] == pytest.approx(theirs[f"{kind}_cosine"], abs=5e-4)
