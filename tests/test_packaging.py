"""What the product imports is what it asks for; the wheel holds what it needs, and runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

from homoexport.documents.recipe import read_recipe_tree

tomllib = pytest.importorskip("tomllib")  # of Python 3.11
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {
    "onnxruntime-extensions": "strings",
    "mteb": "mteb",
    "openvino": "openvino",
    "ctranslate2": "ctranslate2",
}  # distributions, and the extra that asks for them
NOT_IMPORTED = {"requests"}  # by us; why it is asked for stands beside it


def name_of(requirement: str) -> str:
    """A requirement's distribution, as the index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def imported() -> set[str]:
    """Top-level modules that the product imports, at the top of files or inside functions."""
    names: set[str] = set()
    for path in (ROOT / "homoexport").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"homoexport"}


def test_every_import_is_asked_for_and_no_more_is():
    known = packages_distributions() | {"mteb": ["mteb"]}
    needed = {name_of(known[module][0]) for module in imported()}
    asked = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert asked == (needed - OPTIONAL.keys()) | NOT_IMPORTED
    for name, extra in OPTIONAL.items():
        assert name in {name_of(requirement) for requirement in PROJECT["optional-dependencies"][extra]}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_extras_are_not_empty(extra):
    assert PROJECT["optional-dependencies"][extra]


def pins_of(file: str) -> set[str]:
    """`name==version` of each line of a lock or of constraints."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", (ROOT / file).read_text(), re.M)
    return {f"{name_of(name)}=={version}" for name, version in found}


@pytest.mark.parametrize("kind", ["", "-interop", "-tools", "-runtime", "-measure", "-docs"])
def test_locks_have_the_hashes_of_every_pin_but_torchs(kind):
    locked = (ROOT / f"requirements{kind}-lock.txt").read_text()
    pins = {pin for pin in pins_of(f"constraints{kind}.txt") if not pin.startswith("torch==")}
    assert pins_of(f"requirements{kind}-lock.txt") == pins, "make lock"
    assert all("--hash=sha256:" in each for each in re.split(r"\n(?=[a-z])", locked.strip()))


def test_a_recipe_that_is_shipped_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_recipe_tree(Path("quickstart")) == read_recipe_tree(ROOT / "recipes/quickstart.yaml")
    Path("quickstart").write_text("name: mine")  # but a file comes first
    assert read_recipe_tree(Path("quickstart")) == {"name": "mine"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built apart from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("homoexport", "recipes"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(folder)], check=True)
    (built,) = (folder / "dist").iterdir()
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel):
    paths = (path.relative_to(ROOT) for path in (ROOT / "homoexport").rglob("*") if path.is_file())
    recipes = {f"homoexport/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    expected = {str(path) for path in paths if "__pycache__" not in path.parts} | recipes
    assert {name for name in ZipFile(wheel).namelist() if name.startswith("homoexport/")} == expected


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.weights
def test_the_wheel_runs_the_quickstart_from_an_empty_environment(wheel, tmp_path):
    """Of this environment it sees the other packages alone."""
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    (others,) = (tmp_path / "empty").glob("lib/python*/site-packages")
    (others / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    settings = ("distill.steps=4", "distill.batch_size=8", "text.held_out=40", "measure.min_seconds=0.2")
    flags = [word for setting in settings for word in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [tmp_path / "empty/bin/homoexport", "run", "quickstart", "--output", "run", *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr  # a few steps keep no budget of quality
    assert (tmp_path / "run/report.md").is_file()
    where = subprocess.run(
        [python, "-c", "import homoexport; print(homoexport.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert where.stdout.decode().startswith(str(tmp_path / "empty"))
