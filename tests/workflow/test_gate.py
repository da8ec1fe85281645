"""Floors of quality: absolute, or a share of the teacher's on the same draws; what cannot be judged is told early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from homoexport.documents.budget import QUALITY_LINE
from homoexport.documents.recipe import QualitySettings
from homoexport.errors import PackageError, RecipeError, TextError
from homoexport.report.wording import budget_line
from homoexport.runtime.inference import Package, open_package
from homoexport.workflow.gate import Gate, check_gate, gate_data
from tests.stages.measure.tiny_onnx import weights, write_package

RNG = np.random.default_rng(0)
PAIRS = [(f"w{a} w{b}", f"w{c} w{a} w{d}") for a, b, c, d in RNG.integers(0, 50, (300, 4))]


class Noisy(Package):
    """A package whose vectors come with noise of a size."""

    def __init__(self, package: Package, noise: float) -> None:
        self.__dict__ |= package.__dict__
        self._noise = noise

    def embed(self, texts, batch_size=32, prompt=None):
        vectors = super().embed(texts, batch_size, prompt)
        return vectors + self._noise * np.random.default_rng(len(texts[0])).normal(size=vectors.shape)


def check(settings: QualitySettings, folder: Path, **given: int | None) -> None:
    """`check_gate` with a package for its teacher."""
    check_gate(settings, gate_data(settings), teacher=open_package(folder), **given)


@pytest.fixture
def gate(tmp_path: Path) -> Callable[..., tuple[Gate, Package]]:
    """A gate on pairs that the teacher itself scored, with some noise, and the teacher."""

    def make(floor: str, **settings: object) -> tuple[Gate, Package]:
        folder = write_package(tmp_path / "teacher")
        package = open_package(folder, threads=1)
        left, right = (package.embed([pair[side] for pair in PAIRS]) for side in (0, 1))
        scores = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
        scores += 0.3 * np.random.default_rng(1).normal(size=len(scores))
        rows = [f"{a},{b},{score}" for (a, b), score in zip(PAIRS, scores, strict=True)]
        (tmp_path / "sts.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
        given = {"task": "sts", "data": str(tmp_path / "sts.csv"), **settings}
        return Gate(QualitySettings(floor=floor, **given), teacher=package, texts=(), seed=0), package

    return make


def test_a_floor_is_held_with_its_interval(gate) -> None:
    made, teacher = gate("0.1")
    figure = made.judge(teacher)
    assert (figure.line, figure.limit, figure.kept, figure.at_least) == ("quality.sts_spearman", 0.1, True, True)
    assert (figure.data, figure.asked, figure.teacher) == ("sts.csv", None, figure.measured)
    low, high = figure.interval
    assert low < figure.measured < high
    for floor, kept in ((low - 0.001, True), (figure.measured - 0.001, None), (high + 0.001, False)):
        assert gate(f"{floor:.4f}")[0].judge(teacher).kept is kept


def test_a_share_of_the_teachers_is_held_draw_by_draw(gate) -> None:
    made, teacher = gate("97%")
    assert made.judge(teacher).kept is True  # though the interval of its figure reaches far below
    figure = made.judge(teacher)
    assert figure.limit == pytest.approx(0.97 * figure.measured)
    assert figure.interval[0] < figure.limit
    assert gate("100%")[0].judge(teacher).kept is True
    assert gate("103%")[0].judge(teacher).kept is False
    noise = 0.3 * float(np.std(teacher.embed([PAIRS[0][0]])))
    worse = made.judge(Noisy(teacher, noise))
    assert worse.measured < figure.measured
    assert [gate(share)[0].judge(Noisy(teacher, noise)).kept for share in ("30%", "103%")] == [True, False]


def test_a_share_is_told_with_the_interval_that_decides(gate) -> None:
    _, teacher = gate("97%")
    other = Noisy(teacher, 0.3 * float(np.std(teacher.embed([PAIRS[0][0]]))))
    low, high = gate("97%")[0].judge(other).share_interval
    for share, kept in ((low - 0.001, True), (sum((low, high)) / 2, None), (high + 0.001, False)):
        judged = gate(f"{100 * share:.2f}%")[0].judge(other)
        assert (judged.kept, judged.share_interval) == (kept, (low, high))
        assert judged.limit == pytest.approx(judged.teacher * share, rel=1e-3)
        assert judged.asked == f"{100 * share:.2f}%"
    assert gate("0.1")[0].judge(other).share_interval is None


def test_fidelity_needs_no_files_but_the_held_out_text(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher")
    texts = [left for left, _ in PAIRS[:40]]
    made = Gate(QualitySettings(floor="90%"), teacher=open_package(folder), texts=texts, seed=0)
    verdict = made.judge(open_package(folder, threads=1))
    assert (verdict.line, verdict.limit, verdict.measured, verdict.kept) == ("quality.overlap@10", 0.9, 1.0, True)
    assert (verdict.data, verdict.asked, verdict.teacher) == ("held-out text", "90%", 1.0)
    settings = QualitySettings(floor="0.5", metric="similarity_spearman")
    other = Gate(settings, teacher=open_package(folder), texts=texts, seed=0)
    assert other.judge(open_package(folder, threads=1)).measured == pytest.approx(1)
    with pytest.raises(TextError, match="no held-out text"):
        Gate(QualitySettings(floor="90%"), teacher=open_package(folder), texts=[], seed=0)


def test_the_figure_is_evals(gate) -> None:
    made, teacher = gate("0.1", metric="sts_pearson")
    left, right = (teacher.embed([pair[side] for pair in PAIRS]) for side in (0, 1))
    cosines = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    scores = cosines + 0.3 * np.random.default_rng(1).normal(size=len(cosines))
    assert made.judge(teacher).measured == pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"metric": "accuracy"}, RecipeError, "there is no 'accuracy' .sts.; name one of: sts_spearman, sts_pearson"),
        ({"data": "nothing.csv"}, TextError, "no file matches"),
        ({"label_column": "points"}, TextError, "no column 'points'"),
        ({"task": "classification", "text_column": "sentence1", "label_column": "score"}, PackageError, "is for"),
        ({"task": "sst2", "data": None, "data_dir": "nowhere"}, TextError, "nowhere.*with quality.data_dir"),
        ({"label_column": "sentence1"}, TextError, "is no number; name the column of scores with quality.label_column"),
    ],
)
def test_what_cannot_be_judged_is_told_before_the_work(gate, tmp_path: Path, settings, error, words) -> None:
    gate("0.1")
    given = {"task": "sts", "data": str(tmp_path / "sts.csv"), "floor": "0.5", **settings}
    chosen = QualitySettings(**{name: value for name, value in given.items() if value is not None})
    with pytest.raises(error, match=words):
        check(chosen, tmp_path / "teacher")


def test_all_scores_are_looked_at_before_the_work(gate, tmp_path: Path) -> None:
    _, teacher = gate("0.1")
    settings = QualitySettings(task="sts", data=str(tmp_path / "sts.csv"), floor="0.5")
    rows = [f"{a},{b},{5 if row < 290 else row % 5}" for row, (a, b) in enumerate(PAIRS)]
    path = tmp_path / "sts.csv"
    path.write_text("\n".join(["sentence1,sentence2,score", *rows]))  # the first of them are all alike
    check(settings, teacher.details.folder)
    path.write_text("\n".join(["sentence1,sentence2,score", *rows, "w1,w2,good"]))
    with pytest.raises(TextError, match=r"sts\.csv, row 301: the label 'good' is no number"):
        check(settings, teacher.details.folder)


def test_a_floor_can_be_under_a_rankings_ndcg(tmp_path: Path) -> None:
    rows = [f"w{query},w{document},{(query + document) % 3}" for query in range(40) for document in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(["text,pair,label", *rows]))
    arrays = weights()
    arrays["head"] = arrays["head"][:, :1]
    folder = write_package(tmp_path / "teacher", "text-classification", arrays=arrays, labels=["relevance"])
    given = {"task": "classification", "data": str(tmp_path / "data.csv"), "pair_column": "pair", "floor": "0.01"}
    settings = QualitySettings(metric="ndcg@10", **given)
    check(settings, folder)
    judged = Gate(settings, teacher=open_package(folder), texts=(), seed=0).judge(open_package(folder))
    assert (judged.line, judged.kept) == (f"{QUALITY_LINE}ndcg@10", True)


def test_all_labels_are_looked_at_before_the_work(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher", "text-classification", labels=["no", "yes"])
    rows = [f"{left},{'no' if row % 2 else 'yes'}" for row, (left, _) in enumerate(PAIRS)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows, "w1,perhaps"]))
    settings = QualitySettings(task="classification", data=str(tmp_path / "data.csv"), floor="0.5")
    with pytest.raises(TextError, match=r"the label 'perhaps' is none of the model's .*quality\.label_column"):
        check(settings, folder)


def test_a_tagger_has_a_gate(tmp_path: Path) -> None:
    arrays = weights()
    arrays["head"] = arrays["head"][:, :2]
    folder = write_package(tmp_path / "teacher", "token-classification", arrays=arrays, labels=["O", "B-X"])
    rows = [json.dumps({"tokens": left.split(), "ner_tags": ["O", "B-X"]}) for left, _ in PAIRS]
    (tmp_path / "ner.jsonl").write_text("\n".join(rows))
    settings = QualitySettings(task="tagging", data=str(tmp_path / "ner.jsonl"), floor="0.5")
    check(settings, folder)
    (tmp_path / "ner.jsonl").write_text("\n".join([*rows, '{"tokens": ["w1"], "ner_tags": ["B-Y"]}']))
    with pytest.raises(TextError, match="the label 'B-Y' is none of the model's"):
        check(settings, folder)


def test_a_narrower_student_has_no_cosine_to_its_teacher(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher")
    settings = QualitySettings(metric="mean_cosine", floor="0.9")
    for width in (None, 16):
        check(settings, folder, hidden_size=width)
    with pytest.raises(RecipeError, match=r"quality\.metric: there is no cosine of vectors of 8"):
        check(settings, folder, hidden_size=8)


def test_a_few_examples_prove_nothing(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher")
    for count, kept in ((29, None), (30, True)):
        texts = [left for left, _ in PAIRS[:count]]
        made = Gate(QualitySettings(floor="50%"), teacher=open_package(folder), texts=texts, seed=0)
        assert made.judge(open_package(folder, threads=1)).kept is kept


def test_what_has_no_floor_is_told(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher", "fill-mask")
    (tmp_path / "texts.txt").write_text("\n".join(left for left, _ in PAIRS))
    check(QualitySettings(task="masked-lm", floor="50%"), folder)  # none of its words is in a sample
    settings = QualitySettings(task="masked-lm", metric="loss", floor="0.5", data=str(tmp_path / "texts.txt"))
    with pytest.raises(RecipeError, match="of 'loss' less is better, so it has no floor"):
        check(settings, folder)


def test_search_is_held_among_the_documents_of_whom_the_student_answers_like(tmp_path: Path) -> None:
    rows = [json.dumps({"query": query, "document": document}) for query, document in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    teacher = open_package(write_package(tmp_path / "teacher"))
    student = open_package(write_package(tmp_path / "student", arrays=weights(seed=1)))  # in another space
    settings = QualitySettings(task="search", data=str(tmp_path / "pairs.jsonl"), metric="ndcg@10", floor="50%")
    own, asymmetric = (
        Gate(settings, teacher=teacher, texts=(), seed=0, output=output) for output in ("student", "teacher")
    )
    verdicts = [gate.judge(student) for gate in (own, asymmetric)]
    assert [verdict.kept for verdict in verdicts] == [True, False]
    assert verdicts[0].limit == pytest.approx(verdicts[1].limit)  # the teacher searches its own in both
    assert [budget_line(verdict.line)[0] for verdict in verdicts] == [
        "Quality (ndcg@10, documents by the student)",
        "Quality (ndcg@10, documents by the teacher)",
    ]
    assert asymmetric.judge(teacher).kept is True


@pytest.mark.parametrize(
    ("rows", "given", "words"),
    [
        ("title,body\na,b\n", {}, "has no column 'query'; set quality.text_column to one of: title, body"),
        ("query,document\na,b\nc,b\n", {}, "has one document"),
        ("query,document\na,b\nc,d\n", {"metric": "recall"}, "name one of: ndcg@10, mrr@10, recall@10"),
        ("query,document,grade\na,b,1\nc,d,much\n", {"label_column": "grade"}, "'much' is no number.*quality.label_"),
    ],
)
def test_what_cannot_be_searched_is_told_before_the_work(tmp_path: Path, rows: str, given, words: str) -> None:
    folder = write_package(tmp_path / "teacher")
    (tmp_path / "rows.csv").write_text(rows)
    settings = QualitySettings(task="search", data=str(tmp_path / "rows.csv"), floor="50%", **given)
    with pytest.raises((RecipeError, TextError), match=words):
        check(settings, folder)


def test_few_queries_among_many_documents_show_that_a_search_can_be_judged(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "teacher")
    rows = [f"{'w1' if row == 71 else ''},w{row % 40} w{row % 7}" for row in range(200)]
    (tmp_path / "rows.csv").write_text("\n".join(["query,document", *rows]))
    check(QualitySettings(task="search", data=str(tmp_path / "rows.csv"), floor="50%"), folder)


def test_a_few_rows_show_that_a_search_can_be_judged(tmp_path: Path) -> None:
    """Of many rows that are not to be found, or that are all of one document, one is looked at that is."""
    folder = write_package(tmp_path / "teacher")
    rows = [f"w{row % 40},w{row // 190},{int(row == 150)}" for row in range(200)]
    (tmp_path / "rows.csv").write_text("\n".join(["query,document,grade", *rows]))
    given = {"data": str(tmp_path / "rows.csv"), "floor": "50%", "label_column": "grade"}
    check(QualitySettings(task="search", **given), folder)
