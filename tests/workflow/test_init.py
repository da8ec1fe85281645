"""A recipe's first draft can be run as it stands."""

from __future__ import annotations

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest
import typer

from homoexport.documents.budget import Budget
from homoexport.documents.recipe import load_recipe
from homoexport.errors import UserError
from homoexport.stages.measure.targets import KINDS
from homoexport.workflow.check import check_recipe
from homoexport.workflow.init import init
from tests.conftest import tiny_bert, tiny_model, tiny_tokenizer, write_sentences


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def teacher(tmp_path):
    """Writes a teacher: a sentence encoder, or one with another head."""

    def write(head: str = "model") -> str:
        made = tiny_bert() if head == "model" else tiny_model("bert", head)
        made.save_pretrained(tmp_path / "teacher")
        tiny_tokenizer().save_pretrained(tmp_path / "teacher")
        return "teacher"

    return write


def rows(path, **columns) -> str:
    lines = [{name: make(number) for name, make in columns.items()} for number in range(80)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path.name


def words(number: int) -> str:
    return " ".join(f"w{(number * 7 + place) % 95}" for place in range(4 + number % 5))


def test_of_plain_text(tmp_path, teacher):
    write_sentences(tmp_path / "text.txt")
    draft = init("mine.yaml", teacher=teacher(), data="text.txt")
    recipe = load_recipe(draft.path)
    assert recipe == draft.recipe
    assert (recipe.name, recipe.teacher, recipe.distill.objective) == ("mine", "teacher", "sentence-embedding")
    assert (recipe.text.held_out, recipe.text.max_length, recipe.text.sources[0].unit) == (30, 32, "row")
    assert (recipe.student.hidden_size, recipe.student.intermediate_size) == (16, 32)
    assert draft.rows[0] == {"text": (tmp_path / "text.txt").read_text().splitlines()[0]}
    check_recipe(recipe)
    page = draft.path.read_text()
    assert "homoexport run mine.yaml --check" in page
    assert page.count("  #") >= 5


def test_lengths_are_of_texts_as_the_recipe_reads_them(tmp_path, teacher):
    """Rows of two sentences stay whole, and are twice as long as one."""
    sentence = " ".join(f"w{number}" for number in range(14))
    (tmp_path / "text.txt").write_text(f"{sentence.capitalize()}. {sentence.capitalize()}.\n" * 80)
    recipe = init("mine.yaml", teacher=teacher(), data="text.txt").recipe
    assert (recipe.text.sources[0].unit, recipe.text.max_length, recipe.measure.length) == ("row", 32, 32)


def test_of_a_budget_the_shape_is_planned(tmp_path, teacher):
    write_sentences(tmp_path / "text.txt")
    draft = init("mine.yaml", teacher=teacher(), data=["text.txt"], budget=Budget(latency_p95_ms="8ms", file_mb="4x"))
    assert load_recipe(draft.path).is_planned
    assert load_recipe(draft.path).budget.lines() == {"latency_p95_ms": 8.0, "file_mb": "4x"}


def test_of_a_classifier_labels_are_found(tmp_path, teacher):
    data = rows(tmp_path / "rows.jsonl", id=lambda n: n, review=words, label=lambda n: n % 3)
    draft = init("mine.yaml", teacher=teacher("sequence"), data=[data])
    (source,) = draft.recipe.text.sources
    assert (source.column, source.label_column, draft.recipe.finetune) == ("review", "label", None)
    assert draft.recipe.distill.objective == "classification"
    assert draft.rows[1] == {"text": words(1), "label": "1"}
    check_recipe(draft.recipe)


def write_table(path, made) -> None:
    """Rows into a file of the kind that its name ends in."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, made)))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, made[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(made)


SHAPES = {
    "texts": ("model", {"body": words}, ("body", None, None)),
    "unnamed texts": ("model", {"what_they_said": words}, ("what_they_said", None, None)),
    "pairs": ("model", {"query": words, "passage": words}, ("query", "passage", None)),
    "pairs with scores": (
        "model",
        {"sentence1": words, "sentence2": words, "score": lambda n: n / 7},
        ("sentence1", "sentence2", None),
    ),
    "labels": ("sequence", {"review": words, "sentiment": lambda n: n % 3}, ("review", None, "sentiment")),
    "names of labels": ("sequence", {"text": words, "label": lambda n: f"LABEL_{n % 3}"}, ("text", None, "label")),
    "other labels": ("sequence", {"text": words, "label": lambda n: "abc"[n % 3]}, ("text", None, None)),
    "labelled pairs": (
        "sequence",
        {"premise": words, "hypothesis": words, "label": lambda n: n % 3},
        ("premise", "hypothesis", "label"),
    ),
}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_columns_are_is_guessed(tmp_path, teacher, kind, shape):
    head, columns, found = SHAPES[shape]
    path = tmp_path / f"rows.{kind}"
    write_table(path, [{"id": f"a{n}", **{name: make(n) for name, make in columns.items()}} for n in range(80)])
    draft = init("mine.yaml", teacher=teacher(head), data=[path.name])
    (source,) = draft.recipe.text.sources
    assert (source.column, source.pair_column, source.label_column) == found
    assert draft.recipe.distill.objective == ("sentence-embedding" if head == "model" else "classification")
    assert draft.left_out == {"pairs with scores": "score", "other labels": "label"}.get(shape)
    assert draft.rows[0]["text"] == words(0)
    check_recipe(load_recipe(draft.path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_of_a_tagger_words_and_their_labels_are_found(tmp_path, teacher, kind):
    made = [{"tokens": words(n).split(), "ner_tags": [n % 3] * len(words(n).split()), "words": n} for n in range(80)]
    write_table(tmp_path / f"rows.{kind}", made)
    draft = init("mine.yaml", teacher=teacher("token"), data=[f"rows.{kind}"])
    (source,) = draft.recipe.text.sources
    assert (draft.recipe.distill.objective, source.column, source.label_column) == (
        "token-classification",
        "tokens",
        "ner_tags",
    )
    check_recipe(draft.recipe)


def test_columns_of_parquet_that_cannot_be_read_are_passed_over(tmp_path, teacher):
    write_table(tmp_path / "rows.parquet", [{"meta": {"lang": "en"}, "text": words(n)} for n in range(80)])
    draft = init("mine.yaml", teacher=teacher(), data=["rows.parquet"])
    assert draft.recipe.text.sources[0].column == "text"


@pytest.mark.parametrize(("label", "task"), [(lambda n: n % 2, "classification"), (lambda n: n / 7, "scores")])
def test_labels_that_no_teacher_knows_are_learned_by_it_first(tmp_path, teacher, label, task):
    data = rows(tmp_path / "rows.jsonl", query=words, passage=words, grade=label)
    draft = init("mine.yaml", teacher=teacher(), data=[data], columns={"label": "grade"})
    recipe = load_recipe(draft.path)
    assert (recipe.teacher, recipe.finetune.task, recipe.finetune.dev) == ("teacher", task, "dev.csv")
    with pytest.raises(UserError, match=r"finetune\.dev dev\.csv: no file matches"):
        check_recipe(recipe)
    (tmp_path / "dev.csv").write_text("query,passage,grade\n" + "".join(f"w{n} w2,w3,{label(n)}\n" for n in range(30)))
    assert check_recipe(recipe).teacher.model.config.num_labels == (1 if task == "scores" else 2)
    (source,) = draft.recipe.text.sources
    assert (source.column, source.pair_column, source.label_column) == ("query", "passage", "grade")


def test_what_lies_elsewhere_is_named_from_the_recipes_folder(tmp_path, teacher):
    write_sentences(tmp_path / "text.txt")
    draft = init("recipes/mine.yaml", teacher=teacher(), data=["*.txt"])
    assert (draft.recipe.teacher, draft.recipe.text.sources[0].files) == ("../teacher", "../*.txt")
    check_recipe(load_recipe(draft.path))


def test_nothing_is_overwritten(tmp_path, teacher):
    write_sentences(tmp_path / "text.txt")
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.yaml: already exists; name another file, or give --force"):
        init("mine.yaml", teacher=teacher(), data=["text.txt"])
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    init("mine.yaml", teacher="teacher", data=["text.txt"], force=True)
    assert load_recipe(tmp_path / "mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": "body"}, "has no column 'body'; name one of: id, n"),
        ({}, "which column has the texts\\?; name it with --text-column, one of: id, n"),
    ],
)
def test_columns_that_cannot_be_had_are_told(tmp_path, teacher, columns, said):
    data = rows(tmp_path / "rows.jsonl", id=lambda n: f"a{n}", n=lambda n: n)
    with pytest.raises(UserError, match=said):
        init("mine.yaml", teacher=teacher(), data=[data], columns=columns)
    assert not (tmp_path / "mine.yaml").exists()


def test_the_command_without_a_terminal(homoexport, tmp_path, teacher):
    write_sentences(tmp_path / "text.txt")
    missing = homoexport("init")
    assert (missing.code, "--teacher: is missing" in missing.err) == (2, True)
    done = homoexport(
        "init", "--teacher", teacher(), "--data", "text.txt", "--size", "5MB", "--device", "cpu:threads=1"
    )
    assert done.code == 0, done.err
    first = (tmp_path / "text.txt").read_text().splitlines()[0]
    assert f"  text: {first}" in done.out
    assert "homoexport run recipe.yaml --check" in done.out
    assert load_recipe(tmp_path / "recipe.yaml").measure.device == "cpu:threads=1"
    again = homoexport("init", "--teacher", "teacher", "--data", "text.txt")
    assert (again.code, "recipe.yaml: already exists" in again.err) == (2, True)


def test_the_command_says_which_labels_are_not_read(homoexport, tmp_path, teacher):
    data = rows(tmp_path / "rows.jsonl", text=words, label=lambda n: n % 2)
    done = homoexport("init", "--teacher", teacher(), "--data", data)
    told = "Not read: 'label', whose labels teacher does not know; --label-column label has it learn them first"
    assert (done.code, told in done.out) == (0, True), done.out
    found = json.loads(homoexport("init", "again.yaml", "--teacher", "teacher", "--data", data, "--json").out)
    assert (found["recipe"], found["not_read"], len(found["rows"])) == ("again.yaml", "label", 3)


def test_who_does_not_answer_leaves(homoexport, tmp_path, monkeypatch):
    def aborted(*_words, **_how):
        raise typer.Abort

    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    monkeypatch.setattr("typer.prompt", aborted)
    outcome = homoexport("init")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (130, "interrupted")
    assert not (tmp_path / "recipe.yaml").exists()


def test_the_command_asks_where_there_is_a_terminal(homoexport, tmp_path, teacher, monkeypatch):
    write_sentences(tmp_path / "text.txt")
    answers = iter([teacher(), "text.txt", "cpu", "", "5MB", ""])
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    monkeypatch.setattr("typer.prompt", lambda *_words, **_how: next(answers))
    assert homoexport("init").code == 0
    assert load_recipe(tmp_path / "recipe.yaml").budget.lines() == {"file_mb": 5.0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--device", "toaster"],
            f"device: unknown device 'toaster'; name one of: {', '.join(KINDS)}",
        ),
        (["--size", "12 parsecs"], "--size: '12 parsecs' is no size; write 12MB, or relative to the teacher: 4x, 25%"),
    ],
)
def test_what_cannot_be_is_refused_before_the_teacher_is_looked_for(homoexport, tmp_path, words, told):
    done = homoexport("init", "--teacher", "nowhere", "--data", "none.txt", *words)
    assert (done.code, done.err.splitlines()[-1]) == (2, f"error: {told}")
    assert list(tmp_path.iterdir()) == []
