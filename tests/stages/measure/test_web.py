"""The `web` target: onnxruntime-web in a browser of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import DeviceError, PackageError
from homoexport.host import available_cores
from homoexport.runtime.inference import read_package
from homoexport.runtime.worker.protocol import InputsReply, InputsRequest, LoadReply, LoadRequest
from homoexport.stages.measure import answers_of_file, measure_packages, rank_runs, targets
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import OutOfMemory, open_target, web
from homoexport.stages.measure.targets.web import (
    RUNTIME_VERSION,
    WebOptions,
    WebTarget,
    find_browser,
    parse_web,
    runtime_folder,
)
from tests.stages.measure.tiny_onnx import weights, write_encoder, write_package

LACKING = [need.what for need in WebTarget().needs()]

needs_browser = [
    pytest.mark.web,
    pytest.mark.processes,
    pytest.mark.skipif(bool(LACKING), reason=f"lacks {' and '.join(LACKING)} (homoexport doctor --set-up web)"),
]


def marked(test: Callable[..., None]) -> Callable[..., None]:
    """A test that starts a browser."""
    for mark in needs_browser:
        test = mark(test)
    return test


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.KINDS, "web", (parse_web, "web"))


@pytest.fixture
def target() -> Iterator[WebTarget]:
    with open_target("web") as opened:
        assert isinstance(opened, WebTarget)
        yield opened


def write_int8_package(folder: Path) -> Path:
    """The tiny package with dynamically quantized products."""
    package = write_package(folder, precision="int8")
    model = package / "onnx" / "model.onnx"
    quantize_dynamic(model, model, weight_type=QuantType.QInt8, per_channel=True)
    details = read_manifest(package, PackageManifest).details
    (package / "manifest.json").unlink()
    write_manifest(package, "package", details=details)
    return package


def load(worker: Worker, model: Path, *, threads: int = 1) -> LoadReply:
    return worker.load(LoadRequest(str(model), threads, outputs=("sentence_embedding",), providers=("wasm",)))


def encoder(folder: Path) -> Path:
    return write_encoder(folder / "model.onnx", "sentence-similarity", weights())


def browser_processes() -> dict[int, str]:
    """Every process of a browser whose profile is of this target's making, with its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            dead = path.with_name("stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if "--user-data-dir=" in line and "homoexport-browser-" in line and not dead:
            found[int(path.parent.name)] = line
    return found


def profiles(processes: dict[int, str]) -> set[Path]:
    return {Path(match[1]) for line in processes.values() if (match := re.search(r"--user-data-dir=(\S+)", line))}


def started_with(before: dict[int, str]) -> dict[int, str]:
    return {process: line for process, line in browser_processes().items() if process not in before}


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@marked
@pytest.mark.parametrize("write", [write_package, write_int8_package], ids=["fp32", "int8"])
def test_package_answers_as_it_does_natively(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    package = write(tmp_path / "package")
    measured = measure_packages([package], device="web", threads=1, length=8, min_seconds=0.05)
    (figures,) = measured.results
    assert figures.agreement is not None
    assert figures.agreement.within
    assert not measured.emulated
    assert measured.versions["onnxruntime-web"] == RUNTIME_VERSION
    assert re.fullmatch(r"\d+(\.\d+)+", measured.versions["chromium"])
    assert measured.host.cross_origin_isolated is True
    assert figures.peak_rss_mb > figures.runtime_rss_mb > 0
    assert 0 < figures.latency_p50_ms <= figures.latency_p95_ms
    model_bytes = read_package(package).model.stat().st_size
    runtime = runtime_folder() / "node_modules" / "onnxruntime-web" / "dist"
    wasm_bytes = (runtime / "ort-wasm-simd-threaded.wasm").stat().st_size
    script_bytes = (runtime / "ort.wasm.min.mjs").stat().st_size
    assert figures.download_bytes is not None
    rest = figures.download_bytes - model_bytes - wasm_bytes - script_bytes
    assert 0 < rest < 100_000  # the page, its script, and what starts the runtime
    assert figures.runtime_download_bytes is not None
    assert wasm_bytes + script_bytes <= figures.runtime_download_bytes < figures.download_bytes - model_bytes
    assert figures.package_download_bytes == sum(
        (package / name).stat().st_size
        for name in ("onnx/model.onnx", "tokenizer.json", "config.json", "tokenizer_config.json")
        if (package / name).is_file()
    )


@marked
def test_packages_are_compared_on_real_texts(tmp_path: Path) -> None:
    packages = [write_package(tmp_path / name, repeat=repeat) for name, repeat in (("one", 1), ("two", 200))]
    texts = [" ".join(f"w{i}" for i in range(3 + number % 5)) for number in range(8)]
    measured = measure_packages(
        packages, device="web", threads=1, length=16, min_seconds=0.05, texts=texts, text_source="words"
    )
    assert [comparison.verdict for comparison in measured.comparisons] == ["slower"]
    assert all(figures.agreement is not None and figures.agreement.within for figures in measured.results)


@marked
def test_files_are_timed_in_turns_across_devices_and_threads(tmp_path: Path) -> None:
    small, large = (
        write_encoder(tmp_path / f"{repeat}.onnx", "sentence-similarity", weights(), repeat=repeat)
        for repeat in (1, 200)
    )
    runs = [(large, "web:backend=wasm", 1), (small, "web:backend=wasm", 1), (small, "web", 1)]
    how = {"vocab_size": 64, "outputs": ("sentence_embedding",), "batch_size": 1, "length": 8}
    slow, fast, as_fast = rank_runs(runs, min_seconds=0.05, **how)
    assert slow > 2 * fast > 0
    assert as_fast < slow


@marked
def test_webgpu_answers_as_torch_does_on_an_imitated_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of a GPU in software say nothing, so such an adapter is refused; but its answers can be looked at."""
    room = tmp_path / "room"
    shutil.copytree(web._FOLDER, room)
    script = (room / "worker.js").read_text()
    refusal = "if (isFallbackAdapter || /swiftshader|llvmpipe/i.test(name)) {"
    assert refusal in script
    (room / "worker.js").write_text(script.replace(refusal, "if (false) {"))
    monkeypatch.setattr(web, "_FOLDER", room)
    device = f"web:backend=webgpu,browser={software_gpu(tmp_path)}"
    batch = {"input_ids": np.array([[5, 6, 7, 8]]), "attention_mask": np.ones((1, 4), np.int64)}
    asked = {"pad_token_id": 0, "output": "sentence_embedding"}
    (there,), (here,) = (answers_of_file(encoder(tmp_path), [batch], device=name, **asked) for name in (device, "cpu"))
    assert np.abs(there - here).max() < 1e-4 * np.abs(here).max()


@marked
@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_two_threads_give_the_same_answer_where_the_page_is_isolated(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", arrays=weights(hidden=64))
    measured = measure_packages([package], device="web:threads=2", length=8, min_seconds=0.05)
    (figures,) = measured.results
    assert measured.threads == 2
    assert figures.agreement is not None
    assert figures.agreement.within


@marked
def test_threads_without_isolation_are_refused_and_one_thread_measures(tmp_path: Path) -> None:
    target = WebTarget("web", WebOptions(isolation="off"))
    target.open()
    assert target.cores() == 1
    with Worker(target, subject="the package") as worker:
        assert worker.greeting.host.cross_origin_isolated is False
        assert worker.greeting.host.clock_step_us > 50
        load(worker, encoder(tmp_path))
        worker.inputs(InputsRequest(1, 8, 64))
        assert len(worker.time(runs=3).samples_ns) == 3
        with pytest.raises(DeviceError, match="more than one thread needs a cross-origin isolated page"):
            load(worker, encoder(tmp_path), threads=2)
    target.close()


@marked
def test_protocol_is_the_workers(target: WebTarget, tmp_path: Path) -> None:
    with Worker(target, subject="the package") as worker:
        assert worker.greeting.protocol_version == 1
        assert worker.greeting.providers == ["wasm"]
        quanta_ns = worker.spin(seconds=0.1)
        assert np.median(quanta_ns) >= 200_000
        loaded = load(worker, encoder(tmp_path))
        assert loaded.load_ns > 0
        assert worker.inputs(InputsRequest(2, 8, 64)) == InputsReply(batches=1)
        warm_up = worker.warm(seconds=5)
        assert warm_up.time_to_first_result_ms * 1e6 > loaded.load_ns + warm_up.first_inference_ns
        assert worker.warm(seconds=0.1).time_to_first_result_ms is None
        start = time.perf_counter_ns()
        timed = worker.time(runs=20)
        assert 0 <= sum(timed.samples_ns) < time.perf_counter_ns() - start
        assert len(timed.samples_ns) == 20
        assert timed.energy_uj is None
        memory = worker.memory()
        assert memory.peak_rss_bytes >= memory.rss_bytes > 10_000_000
        assert worker.tokenize(tokenizer="", texts=[], max_length=8, runs=1) is None
        assert worker.post(task="", output="", runs=1) is None
        before = worker.counters()
        worker.spin(seconds=0.3)
        after = worker.counters()
        assert 0.2e9 < after.own_cpu_ns - before.own_cpu_ns < 2 * (after.time_ns - before.time_ns)
        grown = []
        for size in (1, 256):
            worker.inputs(InputsRequest(size, 64, 64))
            grown.append(worker.once(shrink=False).rss_bytes)
        assert grown[0] < grown[1]
        assert worker.once(shrink=True).rss_bytes is None
        maps = Path(f"/proc/{worker.process_id}/maps").read_text()
        assert not any(library in maps for library in ("torch", "onnxruntime", "pydantic"))
        with pytest.raises(DeviceError, match="'streams' cannot be measured in a browser"):
            worker.streams(streams=2, seconds=0.1)
        with pytest.raises(DeviceError, match="'arrivals' cannot be measured in a browser"):
            worker.arrivals(rate_per_s=10, requests=1, seconds=0.1, seed=0)


@marked
def test_idle_page_takes_no_processor_time(target: WebTarget, tmp_path: Path) -> None:
    with Worker(target, subject="the package") as worker:
        load(worker, encoder(tmp_path))
        worker.inputs(InputsRequest(1, 8, 64))
        worker.warm(seconds=2)
        spent_ns = []
        for _ in range(5):  # on a busy machine the browser is at its own start for a while
            before_ns = worker.counters().own_cpu_ns
            time.sleep(1)
            spent_ns.append(worker.counters().own_cpu_ns - before_ns)
            if spent_ns[-1] < 0.1e9:
                return
        pytest.fail(f"{spent_ns} ns of processor time in idle seconds")


@marked
def test_external_data_is_fetched_and_counted(target: WebTarget, tmp_path: Path) -> None:
    model = encoder(tmp_path)
    with Worker(target, subject="the package") as worker:
        whole = load(worker, model).download_bytes
        onnx.save(onnx.load(model), model, save_as_external_data=True, location="model.onnx.data", size_threshold=500)
        (tmp_path / "other.bin").write_bytes(b"x" * 100_000)
        split = load(worker, model).download_bytes
        worker.inputs(InputsRequest(1, 8, 64))
        worker.time(runs=1)
    parts = model.stat().st_size + (tmp_path / "model.onnx.data").stat().st_size
    assert abs(split - whole) < 5000 < parts < 100_000


@marked
@pytest.mark.parametrize("damage", ["truncated", "missing", "token"])
def test_what_cannot_be_measured_is_told_in_one_line(target: WebTarget, tmp_path: Path, damage: str) -> None:
    model = encoder(tmp_path)
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-500])
    if damage == "missing":
        model.unlink()
    with Worker(target, subject="the package") as worker:

        def measure(vocab_size: int) -> None:
            load(worker, model)
            worker.inputs(InputsRequest(1, 8, vocab_size))
            worker.warm(seconds=0.1)

        with pytest.raises(PackageError, match="the package: ") as raised:
            measure(10_000 if damage == "token" else 64)
        assert "\n" not in str(raised.value)
        encoder(tmp_path)
        measure(64)  # the page goes on working


@marked
def test_tensor_beyond_webassemblys_memory_is_told_as_such(target: WebTarget, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Expand", ["values", "shape"], ["sentence_embedding"]),
        ],
        "huge",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([200_000_000, 1, 8]), "shape")],
    )
    model = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), model)
    with Worker(target, subject="the package") as worker:
        load(worker, model)
        worker.inputs(InputsRequest(1, 8, 64))
        with pytest.raises(OutOfMemory, match="the package: needs more memory than there is"):
            worker.warm(seconds=1)


@marked
@pytest.mark.parametrize("wait", [0.0, 1.0], ids=["at-work", "before-the-request"])
def test_crashed_page_is_told_as_want_of_memory(target: WebTarget, tmp_path: Path, wait: float) -> None:
    before = browser_processes()
    with Worker(target, subject="the package") as worker:
        load(worker, encoder(tmp_path))
        for process, line in started_with(before).items():
            if "--type=renderer" in line:
                os.kill(process, signal.SIGKILL)
        time.sleep(wait)
        with pytest.raises(OutOfMemory, match="the page crashed, most likely for want of memory"):
            worker.spin(seconds=60)


@marked
def test_ended_browser_is_told_in_one_line(target: WebTarget) -> None:
    before = browser_processes()
    with Worker(target, subject="the package") as worker:
        (browser,) = (process for process, line in started_with(before).items() if is_browser(line))
        os.kill(browser, signal.SIGKILL)
        with pytest.raises(DeviceError, match="web: the browser ended: "):
            worker.spin(seconds=60)


def is_browser(line: str) -> bool:
    return "--type=" not in line and "keeper.py" not in line


@marked
@pytest.mark.parametrize("victim", ["bridge", "keeper", "nobody"])
def test_no_browser_and_no_profile_stay_behind(target: WebTarget, tmp_path: Path, victim: str) -> None:
    before = browser_processes()
    with Worker(target, subject="the package") as worker:
        load(worker, encoder(tmp_path))
        mine = started_with(before)
        folders = profiles(mine)
        assert len(folders) == 1
        assert all(folder.is_dir() for folder in folders)
        if victim == "keeper":
            (browser,) = (process for process, line in mine.items() if is_browser(line))
            keeper = int(Path(f"/proc/{browser}/stat").read_text().rpartition(")")[2].split()[1])
            assert b"keeper.py" in Path(f"/proc/{keeper}/cmdline").read_bytes()
            os.kill(keeper, signal.SIGKILL)
        if victim == "bridge":
            os.kill(worker.process_id, signal.SIGKILL)
        if victim != "nobody":
            assert wait_until(lambda: not set(mine) & set(browser_processes()))
    target.close()
    assert not set(mine) & set(browser_processes())
    for folder in folders:
        if victim == "keeper":  # killed before it could
            subprocess.run(["rm", "-r", folder], check=True)
        assert not folder.exists()


@marked
def test_browser_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from homoexport.stages.measure.process import Worker\n"
        "from homoexport.stages.measure.targets.web import WebTarget\n"
        "target = WebTarget(); target.open(); worker = Worker(target, subject='x')\n"
        "print(worker.process_id, flush=True); worker.spin(seconds=60)"
    )
    before = browser_processes()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what the killed parent itself leaves there
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent:
        bridge = int(parent.stdout.readline())
        mine = started_with(before)
        folders = profiles(mine)
        assert folders
        parent.kill()
    assert wait_until(lambda: not set(mine) & set(browser_processes()))
    assert wait_until(lambda: not any(folder.exists() for folder in folders))
    assert wait_until(lambda: not Path(f"/proc/{bridge}").exists())


@marked
def test_browser_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "chrome"
    fake.write_text("#!/bin/sh\necho 'no usable sandbox' >&2\nexit 1\n")
    fake.chmod(0o755)
    target = WebTarget("web:browser=x", WebOptions(browser=str(fake)))
    target.open()
    with pytest.raises(DeviceError) as raised:
        Worker(target, subject="the package")
    target.close()
    assert str(raised.value) == "web:browser=x: the browser ended: no usable sandbox"


def software_gpu(folder: Path) -> Path:
    """A browser whose GPU is imitated in software."""
    browser = folder / "chrome"
    flags = "--use-webgpu-adapter=swiftshader --enable-unsafe-swiftshader"
    browser.write_text(f'#!/bin/sh\nexec {find_browser()} {flags} "$@"\n')
    browser.chmod(0o755)
    return browser


@marked
def test_gpu_that_is_none_is_refused(tmp_path: Path) -> None:
    target = WebTarget("web", WebOptions(backend="webgpu", browser=str(software_gpu(tmp_path))))
    target.open()
    with pytest.raises(DeviceError, match="WebGPU adapter here"):
        Worker(target, subject="the package")
    target.close()
