"""The house stands: a floor imports only from floors below it, and no stage imports another."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "homoexport"
# In the order of their imports.
WORDS = [
    "errors",
    "panics",
    "growth",
    "limits",
    "plain",
    "telemetry",
    "units",
    "cgroup",
    "host",
    "choices",
    "schemes",
    "lock",
]
WORDS += ["packaged", "globs", "shape"]
FLOORS = [
    set(WORDS),
    {"documents"},
    {"data"},
    {"encoder", "text", "runtime"},
    {"trim", "distill", "export", "measure", "evaluate", "finetune", "plan", "report"},
    {"workflow"},
    {"cli", "__init__"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[parts[0] == "stages"].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Rooms of homoexport that a file imports, at its top or inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "homoexport"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {
            name.removeprefix("homoexport.").removeprefix("stages.").split(".")[0]
            for name in names
            if name.startswith("homoexport.")
        }
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_floors(path):
    room = room_of(path)
    for imported in imports_of(path) - {room}:
        if LEVEL[room] == 0:
            assert WORDS.index(imported) < WORDS.index(room)
        else:
            assert LEVEL[imported] < LEVEL[room], f"{room} imports {imported}"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "homoexport.documents.artifact, homoexport.documents.recipe, homoexport.documents.budget, homoexport.host",
            ("torch", "onnxruntime"),
        ),
        (
            "homoexport.runtime.inference, homoexport.stages.measure, homoexport.stages.evaluate, homoexport.cli",
            ("torch", "transformers"),
        ),
        pytest.param("homoexport.stages.distill", ("onnx", "onnxruntime"), marks=pytest.mark.slow),
    ],
)
def test_what_a_room_does_not_load(modules, absent):
    script = f"import sys, {modules}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_command_line_prints():
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) == "cli" or path.name in ("ssh_there.py", "bridge.py"):  # programs that speak over pipes
            continue
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "print" not in calls, path
