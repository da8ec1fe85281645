"""Recipes: every shipped one parses; mistakes are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from homoexport.documents.evaluation import Columns
from homoexport.documents.recipe import (
    FinetuneRecipe,
    FinetuneSettings,
    PlanRecipe,
    Recipe,
    load_recipe,
    parse_as,
    read_recipe_tree,
    with_target,
)
from homoexport.errors import RecipeError
from homoexport.stages.measure import find_target
from tests.snippets import snippets

FOLDER = Path(__file__).parents[2] / "recipes"
FINETUNING = [FOLDER / "glue.yaml"]
TARGETS = sorted((FOLDER / "targets").glob("*.yaml"))
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - {*FINETUNING, *TARGETS})
MINIMAL = {
    "teacher": "some/model",
    "text": {"sources": [{"files": "*.txt"}]},
    "student": {"hidden_size": 192},
    "distill": {"objective": "masked-lm", "steps": 10, "batch_size": 4},
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_parse(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_shipped_targets_lie_over_a_recipe(path):
    target = read_recipe_tree(path, is_target=True)
    assert target.keys() == {"measure", "budget"}
    recipe = parse_as(Recipe, with_target(read_recipe_tree(FOLDER / "budget.yaml"), target), where=str(path))
    assert recipe.measure.device == target["measure"]["device"]
    assert recipe.budget.lines().keys() == target["budget"].keys()
    find_target(recipe.measure.device)
    assert path.read_text().startswith("# ")


def test_recipe_without_a_student_needs_a_budget():
    tree = {key: value for key, value in MINIMAL.items() if key != "student"}
    with pytest.raises(RecipeError, match="or a 'budget' to plan for"):
        parse_as(Recipe, tree, where="test")
    assert parse_as(Recipe, tree | {"budget": {"file_mb": "12MB"}}, where="test").is_planned
    assert not parse_as(Recipe, MINIMAL | {"budget": {"file_mb": "12MB"}}, where="test").is_planned


PLANNED = {key: value for key, value in MINIMAL.items() if key != "student"} | {"budget": {"file_mb": "6MB"}}


def test_a_planned_recipe_may_name_sizes_of_its_vocabulary():
    recipe = parse_as(Recipe, PLANNED | {"vocabulary": {"sizes": ["12k", 20_000], "min_count": 2}}, where="test")
    assert recipe.vocab_sizes == (12_000, 20_000)
    assert recipe.vocabulary_with(12_000) == recipe.vocabulary
    assert recipe.vocabulary_with(None) is None  # all words were taken
    given = parse_as(Recipe, MINIMAL | {"vocabulary": {"min_count": 2}}, where="test")
    assert given.vocabulary_with(None) == given.vocabulary
    several = {**PLANNED, "budget": {}, "budgets": {"a": {"file_mb": 6}, "b": {"file_mb": 8}}}
    parts = parse_as(Recipe, several | {"vocabulary": {"sizes": ["12k"]}}, where="test").parts
    assert [part.vocab_sizes for part in parts] == [(12_000,)] * 2
    plan = parse_as(PlanRecipe, PLANNED, where="test", overrides=["vocabulary.sizes=[12k]", "seed=3"])
    assert (plan.vocabulary.sizes, plan.seed) == ((12_000,), 3)
    assert parse_as(PlanRecipe, MINIMAL | {"vocabulary": {"keep": "names.txt"}}, where="test").vocabulary.sizes == ()


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (PLANNED | {"vocabulary": {"min_count": 2}}, "of a student that is planned needs 'sizes' to choose among"),
        (MINIMAL | {"vocabulary": {"sizes": ["12k"]}}, "'vocabulary.sizes' are for a plan to choose among"),
        (PLANNED | {"vocabulary": {"sizes": "12k"}}, "'vocabulary.sizes': Input should be a list"),
        (PLANNED | {"vocabulary": {"sizes": [True]}}, "'vocabulary.sizes.0': true is no count"),
        (PLANNED | {"vocabulary": {"sizes": ["12k", 12_000]}}, "12000 is named twice"),
        (PLANNED | {"vocabulary": {"sizes": ["many"]}}, "'many' is no count"),
        (PLANNED | {"vocabulary": {"sizes": [0]}}, "vocabulary.sizes.0"),
    ],
)
def test_sizes_of_a_vocabulary_that_cannot_be_are_refused(tree, said):
    with pytest.raises(RecipeError) as caught:
        parse_as(Recipe, tree, where="test")
    assert said in str(caught.value)


@pytest.mark.parametrize("path", FINETUNING, ids=lambda path: path.stem)
def test_shipped_recipes_of_fine_tuning_parse(path):
    assert parse_as(FinetuneRecipe, read_recipe_tree(path), where=str(path)).name == path.stem


@pytest.mark.parametrize(
    ("name", "hidden", "ffn", "heads", "rate"),
    [
        ("base", 576, 2304, 12, 3e-4),
        ("small", 256, 1024, 8, 6e-4),
        ("xsmall", 240, 960, 12, 6e-4),
        ("tiny", 224, 896, 7, 6e-4),
    ],
)
def test_homobert_recipes_have_the_papers_settings(name, hidden, ffn, heads, rate):
    recipe = load_recipe(next(path for path in RECIPES if path.stem == f"homobert-{name}"))
    student, distill = recipe.student, recipe.distill
    assert (student.hidden_size, student.intermediate_size, student.num_attention_heads) == (hidden, ffn, heads)
    assert (distill.steps, distill.batch_size, recipe.text.max_length) == (28_000, 4096, 128)
    assert (distill.learning_rate, distill.betas, distill.eps) == (rate, (0.9, 0.999), 1e-6)


def test_overrides_reach_any_key():
    overrides = ["distill.steps=300", "text.sources.0.column=body", "budget.file_mb=12", "distill.weights.kl=0.5"]
    recipe = parse_as(Recipe, MINIMAL, where="test", overrides=overrides)
    assert (recipe.distill.steps, recipe.text.sources[0].column) == (300, "body")
    assert (recipe.budget.limits(), recipe.distill.weights.kl) == ({"file_mb": 12}, 0.5)
    assert MINIMAL["distill"]["steps"] == 10  # the tree that was given is as it was


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("distill.stepz=3", "unknown key 'distill.stepz'; did you mean 'steps'?"),
        ("text.sources.0.colum=3", "unknown key 'text.sources.0.colum'; did you mean 'column'?"),
        ("budget.latency_p95=3", "did you mean 'latency_p95_ms'?"),
        ("distill.weights.hiden=3", "did you mean 'hidden'?"),
        ("distill.objective=mlm", "'masked-lm', 'sentence-embedding'.*given: 'mlm'"),
        ("distill.steps=0", "^--set distill.steps: "),
        ("distill.prune_until=-1", "^--set distill.prune_until: "),
        ("text.sources.0.column=3", "^--set text.sources.0.column: .*given: 3"),
        ("distill.prune_from=0.9", "prune_until comes before prune_from"),
        ("text.sources.0.dataset=wiki", "either 'dataset' or 'files'"),
        ("distill.betas=[2, 0.9]", "'distill.betas.0'.*less than 1"),
        ("distill.weights.hidden=.inf", "finite number"),
        ("distill={objective: sentence-embedding, steps: 3, batch_size: 1}", "'batch_size' must be 2 or more"),
        (
            "distill={objective: masked-lm, steps: 3, batch_size: 2, method: minilm, repair: true}",
            "minilm prunes",
        ),
        ("distill={objective: masked-lm, batch_size: 2, method: repair, int8_share: 0.5}", "share of nothing"),
        ("seed=99999999999999999999999", "^--set seed: "),
        ("name=../up", "^--set name: "),
        ("name=..", "^--set name: "),
        ("students=[{name: .., hidden_size: 96}]", "'students.0.name'"),
        ("student={hidden_size: 96, finish: 0.5}", "student.finish is for one of several 'students'"),
        ("distill.weights={task: 0, kl: 0, hidden: 0, attention: 0, embedding: 0, relation: 0}", "weight 0"),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(RecipeError, match=words) as caught:
        parse_as(Recipe, MINIMAL, where="test", overrides=[override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"teacher": None, "teachr": "some/model"},
            "test: unknown key 'teachr', and 'teacher' is missing; did you mean 'teacher'?",
        ),
        (
            {"teacher": None, "distill": {"stepz": 10}},
            "test: unknown key 'distill.stepz', and 'teacher', 'distill.objective', 'distill.steps', "
            "'distill.batch_size' are missing; did you mean 'steps'?; add what is missing, or give it with --set",
        ),
        ({"teacher": None}, "test: 'teacher' is missing; add what is missing, or give it with --set"),
    ],
)
def test_unknown_and_missing_keys_are_told_together(change, told):
    tree = {key: value for key, value in (MINIMAL | change).items() if value is not None}
    with pytest.raises(RecipeError) as caught:
        parse_as(Recipe, tree, where="test")
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("text", "place", "told"),
    [
        ("name: a\ntext: {sources: [1\n", "line 3, column 1", "expected ',' or ']', but got '<stream end>'"),
        ("name: a\n\tteacher: b\n", "line 2, column 1", "found character '\\t' that cannot start any token"),
        ("name: a\nteacher: b: c\n", "line 2, column 11", "mapping values are not allowed here"),
    ],
)
def test_where_a_recipe_is_no_yaml_is_told(tmp_path, text, place, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}, {place}: is not YAML ({told}); look for ")


def test_every_field_has_its_help():
    sections = [Recipe]
    while sections:
        for name, field in sections.pop().model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                sections.append(field.annotation)
            else:
                assert field.description, name


@pytest.mark.parametrize(
    ("given", "method", "is_repaired"),
    [
        ({"objective": "sentence-embedding"}, "one-shot", True),
        ({"objective": "classification"}, "one-shot", True),
        ({"objective": "masked-lm"}, "homodistil", True),
        ({"prune_until": 0.3}, "homodistil", False),
        ({"method": "homodistil"}, "homodistil", False),
        ({"method": "one-shot", "repair": False}, "one-shot", False),
        ({"method": "minilm"}, "minilm", False),
        ({"prune_every": 2, "repair": True}, "homodistil", True),
    ],
)
def test_how_a_student_is_pruned_and_whether_it_is_mended_where_the_recipe_does_not_say(given, method, is_repaired):
    settings = parse_as(Recipe, MINIMAL | {"distill": {**MINIMAL["distill"], **given}}, where="test").distill
    assert (settings.method, settings.repair) == (method, is_repaired)


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({"objective": "sentence-embedding"}, 0),
        ({"objective": "sentence-embedding", "weights": {"hidden": 2}}, 0),
        ({"objective": "sentence-embedding", "weights": {"attention": 0.1}}, 0.1),
        ({"objective": "sentence-embedding", "method": "tinybert"}, 1),
        ({"objective": "classification"}, 1),
        ({"objective": "masked-lm"}, 1),
    ],
)
def test_sentence_encoders_do_not_learn_attention_unless_asked(given, weight):
    settings = parse_as(Recipe, MINIMAL | {"distill": {**MINIMAL["distill"], **given}}, where="test").distill
    assert settings.weights.attention == weight


def test_several_students_need_a_path():
    tree = {key: value for key, value in MINIMAL.items() if key != "student"} | {"students": ["small", "tiny"]}
    assert parse_as(Recipe, tree, where="test").distill.method == "homodistil"


def test_digest_is_of_the_content():
    same, other = parse_as(Recipe, MINIMAL, where="a"), parse_as(Recipe, MINIMAL, where="b", overrides=["seed=1"])
    assert same.digest() == parse_as(Recipe, dict(reversed(MINIMAL.items())), where="c").digest()
    assert same.digest() != other.digest()


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ({"floor": "lots"}, "'lots' is no floor: write a figure such as 0.8, or a share such as 95%"),
        ({"floor": -0.5}, "'-0.5' is no floor"),
        ({"floor": 80}, "80 is more than 1; write 80%"),
        ({"floor": 1.5, "task": "sst2"}, "1.5 is more than 1; write 1.5%"),
        ({"floor": "101%"}, "nothing is as faithful as 101%"),
        ({}, "'quality.floor' is missing"),
        ({"floor": 0.8, "task": "sst3"}, "quality.task"),
        ({"floor": 0.8, "task": "sts"}, "sts is judged on files: name them with 'data'"),
        ({"floor": 0.8, "task": "sst2", "data": "*.tsv"}, "'data' is not for sst2; its files are in 'data_dir'"),
        ({"floor": 0.8, "data_dir": "glue"}, "'data_dir' is for GLUE's tasks, not for fidelity"),
        ({"floor": 0.8, "dat": "x"}, "did you mean 'data'"),
    ],
)
def test_a_floor_of_quality_has_to_make_sense(quality, words):
    with pytest.raises(RecipeError, match=re.escape(words)):
        parse_as(Recipe, {**MINIMAL, "quality": quality}, where="recipe")


def test_floors_are_figures_or_shares():
    share, figure = (
        parse_as(Recipe, {**MINIMAL, "quality": {"floor": floor}}, where="x").quality for floor in ("95%", 0.8)
    )
    assert (share.relative, share.level) == (True, 0.95)
    assert (figure.relative, figure.level) == (False, 0.8)


def test_the_docs_floor_is_one():
    of_sentences, of_search = (
        parse_as(Recipe, {**MINIMAL, **yaml.safe_load(text)}, where="docs").quality
        for text in snippets("evaluating.md", "A floor under quality", "yaml")
    )
    assert (of_sentences.task, of_sentences.relative, of_sentences.level) == ("stsb", True, 0.95)
    assert (of_search.task, of_search.metric, of_search.level) == ("search", "ndcg@10", 0.95)


def test_the_search_recipe_shows_a_floor_in_its_comments():
    whole, _, shown = (FOLDER / "search.yaml").read_text().partition("\n# quality:")
    lines = [line.removeprefix("# ") for line in f"# quality:{shown}".splitlines()]
    recipe = parse_as(Recipe, yaml.safe_load("\n".join([whole, *lines])), where="search.yaml")
    assert (recipe.quality.task, recipe.quality.metric, recipe.quality.level) == ("search", "ndcg@10", 0.95)
    assert recipe.output == "teacher"


LABELLED = {
    "teacher": "t",
    "text": {"sources": [{"files": "train.csv", "column": "review", "label_column": "stars"}], "max_length": 32},
    "student": {"hidden_size": 8},
    "distill": {"objective": "classification", "steps": 1, "batch_size": 2},
    "quality": {"task": "classification", "data": "dev.csv", "floor": "90%"},
    "finetune": {},
}


def test_a_teacher_learns_from_the_labelled_text_by_default():
    recipe = Recipe.model_validate(LABELLED)
    train, dev = recipe.finetune.data(recipe.text, recipe.quality)
    assert train == ("train.csv", Columns(text="review", label="stars"))
    assert dev == ("dev.csv", Columns(text="text", label="label"))  # quality's own
    settings = recipe.finetune.settings(recipe.text.max_length)
    assert settings == FinetuneSettings(max_length=32)
    named = {"train": "a.csv", "dev": "b.csv", "label_column": "grade", "max_length": 16, "epochs": 2}
    recipe = Recipe.model_validate(LABELLED | {"finetune": named, "quality": None})
    columns = Columns(text="review", label="grade")
    assert recipe.finetune.data(recipe.text, None) == (("a.csv", columns), ("b.csv", columns))
    assert recipe.finetune.settings(32) == FinetuneSettings(max_length=16, epochs=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quality": None}, "with 'finetune.dev', or with 'quality.data'"),
        ({"quality": {"task": "sst2", "floor": "90%"}}, "with 'finetune.dev', or with 'quality.data'"),
        ({"text": {"sources": [{"files": "a.csv"}]}}, "no files of text have labels: name the files to fine-tune on"),
        ({"text": {"sources": [*LABELLED["text"]["sources"]] * 2}}, "2 sources of text have labels"),
        ({"distill": {**LABELLED["distill"], "objective": "sentence-embedding"}}, "distill.objective is sentence-emb"),
        ({"finetune": {"epoch": 2}}, "did you mean 'epochs'?"),
        ({"finetune": {"teacher_weight": 1.0}}, "unknown key 'finetune.teacher_weight'"),
    ],
)
def test_a_teacher_has_something_to_learn_from(changes, said):
    with pytest.raises(RecipeError) as caught:
        parse_as(Recipe, LABELLED | changes, where="recipe")
    assert said in str(caught.value)
