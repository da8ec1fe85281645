import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from homoexport.encoder import encoder_of
from homoexport.errors import DeviceError, HomoexportError, PackageError
from homoexport.host import available_cores, describe_host
from homoexport.runtime.inference import open_package
from homoexport.runtime.worker.by_onnxruntime import OnnxModel
from homoexport.runtime.worker.protocol import InputsRequest, LoadReply, LoadRequest
from homoexport.stages.export.ctranslate2_file import write_folder
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu
from homoexport.stages.measure.targets.protocol import build_worker
from tests.conftest import tiny_bert, tiny_tokenizer
from tests.stages.measure.tiny_onnx import weights, write_encoder, write_package

pytestmark = pytest.mark.processes


@pytest.fixture
def local() -> Iterator[LocalCpu]:
    target = LocalCpu()
    target.open()
    yield target
    target.close()


@pytest.fixture
def worker(local: LocalCpu) -> Iterator[Worker]:
    with Worker(local, subject="the package") as running:
        yield running


def load(
    worker: Worker, model: Path, *, threads: int = 1, batch_size: int = 1, length: int = 16, vocab_size: int = 64
) -> LoadReply:
    loaded = worker.load(LoadRequest(str(model), threads))
    worker.inputs(InputsRequest(batch_size, length, vocab_size))
    return loaded


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


RUNTIMES = {"onnxruntime", "openvino", "ctranslate2"}


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_worker_imports_its_runtime_and_none_of_the_frameworks(tmp_path: Path, runtime: str) -> None:
    if runtime == "ctranslate2":
        model = write_folder(encoder_of(tiny_bert(), tiny_tokenizer()), tmp_path / "ctranslate2", "int8", work=tmp_path)
    else:
        model = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    requests = [
        {"command": "load", "model": str(model), "threads": 1},
        {"command": "inputs", "batch_size": 1, "length": 8, "vocab_size": 64},
        {"command": "warm", "seconds": 0.1},
    ]
    command = [sys.executable, "-I", "-X", "importtime", build_worker(tmp_path), runtime]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    modules = {name.partition(".")[0] for name in names}
    assert {"numpy", runtime} <= modules
    assert not modules & {"torch", "transformers", "tokenizers", "onnx", "scipy", *RUNTIMES - {runtime}}
    ours = {
        name for name in names if name.startswith("homoexport.") and not name.startswith("homoexport.runtime.worker")
    }
    assert ours == {"homoexport.host", "homoexport.cgroup", "homoexport.runtime", "homoexport.telemetry"}


def test_worker_finds_all_of_itself_in_its_file(tmp_path: Path) -> None:
    """Where homoexport is installed, as here, what is missing in the file would be found there."""
    script = (
        "import runpy, sys; worker = sys.argv[1]; runpy.run_path(worker, run_name='__main__');"
        "print([name for name, module in sys.modules.items() if name.startswith('homoexport')"
        " and not module.__file__.startswith(worker)], file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, build_worker(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_peak_memory_is_the_kernels_and_grows_with_the_model(worker: Worker, tmp_path: Path) -> None:
    status = Path(f"/proc/{worker.process_id}/status").read_text()
    assert worker.greeting.runtime_rss_bytes <= int(status.split("VmHWM:")[1].split()[0]) * 1024
    arrays = weights(hidden=1024, layers=5)  # 21 MB
    load(worker, write_encoder(tmp_path / "model.onnx", "sentence-similarity", arrays))
    worker.warm(seconds=0.1)
    growth = worker.memory().peak_rss_bytes - worker.greeting.runtime_rss_bytes
    assert growth > sum(array.nbytes for name, array in arrays.items() if name.startswith("layer"))


def test_peak_memory_is_not_the_parents(worker: Worker, local: LocalCpu) -> None:
    ballast = np.ones(40_000_000)  # 320 MB
    with Worker(local, subject="the package") as later:
        difference = later.greeting.runtime_rss_bytes - worker.greeting.runtime_rss_bytes
    assert abs(difference) < ballast.nbytes / 10


def test_asked_batch_and_length_make_the_memory(local: LocalCpu, tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "model.onnx", "feature-extraction", weights(hidden=64))
    peaks = []
    for batch_size in (1, 256):
        with Worker(local, subject="the package") as running:
            load(running, model, batch_size=batch_size, length=512)
            running.warm(seconds=0.1)
            peaks.append(running.memory().peak_rss_bytes)
    assert peaks[1] - peaks[0] > 256 * 512 * 64 * 4


def test_timed_runs_are_as_many_as_asked_and_plausible(worker: Worker, tmp_path: Path) -> None:
    load(
        worker, write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights(hidden=256), repeat=8), length=64
    )
    worker.warm(seconds=1)
    start = time.perf_counter_ns()
    samples_ns = worker.time(runs=30).samples_ns
    elapsed_ns = time.perf_counter_ns() - start
    assert len(samples_ns) == 30
    assert 0 < sum(samples_ns) < elapsed_ns


def test_worker_opens_a_package_as_inference_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_package(tmp_path / "package")
    opened = []

    def record(model: str, options: ort.SessionOptions, **more: object) -> ort.InferenceSession:
        opened.append((model, options.intra_op_num_threads, options.inter_op_num_threads, more))
        return create(model, options, **more)

    create = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", record)
    details = open_package(package, threads=1).details
    OnnxModel(LoadRequest(str(details.model), threads=1))
    assert opened[0] == opened[1]
    assert opened[0][1:] == (1, 1, {"providers": ["CPUExecutionProvider"]})


@pytest.mark.alone
def test_sleeping_worker_takes_no_processor_time(local: LocalCpu, tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights(hidden=256), repeat=8)
    with Worker(local, subject="the package") as running:
        load(running, model, threads=min(2, available_cores()), length=64)
        running.warm(seconds=0.2)
        running.time(runs=20)
        before_ns = running.counters().own_cpu_ns
        time.sleep(0.3)
        assert running.counters().own_cpu_ns - before_ns < 15e6


def test_only_the_protocol_is_on_stdout(tmp_path: Path) -> None:
    worker_file = build_worker(tmp_path)
    model = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    requests = [
        {"command": "warm", "seconds": 0.1},
        {"command": "load", "model": str(model), "threads": 1},
        {"command": "inputs", "batch_size": 1, "length": 8, "vocab_size": 64},
        {"command": "time", "runs": 2},
        {"command": "quit"},
        {"command": "memory"},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([sys.executable, "-I", worker_file], input=lines, capture_output=True, text=True, check=True)
    greeting, too_early, loaded, given, timed = (json.loads(line) for line in done.stdout.splitlines())
    assert greeting["versions"]["numpy"] == np.__version__
    assert not too_early["ok"]
    assert loaded["ok"]
    assert given["batches"] == 1
    assert len(timed["samples_ns"]) == 2


def test_the_parent_sleeps_while_its_worker_measures(worker: Worker, tmp_path: Path) -> None:
    load(worker, write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights(hidden=256), repeat=8))
    median_ns = worker.warm(seconds=1).median_ns
    before_ns = time.process_time_ns()
    samples_ns = worker.time(runs=round(1e9 / median_ns)).samples_ns
    assert time.process_time_ns() - before_ns < 0.02 * sum(samples_ns)


@pytest.mark.parametrize("damage", ["truncated", "token", "missing"])
def test_what_cannot_be_measured_is_told_in_one_line(worker: Worker, tmp_path: Path, damage: str) -> None:
    model = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-500])
    if damage == "missing":
        model.unlink()
    if damage == "token":
        load(worker, model, vocab_size=10_000)
    with pytest.raises(PackageError, match="the package: ") as raised:
        worker.warm(seconds=0.1) if damage == "token" else load(worker, model)
    assert "\n" not in str(raised.value)


class Scripted(LocalCpu):
    """A target whose workers say these lines, whatever they are asked."""

    def __init__(self, *lines: str) -> None:
        super().__init__()
        self._lines = lines

    def _command(self) -> list[str]:
        return [sys.executable, "-c", f"print({chr(10).join(self._lines)!r}, flush=True); input()"]


GREETING = {
    "ok": True,
    "protocol_version": 1,
    "runtime_rss_bytes": 1,
    "versions": {},
    "providers": [],
    "host": vars(describe_host()),
    "cores": [],
}


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (
            '{"ok": true, "samples_ns": [5, "6"], "energy_uj": null, "energy_runs": 0}',
            "'samples_ns.1': Input should",
        ),
        (
            '{"ok": true, "samples_ns": [5, 6.5], "energy_uj": null, "energy_runs": 0}',
            "'samples_ns.1': Input should",
        ),
        ('{"ok": true}', "'samples_ns': Field required"),
        ('{"ok": false, "error": "no"}', "'kind': Field required"),
        ('{"samples_ns": [5]}', "'ok': Field required"),
        ("[" * 9999, "Invalid JSON"),
        ("Last login: yesterday", "Invalid JSON"),
    ],
)
def test_a_reply_that_is_not_of_the_protocol_is_one_line(reply: str, fault: str) -> None:
    with (
        Worker(Scripted(json.dumps(GREETING), reply), subject="the package") as worker,
        pytest.raises(HomoexportError) as raised,
    ):
        worker.time(runs=2)
    assert str(raised.value).startswith(f"the package: the worker's reply to 'time' is not of the protocol ({fault}")
    assert "\n" not in str(raised.value)


def test_killed_worker_is_told_as_want_of_memory(worker: Worker) -> None:
    os.kill(worker.process_id, signal.SIGKILL)
    with pytest.raises(DeviceError, match="the package: the worker was killed, most likely for want of memory"):
        worker.memory()


def test_crashed_worker_is_our_failure(worker: Worker) -> None:
    os.kill(worker.process_id, signal.SIGSEGV)
    with pytest.raises(HomoexportError, match="died of SIGSEGV") as raised:
        worker.memory()
    assert raised.value.exit_code == 1


def test_worker_ends_with_the_block_and_with_an_interrupt(local: LocalCpu) -> None:
    with Worker(local, subject="the package") as running:
        ended = running.process_id
    assert not is_running(ended)
    with pytest.raises(KeyboardInterrupt), Worker(local, subject="the package") as running:
        raise KeyboardInterrupt
    assert not is_running(running.process_id)


def test_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent_code = (
        "import time; from homoexport.stages.measure.process import Worker\n"
        "from homoexport.stages.measure.targets import LocalCpu\n"
        "target = LocalCpu(); target.open(); worker = Worker(target, subject='x')\n"
        "print(worker.process_id, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.kill()
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)
