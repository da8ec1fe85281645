"""Figures of classifiers against scikit-learn's and scipy's."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.metrics import ndcg_score

from homoexport.errors import TextError
from homoexport.stages.evaluate.classification import (
    LabelCounts,
    calibration_error,
    classification_qualities,
    f1,
    matthews,
    ranking_qualities,
    score_qualities,
)
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.labels import label_indices, label_places, names_of


def guesses(classes: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = rng.choice(classes, count, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    return rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_figures_are_scikit_learns(classes):
    logits, labels = guesses(classes)
    found = {each.metric: each for each in classification_qualities(logits, labels, seed=0)}
    likeliest = logits.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": metrics.accuracy_score(labels, likeliest),
        "f1": metrics.f1_score(labels, likeliest, average=average),
        "matthews": metrics.matthews_corrcoef(labels, likeliest),
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    for each in found.values():
        assert each.interval[0] < each.value < each.interval[1]
        assert each.counts == {"texts": 300}


def test_where_nothing_varies_figures_are_scikit_learns_too():
    truth, guess = np.array([0, 1, 1]), np.array([1, 1, 1])
    assert matthews(LabelCounts.of(truth, guess, np.ones(3), classes=2)) == metrics.matthews_corrcoef(truth, guess) == 0
    same = np.array([0, 0, 2, 2, 2])
    found = f1(LabelCounts.of(same, same, np.ones(5), classes=3))
    assert found == metrics.f1_score(same, same, average="macro")


def test_one_that_is_as_often_right_as_it_says_is_calibrated():
    confidence = np.array([0.75] * 4 + [0.5] * 4)
    right = np.array([True] * 3 + [False] + [True] * 2 + [False] * 2)
    assert calibration_error(confidence, right, np.ones(8)) == pytest.approx(0)
    assert calibration_error(np.ones(8), right, np.ones(8)) == pytest.approx(3 / 8)
    weights = np.array([2.0, 2, 2, 0, 1, 1, 1, 1])
    assert calibration_error(confidence, right, weights) == pytest.approx((6 - 4.5) / 10)


def test_scores_are_scipys_correlations():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=50), rng.integers(0, 6, 50)
    pearson, spearman = score_qualities(scores, truth.tolist(), seed=0)
    assert pearson.value == pytest.approx(stats.pearsonr(scores, truth).statistic)
    assert spearman.value == pytest.approx(stats.spearmanr(scores, truth).statistic)
    with pytest.raises(TextError, match="give 3 or more"):
        score_qualities(scores[:2], [1, 2], seed=0)


def test_rankings_are_scikit_learns_ndcg_over_queries():
    rng = np.random.default_rng(0)
    queries = np.repeat([0, 1, 2, 3], [12, 5, 3, 2])
    rows = rng.permutation(22)
    scores, truth = rng.normal(size=22), rng.integers(1, 5, 22)
    truth[queries == 3] = 2  # one of which nothing can be ranked
    each = [ndcg_score([truth[queries == q] - truth.min()], [scores[queries == q]], k=10) for q in range(3)]
    (found,) = ranking_qualities(scores[rows], truth[rows].tolist(), queries[rows], seed=0)
    assert (found.metric, found.value) == ("ndcg@10", pytest.approx(np.mean(each)))
    assert (found.figure.queries, found.figure.pairs) == (3, 20)
    (blind,) = ranking_qualities(np.zeros(22), truth.tolist(), queries, seed=0)
    assert blind.value < found.value  # the files' order is no help to a model that tells nothing apart
    assert not ranking_qualities(scores, [1.0] * 22, queries, seed=0)


def test_pairs_are_queries_and_documents_where_first_texts_come_twice():
    pairs = tuple((query, document) for query in ("a", "b", "c") for document in ("x", "y"))
    assert Examples("file", pairs, None).queries.tolist() == [0, 0, 1, 1, 2, 2]
    assert Examples("file", (*pairs, ("d", "x")), None).queries is None
    assert Examples("file", ("a", "a"), None).queries is None


def test_labels_are_names_or_numbers():
    names = ("bad", "good")
    assert label_indices(["good", "bad", "good"], names, where="x").tolist() == [1, 0, 1]
    assert label_indices(["1", "0"], names, where="x", numbered=True).tolist() == [1, 0]
    for labels, unknown in ((["good", "1"], "1"), (["0", "2"], "2"), (["fine"], "fine")):
        with pytest.raises(TextError, match=f"x: the label '{unknown}' is none of the model's .bad, good."):
            label_indices(labels, names, where="x", numbered=True)
    with pytest.raises(TextError, match="the label '1' is none"):
        label_indices(["1", "0"], names, where="x")


def test_numbers_are_no_places_where_the_models_labels_are_numbers():
    for labels in (["0", "1", "2"], ["2", "1", "0"]):
        with pytest.raises(TextError, match="the label '0' is none of the model's"):
            label_indices(labels, ("1", "2", "10"), where="x", numbered=True)
    assert label_indices(["10", "1"], ("1", "2", "10"), where="x", numbered=True).tolist() == [2, 0]
    assert names_of(["10", "2", "b", "1", "a", "2"]) == ("1", "2", "10", "a", "b")


def test_known_labels_are_found_by_name_before_their_place():
    wanted = ("negative", "positive")
    assert label_places(wanted, ("POSITIVE", "NEGATIVE")) == [1, 0]
    assert label_places(("not_entailment", "entailment"), ("Entailment", "not entailment")) == [1, 0]
    assert label_places(wanted, ("LABEL_0", "LABEL_1")) == label_places(wanted, ("0", "1")) == [0, 1]
    for other in (("bad", "good"), ("LABEL_1", "LABEL_0"), ("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "good")):
        assert label_places(wanted, other) is None
    assert label_places(("a", "A"), ("A", "a")) == [1, 0]
    right = label_indices(["positive", "negative"], ("POSITIVE", "NEGATIVE"), where="x", order=wanted)
    assert right.tolist() == [0, 1]


def test_many_labels_cost_no_square_of_them():
    began = time.process_time()
    labels = np.arange(1000)
    classification_qualities(np.eye(1000), labels, seed=0)
    assert time.process_time() - began < 3


def test_calibration_error_is_at_most_1():
    (_, _, _, error) = classification_qualities(np.array([[0.0, 9]] * 9 + [[9, 0.0]]), np.array([0] * 10), seed=0)
    assert error.value == pytest.approx(0.9, abs=0.01)
    assert error.interval[1] <= 1
