import importlib.util
import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import openvino
import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import DeviceError, PackageError, UserError
from homoexport.host import available_cores
from homoexport.stages.measure import Extras, answers_of_file, measure_packages, rank_files
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu, OutOfMemory, open_target
from homoexport.stages.measure.timing import (
    MIN_ROUNDS,
    Subject,
    Workload,
    _are_alike,
    _cores_of_round,
    _not_slower,
    running,
    take_rounds,
)
from tests.stages.measure.tiny_onnx import weights, write_encoder, write_package

pytestmark = pytest.mark.processes


def test_planted_slower_package_is_found_and_the_figures_are_those_of_the_samples(tmp_path: Path) -> None:
    arrays = weights(hidden=128, layers=2)
    quick = write_package(tmp_path / "quick", arrays=arrays, repeat=4)
    slow = write_package(tmp_path / "slow", arrays=arrays, repeat=16)
    told: list[tuple[str, float]] = []
    measurement = measure_packages(
        [quick, slow],
        batch_size=2,
        length=32,
        min_seconds=0.3,
        progress=lambda stage, share: told.append((stage, share)),
    )

    assert [comparison.verdict for comparison in measurement.comparisons] == ["slower"]
    comparison = measurement.comparisons[0]
    assert (comparison.package, comparison.against) == (str(slow), str(quick))
    assert 1 / 8 < comparison.speedup_p50 < 1 / 2  # four times the layers
    assert comparison.interval[0] <= comparison.speedup_p50 <= comparison.interval[1]

    for figures in measurement.results:
        samples = np.array(figures.samples_ms)
        assert len(samples) == figures.runs
        assert figures.runs % figures.runs_per_round == 0
        assert figures.runs >= 20 * figures.runs_per_round
        assert samples.sum() >= 300
        for percent in (50, 90, 95, 99):
            assert getattr(figures, f"latency_p{percent}_ms") == np.percentile(samples, percent)
        assert figures.latency_mean_ms == pytest.approx(samples.mean())
        assert figures.latency_std_ms == pytest.approx(samples.std())
        assert figures.throughput_per_s == pytest.approx(2 / (samples.mean() / 1000))
        low, high = figures.latency_p50_interval_ms
        assert low <= figures.latency_p50_ms <= high
        assert figures.file_bytes == (Path(figures.package) / "onnx/model.onnx").stat().st_size
        assert figures.peak_rss_mb > figures.runtime_rss_mb > 10
    assert told[-1] == ("timing", 1.0)
    shares = [share for stage, share in told if stage == "timing"]
    assert shares == sorted(shares)


@pytest.mark.slow
def test_package_is_not_faster_than_itself(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", arrays=weights(hidden=128, layers=2), repeat=4)
    measurement = measure_packages([package, package], length=32, min_seconds=0.5)
    low, high = measurement.comparisons[0].interval
    assert low < 1.05
    assert high > 1 / 1.05


def test_json_holds_what_readers_of_it_count_on(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", "fill-mask", precision="int8")
    measured = json.loads(json.dumps(measure_packages([package], length=8, min_seconds=0.05).model_dump(mode="json")))
    assert (measured["schema_version"], measured["kind"]) == ("2.7", "measurement")
    conditions = (measured["device"], measured["threads"], measured["batch_size"], measured["length"])
    assert conditions == ("cpu", available_cores(), 1, 8)
    assert measured["host"]["available_cores"] == available_cores()
    assert measured["versions"]["numpy"] == np.__version__
    assert measured["comparisons"] == []
    (result,) = measured["results"]
    assert (result["name"], result["task"], result["precision"]) == ("package", "fill-mask", "int8")
    assert len(result["latency_p95_interval_ms"]) == 2


def test_external_data_counts_as_the_file(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    file, data = package / "onnx" / "model.onnx", package / "onnx" / "numbers"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location=data.name, size_threshold=100)
    write_manifest(package, "package", details=read_manifest(package, PackageManifest).details)
    (figures,) = measure_packages([package], length=8, min_seconds=0.05).results
    assert figures.file_bytes == file.stat().st_size + data.stat().st_size
    assert data.stat().st_size > 1000


def files_of_unlike_speed(folder: Path) -> list[Path]:
    """The slowest, the quickest, and one between them."""
    arrays = weights(hidden=128, layers=2)
    return [
        write_encoder(folder / f"{repeat}.onnx", "sentence-similarity", arrays, repeat=repeat) for repeat in (12, 1, 4)
    ]


def test_a_file_of_openvinos_is_timed_beside_an_onnx_file(tmp_path: Path) -> None:
    slow, quick, _ = files_of_unlike_speed(tmp_path)
    for file in (slow, quick):
        openvino.save_model(openvino.Core().read_model(file), file.with_suffix(".xml"), compress_to_fp16=False)
    slow_there, quick_there = slow.with_suffix(".xml"), quick.with_suffix(".xml")
    conditions: dict[str, Any] = {"length": 32, "min_seconds": 0.2, "vocab_size": 64}
    medians = rank_files([slow, quick, slow_there, quick_there], **conditions)
    assert medians[1] < medians[0]
    assert medians[3] < medians[2]
    batch = {name: np.ones((2, 6), np.int64) for name in ("input_ids", "attention_mask")}
    here, there = (
        answers_of_file(file, [batch], device="cpu", pad_token_id=0, output="sentence_embedding")[0]
        for file in (quick, quick_there)
    )
    np.testing.assert_allclose(there, here, atol=0.02)


def test_a_file_of_openvinos_is_refused_where_nothing_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.xml"
    file.write_text("<net/>")
    with pytest.raises(PackageError, match=r"the worker cannot measure it"):
        rank_files([file])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DeviceError, match=r"not installed; pip install 'homoexport\[openvino\]'"):
        rank_files([file])
    monkeypatch.setattr(LocalCpu, "needs", lambda _: [])  # nor on its GPU
    with pytest.raises(DeviceError, match=r"model.xml is for openvino, which runs on this machine's CPU alone"):
        rank_files([file], device="cuda")


def test_files_are_ranked_by_their_latency(tmp_path: Path) -> None:
    files = files_of_unlike_speed(tmp_path)
    slowest, quickest, middle = rank_files(files, length=32, min_seconds=0.2, vocab_size=64)
    assert quickest < middle < slowest


@pytest.mark.parametrize("race", [False, True])
def test_in_a_race_what_is_slower_has_no_more_turns(tmp_path: Path, race: bool) -> None:
    subjects = [Subject(file, file.name, 64) for file in files_of_unlike_speed(tmp_path)]

    def nobody(_stage: str, _share: float) -> None:
        pass

    with open_target("cpu") as target, running(subjects, target, Workload(1, 1, 32), report=nobody) as session:
        take_rounds(session, min_seconds=0.2, report=nobody, patient=False, race=race)
        slowest, quickest, middle = (len(one.rounds_ns) for one in session.running)
    assert quickest < MIN_ROUNDS if race else quickest >= MIN_ROUNDS  # it ends when the fastest is alone
    assert slowest <= quickest if race else slowest == quickest
    assert middle <= quickest if race else middle == quickest
    assert race or session.spin_us


def test_a_race_ends_where_all_that_are_left_are_as_fast() -> None:
    def one(milliseconds: float, noise: float = 0.01) -> Any:
        rounds = milliseconds * (1 + noise * np.random.default_rng(0).standard_normal((10, 3)))
        return SimpleNamespace(rounds_ms=rounds)

    fast, alike, slower = one(4.0), one(4.05), one(4.4)
    assert _not_slower([slower, fast, alike]) == [fast, alike]
    assert _are_alike([fast, alike])
    assert _are_alike([fast])
    other = SimpleNamespace(rounds_ms=np.random.default_rng(1).uniform(3, 5, (10, 3)))  # nobody can tell
    assert not _are_alike(_not_slower([fast, other]))


def short_of_memory(monkeypatch: pytest.MonkeyPatch, *, package: str, command: str, after: int = 0) -> None:
    """Have that package's worker die for want of memory, at a command's first call after so many."""
    ask, calls = Worker._ask, count()

    def asked(worker: Worker, kind: type, name: str, **fields: Any) -> Any:
        if worker.subject.endswith(package) and name == command and next(calls) >= after:
            worker.kill()
            raise OutOfMemory("needs more than it was given", where=worker.subject)
        return ask(worker, kind, name, **fields)

    monkeypatch.setattr(Worker, "_ask", asked)


def test_a_package_that_outgrows_its_memory_while_timed_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [write_package(tmp_path / name) for name in ("one", "big", "other")]
    short_of_memory(monkeypatch, package="big", command="time", after=3)
    found = measure_packages(packages, length=8, min_seconds=0.05)
    assert [figures.name for figures in found.results] == ["one", "other"]
    (failure,) = found.failures
    assert (failure.package, failure.stage) == (str(packages[1]), "timing")
    assert [comparison.package for comparison in found.comparisons] == [str(packages[2])]
    assert found.noise is not None


def test_without_the_first_package_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [write_package(tmp_path / name) for name in ("big", "one", "other")]
    short_of_memory(monkeypatch, package="big", command="warm")
    found = measure_packages(packages, length=8, min_seconds=0.05)
    assert [failure.stage for failure in found.failures] == ["first inference"]
    assert len(found.results) == 2
    assert found.comparisons == ()


def test_what_does_not_fit_after_the_timing_keeps_the_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = [write_package(tmp_path / name) for name in ("one", "big")]
    short_of_memory(monkeypatch, package="big", command="streams")
    found = measure_packages(packages, length=8, min_seconds=0.05, extras=Extras(streams=(2,)))
    assert [len(figures.streams) for figures in found.results] == [1, 0]
    assert [(failure.package, failure.stage) for failure in found.failures] == [(str(packages[1]), "streams")]
    assert len(found.comparisons) == 1


def test_another_provider_than_the_targets_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU cannot be used, onnxruntime says so in its log alone and takes the CPU."""
    ask = Worker._ask

    def fall_back(worker: Worker, kind: type, command: str, **fields: Any) -> Any:
        if command == "load":
            assert fields.pop("providers")[0] == "CUDAExecutionProvider"
            fields["providers"] = ["CPUExecutionProvider"]
        return ask(worker, kind, command, **fields)

    monkeypatch.setattr(Worker, "_ask", fall_back)
    monkeypatch.setattr(LocalCpu, "needs", lambda _: [])
    package = write_package(tmp_path / "package")
    with pytest.raises(DeviceError, match="cannot use its CUDAExecutionProvider here and took CPUExecutionProvider"):
        measure_packages([package], device="cuda", length=8, min_seconds=0.05)


def test_no_rate_is_sought_where_a_single_call_is_too_slow(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    (figures,) = measure_packages([package], length=8, min_seconds=0.05, extras=Extras(budget_p95_ms=1e-6)).results
    assert figures.open_loop is not None
    assert (figures.open_loop.rates, figures.open_loop.highest_rate_per_s) == ((), None)


def test_every_worker_is_gone_when_one_of_them_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write_encoder(tmp_path / "good.onnx", "sentence-similarity", weights())
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(good.read_bytes()[:-300])
    ended: list[int] = []
    kill = Worker.kill

    def record(worker: Worker) -> None:
        kill(worker)
        ended.append(worker.process_id)

    monkeypatch.setattr(Worker, "kill", record)
    with pytest.raises(PackageError, match=r"bad\.onnx"):
        rank_files([good, bad], length=8, vocab_size=64, min_seconds=0.05)
    assert len(ended) == 2
    assert not any(Path(f"/proc/{process_id}").exists() for process_id in ended)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    model = package / "onnx" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(PackageError, match=r"onnx/model\.onnx: truncated") as raised:
        measure_packages([package], length=8)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"device": "toaster"}, DeviceError, "unknown device 'toaster'; name one of: cpu"),
        ({"threads": 4096}, DeviceError, "4096 threads where"),
        ({"threads": 0}, UserError, "threads: 0 is not positive"),
        ({"batch_size": -1}, UserError, "batch_size: -1 is not positive"),
        ({"length": 33}, UserError, "33 tokens where .* takes 32"),
        ({"min_seconds": 0}, UserError, "min_seconds: 0 is not positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, request_: dict, error: type, message: str) -> None:
    package = write_package(tmp_path / "package", max_length=32)
    with pytest.raises(error, match=message):
        measure_packages([package], **{"length": 8, **request_})


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no package"):
        measure_packages([])
    with pytest.raises(UserError, match="no file"):
        rank_files([])
    with pytest.raises(PackageError, match="no such file"):
        rank_files([tmp_path / "model.onnx"])


def test_models_of_a_round_share_their_cores_and_rounds_go_over_all() -> None:
    def cores_of(rounds: int) -> list[int]:
        return _cores_of_round([0, 2, 4], 2, rounds)

    assert [cores_of(rounds) for rounds in range(6)] == [[0, 2], [0, 2], [4, 0], [4, 0], [2, 4], [2, 4]]
    assert [_cores_of_round([0, 1], 2, rounds) for rounds in (0, 2)] == [[0, 1], [0, 1]]
    assert _cores_of_round([0, 1], 3, 3) == []  # the threads need unlike cores, too
    assert _cores_of_round([], 1, 3) == []
