"""The short form of `make fuzz`: the same inputs each time, some of each target."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS
from tests.fuzz.watch import Watch

INPUTS = {"models": 12, "packages": 40, "recipes": 40}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_inputs_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.delenv("HOMOEXPORT_LIMITS", raising=False)
    make, watch = TARGETS[name](tmp_path), Watch(tmp_path)
    for number in range(INPUTS.get(name, 300)):
        watch.read(make(random.Random(f"short/{number}")))
    assert watch.refused > watch.inputs / 4
