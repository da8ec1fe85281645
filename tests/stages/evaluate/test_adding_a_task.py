"""docs/adding-an-evaluation-task.md: its toy task judges as it stands there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import Examples, evaluate_models, tasks
from tests.snippets import DOCS
from tests.stages.measure.tiny_onnx import weights, write_package

FUNCTION, ROW, TEST = re.findall(
    r"^```python\n(.*?)^```", (DOCS / "adding-an-evaluation-task.md").read_text(encoding="utf-8"), re.M | re.S
)
PAIRS = tuple((f"w{number % 50}", f"w{number % 7}") for number in range(40))


def examples() -> Examples:
    return Examples("pairs", PAIRS, tuple(str((-1) ** number) for number in range(len(PAIRS))))


def one_score() -> dict[str, np.ndarray]:
    arrays = weights()
    return arrays | {"head": arrays["head"][:, :1]}


def test_the_toy_task_judges_as_its_test_has_it(tmp_path, monkeypatch):
    function: dict[str, object] = {}
    exec(FUNCTION, function)
    named = vars(tasks) | {"ordering_qualities": function["ordering_qualities"]}
    for name, row in eval(f"{{{ROW}}}", named).items():
        monkeypatch.setitem(tasks.TASKS, name, row)

    def counted_by_hand() -> float:
        model = open_package(tmp_path / "package")
        right = [(model.score([pair])[0] > 0) == (number % 2 == 0) for number, pair in enumerate(PAIRS)]
        return sum(right) / len(right)

    names = {"write_package": write_package, "evaluate_models": evaluate_models, "pytest": pytest}
    names |= {"examples": examples, "one_score": one_score, "counted_by_hand": counted_by_hand}
    exec(TEST, names)
    names["test_right_orders_are_counted"](tmp_path)
