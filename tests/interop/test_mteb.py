"""A task of MTEB, on data of our own, gives what our own evaluation gives."""

from __future__ import annotations

import json

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from homoexport.errors import PackageError, UserError  # noqa: E402
from homoexport.stages.evaluate import Examples, evaluate_models, evaluate_on_mteb  # noqa: E402
from tests.stages.measure.tiny_onnx import write_package  # noqa: E402

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore"),  # its imports warn of much that is not ours
]
RNG = np.random.default_rng(0)
PAIRS = [(f"w{a} w{b}", f"w{c} w{a} w{d}") for a, b, c, d in RNG.integers(0, 50, (100, 4))]
SCORES = RNG.integers(0, 6, 100).astype(float).tolist()


class OwnSTS(AbsTaskSTS):
    """Pairs that are here."""

    metadata = TaskMetadata(
        name="OwnSTS",
        description="Pairs of words.",
        dataset={"path": "own/sts", "revision": "1"},
        type="STS",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
    )

    def load_data(self, **_: object) -> None:
        left, right = zip(*PAIRS, strict=True)
        rows = Dataset.from_dict({"sentence1": list(left), "sentence2": list(right), "score": SCORES})
        self.dataset = {"test": rows}
        self.data_loaded = True


@pytest.fixture(autouse=True)
def _own_task(monkeypatch):
    real = mteb.get_task
    monkeypatch.setattr(mteb, "get_task", lambda name: OwnSTS() if name == "OwnSTS" else real(name))


def test_the_score_is_the_one_of_our_own_evaluation(tmp_path):
    package = str(write_package(tmp_path / "package"))
    (found,) = evaluate_on_mteb([package], ["OwnSTS"])
    (ours,) = evaluate_models([package], Examples("", tuple(PAIRS), tuple(map(str, SCORES))), task="sts")
    (metric,) = found.metrics
    assert metric.value == pytest.approx(ours.metrics[0].value, abs=5e-4)
    assert (metric.metric, metric.score) == ("OwnSTS", "cosine_spearman")
    assert found.digest == ours.digest


def test_the_command_tells_it(homoexport, tmp_path):
    package = write_package(tmp_path / "package")
    told = homoexport("eval", package, "--task", "mteb", "--name", "OwnSTS", "--json")
    assert told.code == 0, told.err
    document = json.loads(told.out)
    assert document["data"] == {"source": "MTEB", "tasks": ["OwnSTS"]}
    value = document["results"][0]["metrics"][0]["value"]
    assert f"{value:.4f}" in homoexport("eval", package, "--task", "mteb", "--name", "OwnSTS").out


def test_what_cannot_be_judged_is_told(tmp_path):
    package = str(write_package(tmp_path / "package"))
    with pytest.raises(UserError, match=r"STS112.*Did you mean"):
        evaluate_on_mteb([package], ["STS112"])
    other = str(write_package(tmp_path / "other", "fill-mask"))
    with pytest.raises(PackageError, match="gives no vectors"):
        evaluate_on_mteb([other], ["OwnSTS"])
