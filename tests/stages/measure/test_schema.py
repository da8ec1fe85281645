"""The published schema: results follow it, readers of it refuse what they cannot know."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.measurement import SCHEMA_FILE, Grid, json_schema, read_measurement
from homoexport.errors import UserError
from homoexport.stages.measure import extras, measure_packages
from homoexport.stages.measure.measurement import Extras
from tests.stages.measure.tiny_onnx import write_package

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("schema")
    packages = [write_package(folder / name) for name in ("one", "other")]
    wanted = Extras(streams=(1, 2), rates_per_s=(200.0,), budget_p95_ms=50.0, arena_batches=(1, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extras, "_HALVINGS", 1)  # a search that is over soon
        found = measure_packages(packages, length=8, min_seconds=0.05, extras=wanted)
    assert len(found.results[0].streams) == 2
    assert found.results[0].open_loop is not None
    assert [step.batch_size for step in found.results[0].arena] == [1, 4]
    return {"alone": found, "grid": Grid(cells=(found, found))}


def test_the_shipped_schema_is_the_codes() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema()


@pytest.mark.parametrize("kind", ["alone", "grid"])
def test_results_follow_the_schema_and_read_back_as_they_were(measured: dict, kind: str, tmp_path: Path) -> None:
    document = json.loads(json.dumps(measured[kind].model_dump(mode="json")))
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(document, json_schema(), cls=jsonschema.Draft202012Validator)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    assert read_measurement(path) == measured[kind]


def test_a_budgets_verdicts_are_part_of_it(measured: dict, tmp_path: Path) -> None:
    verdict = BudgetVerdict(line="latency_p95_ms", limit=8.0, measured=7.0, interval=(6.5, 7.5), kept=True)
    judged = measured["alone"].model_copy(update={"budget": (verdict,)})
    document = json.loads(json.dumps(judged.model_dump(mode="json")))
    jsonschema.validate(document, json_schema())
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert read_measurement(tmp_path / "r.json") == judged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "3.0"}, "is of schema version 3.0, and this homoexport reads 2.7"),
        ({"schema_version": 1}, "has no schema_version"),
        ({"schema_version": None}, "has no schema_version"),
        ({"threads": "many"}, "does not follow the schema: .*threads"),
        ({"kind": "guess"}, "does not follow the schema"),
    ],
)
def test_what_is_not_of_this_version_is_refused(measured: dict, tmp_path: Path, change: dict, message: str) -> None:
    document = copy.deepcopy(measured["alone"].model_dump(mode="json")) | change
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message) as raised:
        read_measurement(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs_per_round": 0}, "runs_per_round"),
        ({"runs_per_round": 7, "samples_ms": [1.0] * 10}, "10 samples of one in rounds of 7"),
        ({"samples_ms": []}, "samples_ms"),
        ({"latency_p50_ms": 0.0}, "latency_p50_ms"),
    ],
)
def test_figures_that_cannot_be_are_refused(measured: dict, tmp_path: Path, change: dict, message: str) -> None:
    document = json.loads(json.dumps(measured["alone"].model_dump(mode="json")))
    document["results"][0] |= change
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        read_measurement(path)


def test_a_later_minor_version_is_read(measured: dict, tmp_path: Path) -> None:
    document = measured["alone"].model_dump(mode="json") | {"schema_version": "2.9", "something_new": 1}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    assert read_measurement(path).results == measured["alone"].results  # type: ignore[union-attr]


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_measurement(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_measurement(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="has no schema_version"):
        read_measurement(tmp_path / "list.json")
