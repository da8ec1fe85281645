"""Search against people's labels: figures against plain loops and scikit-learn's, files, other models' documents."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from homoexport.documents.artifact import PackageManifest, verify, write_manifest
from homoexport.documents.evaluation import Evaluation
from homoexport.documents.package import Prompts
from homoexport.report import evaluation_table
from homoexport.runtime.inference import Package, Text, open_package
from homoexport.stages.evaluate import Examples, evaluate_models, search
from homoexport.stages.evaluate.search import Search
from tests.conftest import Outcome
from tests.stages.measure.tiny_onnx import weights, write_package

Call = Callable[..., Outcome]
RNG = np.random.default_rng(0)
ROWS = [(f"q{RNG.integers(40)}", f"d{RNG.integers(70)}", int(RNG.integers(-1, 4))) for _ in range(200)]
WORDED = [(f"w{i} w{i * 7 % 50}", f"w{i * 7 % 50} w{i} w{i * i % 40}") for i in range(40)]


class Vectors(Package):
    """A model that knows the vectors of its texts."""

    def __init__(self, package: Package, known: dict[str, np.ndarray]) -> None:
        vars(self).update(vars(package))
        self._known = known

    def embed(self, texts, batch_size=32, prompt=None):
        return np.stack([self._known[text] for text in texts])


def vectors_of(package: Package, width: int = 6, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    return Vectors(package, {name: rng.normal(size=width) for row in ROWS for name in row[:2]})


def examples_of(rows: list[tuple[str, str, int]], *, graded: bool = True) -> Examples:
    labels = tuple(str(label) for *_, label in rows) if graded else None
    return Examples("rows", tuple((query, document) for query, document, _ in rows), labels)


def by_hand(
    rows: list[tuple[str, str, int]], queries: Vectors, documents: Vectors, *, graded: bool = True
) -> dict[str, float]:
    """nDCG, MRR and recall of the first ten, one query and one document after the other."""
    worths: dict[str, dict[str, int]] = {}
    for query, document, label in rows:
        if (worth := label if graded else 1) > 0:
            worths.setdefault(query, {})[document] = max(worth, worths.get(query, {}).get(document, 0))
    figures: dict[str, list[float]] = {"ndcg@10": [], "mrr@10": [], "recall@10": []}
    known = list(dict.fromkeys(document for _, document, _ in rows))
    for query, wanted in worths.items():
        (left,) = queries.embed([query])
        scores = [
            float(left @ right / np.linalg.norm(left) / np.linalg.norm(right)) for right in documents.embed(known)
        ]
        first = [known[place] for place in sorted(range(len(known)), key=lambda place: -scores[place])][:10]
        places = [place for place, document in enumerate(first, start=1) if document in wanted]
        figures["mrr@10"].append(1 / places[0] if places else 0)
        figures["recall@10"].append(len(places) / len(wanted))
        gained = sum(wanted[first[place - 1]] / math.log2(place + 1) for place in places)
        best = sorted(wanted.values(), reverse=True)[:10]
        figures["ndcg@10"].append(
            gained / sum(worth / math.log2(place + 1) for place, worth in enumerate(best, start=1))
        )
        expected = ndcg_score([[wanted.get(document, 0) for document in known]], [scores], k=10)
        assert figures["ndcg@10"][-1] == pytest.approx(expected)
    return {name: float(np.mean(values)) for name, values in figures.items()}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return open_package(write_package(tmp_path / "model"))


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("at_once", [1, 1000, 1 << 22])
def test_figures_are_those_of_plain_loops(
    package: Package, monkeypatch: pytest.MonkeyPatch, graded: bool, at_once: int
) -> None:
    monkeypatch.setattr(search, "_SCORES_AT_ONCE", at_once)
    ours, theirs = vectors_of(package), vectors_of(package, seed=1)
    examples = examples_of(ROWS, graded=graded)
    for documents, searched in ((None, ours), (theirs, theirs)):
        found = Search(examples, documents=documents).qualities(ours, seed=0)
        figures = {each.metric: each.value for each in found}
        expected = by_hand(ROWS, ours, searched, graded=graded)
        assert {name: figures[name] for name in expected} == pytest.approx(expected)
        assert all(each.interval[0] < each.value < each.interval[1] for each in found)
        of_labels = [row for row in ROWS if row[2] > 0 or not graded]
        assert found[0].counts == {
            "queries": len({row[0] for row in of_labels}),
            "documents": len({r[1] for r in ROWS}),
        }


@pytest.mark.parametrize(
    ("texts", "default", "of_queries", "of_documents"),
    [
        ({"query": "w1 ", "document": "w2 ", "passage": "w3 "}, None, "w1 ", "w2 "),
        ({"query": "w1 ", "document": "", "passage": "w3 "}, None, "w1 ", "w3 "),
        ({"query": "w1 ", "corpus": "w2 ", "other": "w3 "}, "other", "w1 ", "w2 "),
        ({"query": "", "other": "w3 "}, "other", "", "w3 "),
        ({"other": "w3 "}, None, "", ""),
    ],
)
def test_queries_and_documents_stand_behind_prompts_of_their_own(
    tmp_path: Path, texts: dict[str, str], default: str | None, of_queries: str, of_documents: str
) -> None:
    folder = write_package(tmp_path / "model")
    plain = open_package(folder)
    details = verify(folder, PackageManifest).details
    prompts = Prompts(texts=texts, default=default)
    write_manifest(folder, "package", details=details.model_copy(update={"prompts": prompts}))
    examples = Examples("", tuple(WORDED), None)
    before = Examples("", tuple((of_queries + query, of_documents + document) for query, document in WORDED), None)
    for documents in (None, folder):
        (found,) = evaluate_models([str(folder)], examples, task="search", documents=documents and str(documents))
        judge = Search(before, documents=documents and plain)
        assert list(found.metrics) == [each.figure for each in judge.qualities(plain, seed=0)]


def test_what_is_kept_is_a_share_of_the_same_queries(package: Package) -> None:
    theirs = vectors_of(package)
    near = Vectors(package, {name: vector + 0.2 * RNG.normal(size=6) for name, vector in theirs._known.items()})
    judge = Search(examples_of(ROWS), documents=theirs)
    of_near, of_theirs = ({each.metric: each for each in judge.qualities(model, seed=0)} for model in (near, theirs))
    kept = of_near["ndcg@10_kept"]
    assert kept.value == pytest.approx(of_near["ndcg@10"].value / of_theirs["ndcg@10"].value)
    assert kept.draws == pytest.approx(of_near["ndcg@10"].draws / of_theirs["ndcg@10"].draws)
    assert of_theirs["ndcg@10_kept"].interval == (1, 1)
    (low, high), (least, most) = kept.interval, of_near["ndcg@10"].interval
    assert high - low < (most - least) / of_theirs["ndcg@10"].value  # than if the teacher's figure were a constant


def test_documents_that_score_the_same_are_not_found_by_their_place(package: Package) -> None:
    rows = [(f"q{i}", f"d{i}", 1) for i in range(30)]
    same = Vectors(package, dict.fromkeys((name for row in rows for name in row[:2]), np.ones(6)))
    found = Search(examples_of(rows)).qualities(same, seed=0)
    assert [each.value for each in found] == [0, 0, 0]
    noisy = Vectors(package, {name: vector + 1e-8 * RNG.normal(size=6) for name, vector in same._known.items()})
    assert Search(examples_of(rows)).qualities(noisy, seed=0) == found
    order = RNG.permutation(len(ROWS)).tolist()
    moved = Search(examples_of([ROWS[row] for row in order])).qualities(vectors_of(package), seed=0)
    still = Search(examples_of(ROWS)).qualities(vectors_of(package), seed=0)
    assert [each.value for each in moved] == pytest.approx([each.value for each in still])


def test_fewer_documents_than_ten_are_all_found(package: Package) -> None:
    rows = [("q1", "d1", 1), ("q1", "d2", 1), ("q2", "d3", 1), ("q2", "d1", 0)]
    known = vectors_of(package)._known | {name: RNG.normal(size=6) for row in rows for name in row[:2]}
    figures = {each.metric: each.value for each in Search(examples_of(rows)).qualities(Vectors(package, known), seed=0)}
    assert figures["recall@10"] == 1
    assert figures == pytest.approx(figures | by_hand(rows, Vectors(package, known), Vectors(package, known)))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A teacher's package and one near it, beside pairs.jsonl, in the present folder."""
    monkeypatch.chdir(tmp_path)
    rows = [{"query": query, "document": document} for query, document in WORDED]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arrays = weights()
    noise = np.random.default_rng(0).normal(size=arrays["embedding"].shape).astype(np.float32)
    near = {**arrays, "embedding": arrays["embedding"] + 0.5 * noise}
    return str(write_package(Path("teacher"))), str(write_package(Path("student"), arrays=near))


def test_the_command_says_whose_documents_were_searched(homoexport: Call, models: tuple[str, str]) -> None:
    teacher, student = models
    flags = (student, teacher, "--task", "search", "--data", "pairs.jsonl", "--json")
    told = [homoexport("eval", *flags, *more).out for more in ((), ("--documents", teacher))]
    alone, among = map(Evaluation.model_validate_json, told)
    assert [each.metric for each in alone.results[0].metrics] == ["ndcg@10", "mrr@10", "recall@10"]
    assert alone.results[1].metrics == among.results[1].metrics[:3]  # the teacher among its own documents
    assert (among.documents, among.documents_digest) == (teacher, among.results[1].digest)
    (first, *_, kept), theirs = among.results[0].metrics, among.results[1].metrics[0]
    assert (kept.metric, kept.value) == ("ndcg@10_kept", pytest.approx(first.value / theirs.value))
    queries, documents = ([pair[side] for pair in WORDED] for side in (0, 1))
    known = [
        Vectors(open_package(Path(name)), dict(zip(texts, open_package(Path(name)).embed(texts), strict=True)))
        for name, texts in ((student, queries), (teacher, documents))
    ]
    expected = by_hand([(*pair, 1) for pair in WORDED], *known)
    assert {each.metric: each.value for each in among.results[0].metrics[:3]} == pytest.approx(expected)
    assert "documents by each model itself" in (evaluation_table(alone).title or "")
    assert "documents by teacher" in (evaluation_table(among).title or "")


def test_files_with_other_columns_and_with_relevance(homoexport: Call, models: tuple[str, str]) -> None:
    rows = [f"{query}\t{document}\t{row % 3}" for row, (query, document) in enumerate(WORDED)]
    Path("rows.tsv").write_text("\n".join(["question\tanswer\tgrade", *rows]))
    named = ("--text-column", "question", "--pair-column", "answer", "--label-column", "grade")
    told = homoexport("eval", models[0], "--task", "search", "--data", "rows.tsv", *named, "--json")
    labels = tuple(str(row % 3) for row in range(len(WORDED)))
    expected = evaluate_models([models[0]], Examples("", tuple(WORDED), labels), task="search")
    assert Evaluation.model_validate_json(told.out).results == expected
    assert expected[0].metrics[0].queries == sum(label != "0" for label in labels)


def test_vectors_that_are_cut_search_documents_that_are_cut(homoexport: Call, models: tuple[str, str]) -> None:
    teacher, student = models
    flags = ("--task", "search", "--data", "pairs.jsonl", "--documents", teacher, "--dimensions", "4", "--json")
    (found,) = Evaluation.model_validate_json(homoexport("eval", student, *flags).out).results
    queries, documents = ([pair[side] for pair in WORDED] for side in (0, 1))
    cut = [
        Vectors(open_package(Path(name)), dict(zip(texts, open_package(Path(name)).embed(texts)[:, :4], strict=True)))
        for name, texts in ((student, queries), (teacher, documents))
    ]
    figures = {each.metric: each.value for each in found.metrics if each.dimensions == 4}
    assert figures == pytest.approx(figures | by_hand([(*pair, 1) for pair in WORDED], *cut))
    assert len(found.metrics) == 2 * len(figures)


@pytest.mark.parametrize(
    ("rows", "flags", "told"),
    [
        ("title,body\na,b\n", (), "has no column 'query'; set --text-column to one of: title, body"),
        ("query,body\na,b\n", (), "has no column 'document'; set --pair-column to one of: query, body"),
        ("query,document\n", (), "holds no text"),
        ("query\na\nb\n", ("--pair-column", "query"), "paired with itself: column 'query'; name another"),
        ("query,document\na,b\nc,b\n", (), "has one document, which every query finds; give several"),
        ("query,document\na b,c d\ne f\n", (), "rows.csv, row 2: has a query and no document (1 of 2 rows); add"),
        ("query,document\n,a\nb,\n,\nc,  \n", (), "rows.csv, row 2: has a query and no document (2 of 3 rows)"),
        ("query,document\n,a\n ,b\n", (), "rows.csv: has no query; name another --text-column"),
        ("query,document,grade\na,b,0\nc,d,-1\n", ("--label-column", "grade"), "says of no document that it is"),
        (
            "query,document,grade\na,b,1\nc,d,much\n",
            ("--label-column", "grade"),
            "rows.csv, row 2: the label 'much' is no number",
        ),
        ("query,document\na,b\nc,d\n", ("--documents", "narrow"), "has vectors of 16, and the documents' are of 8"),
        ("query,document\na,b\nc,d\n", ("--teacher", "teacher"), "makes no difference here"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    homoexport: Call, models: tuple[str, str], rows: str, flags: tuple[str, ...], told: str
) -> None:
    Path("rows.csv").write_text(rows)
    write_package(Path("narrow"), arrays=weights(hidden=8))
    found = homoexport("eval", models[1], "--task", "search", "--data", "rows.csv", *flags)
    assert (found.code, told in found.err, "Traceback" in found.err) == (2, True, False), found.err


def test_a_document_that_no_query_asks_for_is_searched(homoexport: Call, models: tuple[str, str]) -> None:
    asked = [{"query": query, "document": document, "grade": 1} for query, document in WORDED[:30]]
    of_none = [{"query": None, "document": WORDED[30][1], "grade": 3}, {"query": " ", "document": WORDED[31][1]}]
    of_none.append({"document": WORDED[32][1], "grade": "none"})
    blank = [{"query": "", "document": None}]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, [*asked, *of_none, *blank])))
    told = homoexport(
        "eval", models[0], "--task", "search", "--data", "rows.jsonl", "--label-column", "grade", "--json"
    )
    (found,) = Evaluation.model_validate_json(told.out).results
    package = open_package(Path(models[0]))
    texts = [text for pair in WORDED for text in pair]
    known = Vectors(package, dict(zip(texts, package.embed(texts), strict=True)))
    rows = [(*pair, 1) for pair in WORDED[:30]] + [("never asked", pair[1], 0) for pair in WORDED[30:33]]
    assert {each.metric: each.value for each in found.metrics} == pytest.approx(by_hand(rows, known, known))
    documents = len({pair[1] for pair in WORDED[:33]})
    assert {(each.queries, each.documents) for each in found.metrics} == {(30, documents)}


def test_of_one_pair_s_labels_the_highest_counts(package: Package) -> None:
    twice = [*ROWS, ("q1", "d1", 3), ("q1", "d1", -1)]
    once = [*(row for row in ROWS if row[:2] != ("q1", "d1")), ("q1", "d1", 3)]
    model = vectors_of(package)
    figures = [
        {each.metric: each.value for each in Search(examples_of(rows)).qualities(model, seed=0)}
        for rows in (twice, once)
    ]
    assert figures[0] == pytest.approx(figures[1])


@pytest.mark.parametrize("count", [1, 29, 30])
def test_few_queries_have_no_interval_and_the_table_says_so(
    homoexport: Call, models: tuple[str, str], count: int
) -> None:
    rows = [{"query": WORDED[row % count][0], "document": WORDED[row][1]} for row in range(40)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows * 2)))
    flags = (models[0], "--task", "search", "--data", "rows.jsonl")
    told = json.loads(homoexport("eval", *flags, "--json").out)
    jsonschema.validate(told, Evaluation.model_json_schema(mode="serialization"))
    assert {"interval" in each for each in told["results"][0]["metrics"]} == {count == 30}
    table = evaluation_table(Evaluation.model_validate(told, strict=False))
    documents = len({pair[1] for pair in WORDED})
    queries = "1 query" if count == 1 else f"{count} queries"
    assert table.title == f"search on rows.jsonl ({queries}, {documents} documents by each model itself)"
    assert all(cell.endswith("\n-") == (count < 30) for cell in table.rows[0][2:])
    said = homoexport("eval", *flags).out
    assert ("note: no interval of fewer than 30 queries" in said) == (count < 30)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--dimensions", "8,500"), "has vectors of 16, which cannot be cut to 500; give --dimensions of 16 or less"),
        (("--documents", "narrow"), "has vectors of 16, and the documents' are of 8"),
        (("-o", "pairs.jsonl/found"), "cannot be made"),
        (("-o", "/proc/found"), "/proc/"),
    ],
)
def test_what_will_not_do_is_refused_before_the_texts_are_embedded(
    homoexport: Call, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: str
) -> None:
    write_package(Path("narrow"), arrays=weights(hidden=8))
    embedded: list[str] = []
    embed = Package.embed

    def noted(self: Package, texts: Sequence[Text], batch_size: int = 32, prompt: str | None = None) -> np.ndarray:
        embedded.extend(str(text) for text in texts)
        return embed(self, texts, batch_size, prompt)

    monkeypatch.setattr(Package, "embed", noted)
    found = homoexport("eval", models[1], "--task", "search", "--data", "pairs.jsonl", *flags)
    assert (found.code, told in found.err, set(embedded) <= {""}) == (2, True, True), found.err


@pytest.mark.parametrize(("count", "told"), [(1, "few.txt: 1 text; give 12 or more"), (11, "few.txt: 11 texts; give")])
def test_too_few_texts_for_fidelity_are_told_before_a_model_runs(
    homoexport: Call, models: tuple[str, str], monkeypatch: pytest.MonkeyPatch, count: int, told: str
) -> None:
    Path("few.txt").write_text("\n".join(query for query, _ in WORDED[:count]))
    monkeypatch.setattr(Package, "run", None)
    found = homoexport("eval", models[1], "--task", "fidelity", "--data", "few.txt", "--teacher", models[0])
    assert (found.code, told in found.err) == (2, True), found.err


def test_a_number_for_a_document_is_told_with_its_column(homoexport: Call, models: tuple[str, str]) -> None:
    Path("rows.jsonl").write_text('{"query": "a", "document": "b"}\n{"query": "c", "document": 5}')
    found = homoexport("eval", models[0], "--task", "search", "--data", "rows.jsonl")
    told = "rows.jsonl, row 2: column 'document' holds int, not text; name another --pair-column"
    assert (found.code, told in found.err) == (2, True), found.err
    found = homoexport("eval", models[0], "--task", "search")
    assert (found.code, "--task search: has no data to judge on; name files with --data" in found.err) == (2, True)


def test_lines_of_text_are_no_pairs(homoexport: Call, models: tuple[str, str]) -> None:
    Path("texts.txt").write_text("w1 w2\nw3 w4\n")
    found = homoexport("eval", models[0], "--task", "search", "--data", "texts.txt")
    assert (found.code, "texts.txt: has lines of text, and no columns; give jsonl, csv" in found.err) == (2, True)
