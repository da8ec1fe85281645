"""Recipes of strangers: refused in one line, and none starts a program, logs in elsewhere or uploads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from homoexport.documents.recipe import Recipe, parse_as, read_recipe_tree
from homoexport.errors import RecipeError

GOOD = {
    "teacher": "t",
    "text": {"sources": [{"files": "*.txt"}]},
    "student": {"hidden_size": 8},
    "distill": {"objective": "masked-lm", "steps": 1, "batch_size": 2},
}
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
BROKEN = {
    "aliases": LAUGHS,
    "an alias of itself": "a: &a\n  b: *a\n",
    "a program": "name: !!python/object/apply:os.system ['true']\n",
    "lists": "[" * 20_000,
    "mappings": "{a: " * 200 + "1" + "}" * 200,
    "digits": f"seed: {'9' * 5000}\n",
    "hexadecimal digits": f"seed: 0x{'f' * 5000}\n",
    "a key that is a number": "1: 2\n",
    "a key that is nothing": "~: 2\n",
    "a key that is a list": "? [a, b]\n: c\n",
    "a day that is none": "name: 2020-13-45\n",
    "binary": 'name: !!binary "!!!"\n',
    "a set": "a: !!set {x}\n",
    "nothing but a prefix": "a: 0b_\n",
    "a point and a line": "a: ._\n",
    "times of sixty": "a: 1:60:99999999999999999999\n",
    "a merge of a number": "<<: 5\n",
    "two documents": "---\na: 1\n---\nb: 2\n",
    "bytes": b"name: \xff\n",
    "nul": b"name: a\0b\n",
    "half a megabyte": "# " + "x" * 600_000,
    "nothing": "",
}
DEVICES = [
    "web:browser=/tmp/evil.sh",
    "web:threads=1,browser=evil.sh",
    "ssh://me@host",
    "ssh://me@host?python=/bin/sh",
    "ssh://me@host?cache=/etc",
    "ssh://-oProxyCommand=id",
    "arm64:cortex-a53,plugin=/tmp/x.so",
    "cpu:threads=$(id)",
    "cpu\n",
    "plugin:/tmp/x.so",
]
SETTINGS = ["text.sources.²=1", "budget.file_mb=0b_", "seed=[", "=1", "text.sources.99999999999999999999.files=a"]


def _write(folder: Path, tree: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_recipes_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        parse_as(Recipe, read_recipe_tree(path), where=str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_reaches_no_further_than_this_machine(tmp_path, device):
    path = _write(tmp_path, GOOD | {"measure": {"device": device}})
    with pytest.raises(RecipeError, match="a file may not ask for the device"):
        read_recipe_tree(path)
    given = parse_as(Recipe, GOOD, where="test", overrides=[f"measure.device='{device}'"])
    assert given.measure.device.strip() == device.strip()


@pytest.mark.parametrize("device", ["cpu", "cpu:threads=1,memory=256MB,quota=0.5", "arm64:cortex-a53", "web:threads=1"])
def test_devices_that_only_compute_stay(tmp_path, device):
    path = _write(tmp_path, GOOD | {"measure": {"device": device}})
    assert read_recipe_tree(path)["measure"]["device"] == device


@pytest.mark.parametrize("tracker", ["wandb", "all", "mlflow"])
def test_a_file_uploads_nothing(tmp_path, tracker):
    path = _write(tmp_path, GOOD | {"distill": GOOD["distill"] | {"trackers": ["tensorboard", tracker]}})
    with pytest.raises(RecipeError, match=f"tracker '{tracker}'"):
        read_recipe_tree(path)


def test_a_target_may_name_a_machine_without_options(tmp_path):
    path = _write(tmp_path, {"measure": {"device": "ssh://me@host:22"}})
    assert read_recipe_tree(path, is_target=True)
    path = _write(tmp_path, {"measure": {"device": "ssh://me@host?python=x"}})
    with pytest.raises(RecipeError, match="a file may not ask"):
        read_recipe_tree(path, is_target=True)


@pytest.mark.parametrize("assignment", SETTINGS)
def test_settings_that_cannot_be_read(assignment):
    with pytest.raises(RecipeError):
        parse_as(Recipe, GOOD, where="test", overrides=[assignment])


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\udc80.yaml"])
def test_names_of_recipes_that_are_none(name):
    with pytest.raises(RecipeError):
        read_recipe_tree(Path(name))
