"""Losses, gaps and importance of a small fixed run: a change that should not move them shows that it does not.

After a change that should move them: `GOLDEN_UPDATE=1 pytest tests/stages/distill/test_golden.py`, and say why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from homoexport.stages.distill import Run
from tests.stages.distill.test_loop import run_of, settings_of

GOLDEN = Path(__file__).parent / "golden.json"


def fill(run: Run) -> None:
    """Weights of our own drawing, the same under every version of transformers."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(run.teacher.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = values + 1 if "LayerNorm.weight" in name else values
        run.student.get_parameter(name).data = parameter.data.clone()


@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
def test_a_small_run_is_as_it_was(tiny_folder, corpus_file, objective):
    torch.set_num_threads(1)
    run, batches = run_of(tiny_folder(masked_lm=objective == "masked-lm"), corpus_file, settings_of(objective))
    fill(run)
    measured: dict[str, list[float]] = {"loss": [], "hidden": [], "importance": []}
    for step in range(8):
        terms = run.advance(batches.of_step(step)).terms
        measured["loss"].append(sum(terms.values()))
        measured["hidden"].append(terms["hidden"])
        if step == 4:
            measured["importance"] = [vector.sum().item() for vector in run.ranking.scores().values()]
    if os.environ.get("GOLDEN_UPDATE"):
        kept = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
        GOLDEN.write_text(json.dumps({**kept, objective: measured}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())[objective]
    for name, values in measured.items():
        assert values == pytest.approx(golden[name], rel=1e-3, abs=1e-6), name
