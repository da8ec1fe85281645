"""The table of terms, and the toy term of docs/adding-a-loss-term.md."""

from __future__ import annotations

import textwrap
from types import SimpleNamespace

import pytest
import torch
from pydantic import Field
from torch.nn import functional

from homoexport.documents.recipe import LossWeights
from homoexport.stages.distill import terms
from homoexport.stages.distill.batches import Counts
from homoexport.stages.distill.terms import TERMS, weights_at, weights_of
from tests.snippets import snippets
from tests.stages.distill.test_loop import run_of, settings_of

FUNCTION, LINE, WEIGHT = snippets("adding-a-loss-term.md", "A toy term", "python")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[LossWeights]:
    """The page's term in the table; weights that have its field."""
    monkeypatch.setattr(terms, "TERMS", dict(TERMS))
    exec(FUNCTION + LINE, dict(vars(terms)))
    names = {"Field": Field, "LossWeights": LossWeights}
    exec("class Weights(LossWeights):\n" + textwrap.indent(WEIGHT, "    "), names)
    return names["Weights"]


def test_every_term_has_a_weight_and_a_title():
    assert set(LossWeights.model_fields) == {"task", "kl", "vectors", *TERMS}
    assert all(field.title for field in LossWeights.model_fields.values())


def test_methods_have_their_own_terms():
    weights = LossWeights()
    assert weights_of("homodistil", weights) == weights.model_copy(update={"relation": 0.0})
    assert weights_of("minilm", weights) == LossWeights(hidden=0, attention=0, embedding=0)


def test_tinybert_has_the_layers_terms_first_and_the_outputs_for_the_last_quarter():
    settings = settings_of("masked-lm", method="tinybert", steps=12)
    layers = LossWeights(task=0, kl=0, vectors=0, relation=0)
    assert [weights_at(settings, step) == layers for step in range(12)] == [True] * 9 + [False] * 3
    assert weights_at(settings, 9) == LossWeights(hidden=0, attention=0, embedding=0, relation=0)
    assert weights_at(settings_of("masked-lm"), 0) == weights_at(settings_of("masked-lm"), 11)


@pytest.mark.usefixtures("toy")
def test_the_pages_function_is_its_formula():
    student, teacher, projection = torch.randn(2, 5, 4), torch.randn(2, 5, 6), torch.randn(4, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    seen = SimpleNamespace(
        student=SimpleNamespace(states={2: student}),
        teacher=SimpleNamespace(states={3: teacher}),
        token_mask=mask,
        projections=SimpleNamespace(hidden={3: projection}),
        counts=Counts(2, 7, 0, 0, {}),
    )
    expected = 0.0
    for row, length in enumerate((5, 2)):
        ours, theirs = (student[row, :length] @ projection).mean(0), teacher[row, :length].mean(0)
        expected += (1 - functional.cosine_similarity(ours, theirs, dim=0)) / 2
    torch.testing.assert_close(terms.TERMS["mean_state"].error(seen, 2, 3), expected)


def test_the_pages_term_follows_through_a_run(toy, tiny_folder, corpus_file):
    reports = {}
    for size in (2, 8):
        settings = settings_of("sentence-embedding", weights=toy(mean_state=2.0), micro_batch_size=size)
        run, batches = run_of(tiny_folder(), corpus_file, settings)
        reports[size] = [run.advance(batches.of_step(step)) for step in range(4)]
        run.close()
    small, whole = reports[2], reports[8]
    assert small[0].terms["mean_state"] == pytest.approx(0, abs=1e-6)
    assert small[3].terms["mean_state"] > 1e-4
    assert small[3].terms["mean_state"] == pytest.approx(whole[3].terms["mean_state"], rel=1e-3)
    weighted = sum(value * getattr(run.loss.weights, name) for name, value in small[3].terms.items())
    assert small[3].loss == pytest.approx(weighted) == small[3].gap
