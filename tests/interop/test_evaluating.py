"""Our figures of a torch model against sentence-transformers' own evaluator."""

from __future__ import annotations

import itertools
import json
import shutil

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


@pytest.mark.parametrize("default", [None, "document"])
def test_a_search_is_what_its_evaluator_says_with_the_model_s_prompts(tmp_path, default):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    folder = tmp_path / "model"
    shutil.copytree(resolve_folder(MINILM), folder)
    prompts = {"query": "How is this said in the committee's report: ", "document": "cats and dogs: "}
    settings = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    words = [text.split() for text in sample_text()]
    known = {" ".join(row[: len(row) // 2]): " ".join(row[len(row) // 2 :]) for row in words if len(row) > 8}
    pairs = tuple(known.items())
    queries, documents = ({str(row): pair[side] for row, pair in enumerate(pairs)} for side in (0, 1))
    judge = InformationRetrievalEvaluator(queries, documents, {row: {row} for row in queries}, write_csv=False)
    theirs = judge(SentenceTransformer(str(folder), device="cpu"))
    (found,) = evaluate_models([str(folder)], Examples("", pairs, None), task="search")
    ours = {each.metric: each.value for each in found.metrics}
    assert ours == pytest.approx({name: theirs[f"cosine_{name}"] for name in ours}, abs=1e-3)
    (folder / "config_sentence_transformers.json").unlink()
    (plain,) = evaluate_models([str(folder)], Examples("", pairs, None), task="search")
    assert plain.metrics[0].value != pytest.approx(ours["ndcg@10"], abs=1e-3)
