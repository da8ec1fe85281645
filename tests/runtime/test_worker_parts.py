"""The worker's parts in this process: inputs, counters, energy, callers."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from homoexport.runtime.worker import machine, traffic
from homoexport.runtime.worker.around import time_post_processing, time_tokenizing
from homoexport.runtime.worker.inputs import make_batches
from homoexport.runtime.worker.machine import EnergyMeter, counters, spin
from homoexport.runtime.worker.protocol import InputsRequest, LoadRequest
from homoexport.runtime.worker.serve import ModelServer
from tests.stages.measure.tiny_onnx import weights, write_encoder, write_tokenizer


@pytest.fixture(params=["onnxruntime", "openvino"])
def model(tmp_path, request):
    file = write_encoder(tmp_path / "model.onnx", "feature-extraction", weights())
    return ModelServer(request.param).open_model(LoadRequest(str(file), threads=1))


def use_rows(model, *rows):
    """Say that inferences are of these rows, two by two."""
    model.use(make_batches(InputsRequest(2, rows=rows)))


def test_rows_are_padded_by_batch_and_take_turns(model):
    use_rows(model, (2, 5, 3), (2, 3), (2, 5, 6, 7, 3), (2, 3), (9,))
    assert len(model.batches) == 2  # the last row makes no whole batch
    first, second = model.batches
    assert first["input_ids"].tolist() == [[2, 5, 3], [2, 3, 0]]
    assert first["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert second["input_ids"].shape == (2, 5)
    assert [model.next_feeds() is batch for batch in (first, second, first)] == [True, True, True]
    assert len(model.time(5)) == 5
    assert model.next_feeds() is second  # five runs from the first batch on


def test_random_ids_are_the_same_every_time_and_within_the_vocabulary(model):
    model.use(make_batches(InputsRequest(2, 8, 64)))
    once = model.batches[0]["input_ids"]
    model.use(make_batches(InputsRequest(2, 8, 64)))
    np.testing.assert_array_equal(model.batches[0]["input_ids"], once)
    assert once.min() >= 0
    assert once.max() < 64
    assert model.batches[0]["attention_mask"].all()


def test_an_answer_is_the_models(model, tmp_path):
    model.use(make_batches(InputsRequest(1, 4, 64)))
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(["last_hidden_state"], model.batches[0])
    reply = model.answer("last_hidden_state")
    assert reply.shape == list(expected.shape)
    values = np.frombuffer(base64.b64decode(reply.float32), "<f4").reshape(reply.shape)
    np.testing.assert_allclose(values, expected, rtol=0.02, atol=0.02)  # OpenVINO takes bf16 where it is fast


def test_only_outputs_that_are_asked_for_are_answered(tmp_path):
    file = write_encoder(tmp_path / "model.onnx", "sentence-similarity", weights())
    for runtime in ("onnxruntime", "openvino"):
        model = ModelServer(runtime).open_model(LoadRequest(str(file), 1, outputs=("sentence_embedding",)))
        model.use(make_batches(InputsRequest(3, 4, 64)))
        (vectors,) = model.run(model.outputs, model.next_feeds())
        assert vectors.shape == (3, 16)
        assert model.providers()[0].startswith({"onnxruntime": "CPUExecution", "openvino": "OpenVINO CPU"}[runtime])
        model.run_once(shrink=True)


def test_a_thread_that_cannot_start_stops_the_others(monkeypatch):
    starts = []
    start = threading.Thread.start

    def third_fails(thread: threading.Thread) -> None:
        starts.append(thread)
        if len(starts) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", third_fails)
    with pytest.raises(RuntimeError, match="start new thread"):
        traffic.run_streams(Slow(), 4, 0.1)


class Slow:
    """Stands for a model whose inference takes 5 ms, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        with self._lock:
            time.sleep(0.005)
        return time.perf_counter_ns() - start


@pytest.mark.alone
def test_latency_of_arrivals_counts_the_wait():
    """Twice as many arrivals as can be served: the queue, and so the latency, grows to the end."""
    reply = traffic.run_arrivals(Slow(), rate_per_s=400, requests=40, seconds=10, seed=0)
    latency = np.array(reply.latency_ns) / 1e6
    service = np.array(reply.service_ns) / 1e6
    assert len(latency) == 40
    assert (latency >= service).all()
    assert np.median(latency[-10:]) > 3 * np.median(latency[:10])
    assert sum(reply.service_ns) / reply.wall_ns > 0.8  # hardly ever idle


def test_few_arrivals_hardly_wait():
    reply = traffic.run_arrivals(Slow(), rate_per_s=20, requests=15, seconds=10, seed=1)
    assert np.median(reply.latency_ns) < 2 * np.median(reply.service_ns)
    assert sum(reply.service_ns) / reply.wall_ns < 0.5


def test_a_rate_beyond_what_can_be_served_has_an_end():
    reply = traffic.run_arrivals(Slow(), rate_per_s=1e6, requests=10_000, seconds=0.1, seed=0)
    assert 1 <= len(reply.latency_ns) == len(reply.service_ns) < 100
    assert len(traffic.run_arrivals(Slow(), rate_per_s=0.01, requests=100, seconds=0.1, seed=9).latency_ns) == 1


def test_streams_wait_for_each_other_and_all_are_counted():
    alone = traffic.run_streams(Slow(), 1, 0.2)
    four = traffic.run_streams(Slow(), 4, 0.2)
    # The mean, by Little's law whatever the order in which the lock lets them in; the median is not.
    assert np.mean(four.samples_ns) > 2.5 * np.mean(alone.samples_ns)
    rates = [len(each.samples_ns) / each.wall_ns for each in (alone, four)]
    assert 0.6 < rates[1] / rates[0] < 1.6  # one at a time, however many ask


def test_a_stream_that_fails_is_told():
    class Broken:
        def run_ns(self) -> int:
            raise ValueError("no such input")

    with pytest.raises(ValueError, match="no such input"):
        traffic.run_streams(Broken(), 2, 0.1)


def test_post_processing_is_the_tasks(tmp_path, model):
    use_rows(model, (2, 5, 3), (2, 3))
    assert len(time_post_processing(model, "feature-extraction", "last_hidden_state", 7)) == 7
    assert time_post_processing(model, "sentence-similarity", "last_hidden_state", 7) is None


def test_tokenizing_is_timed_text_by_text(tmp_path):
    write_tokenizer(tmp_path)
    samples = time_tokenizing(str(tmp_path / "tokenizer.json"), ["w1 w2", "w3"], 8, 5)
    assert len(samples) == 5
    assert min(samples) > 0


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_energy_is_the_sum_of_the_packages_and_wraps(tmp_path):
    for package, start in enumerate((1000, 999_000)):
        write(tmp_path / f"class/powercap/intel-rapl:{package}/energy_uj", str(start))
        write(tmp_path / f"class/powercap/intel-rapl:{package}/max_energy_range_uj", "1000000")
        write(tmp_path / f"class/powercap/intel-rapl:{package}:0/energy_uj", "5")  # a part of its package
    meter = EnergyMeter(tmp_path)
    assert meter.source == "rapl"
    before = meter.read()
    assert before == [1000, 999_000]
    write(tmp_path / "class/powercap/intel-rapl:0/energy_uj", "1500")
    write(tmp_path / "class/powercap/intel-rapl:1/energy_uj", "200")
    assert meter.since(before) == 500 + 1200


def test_energy_of_sensors_or_of_nothing(tmp_path):
    assert EnergyMeter(tmp_path).source is None
    assert EnergyMeter(tmp_path).since([]) is None
    write(tmp_path / "class/hwmon/hwmon3/energy1_input", "70")
    meter = EnergyMeter(tmp_path)
    assert (meter.source, meter.read()) == ("hwmon", [70])


def test_hardware_threads_of_one_core_stand_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for core, siblings in enumerate(("0-1", "0-1", "2-3", "2-3", "4", "5")):
        write(tmp_path / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list", siblings)
    assert machine.like_cores(tmp_path) == [0, 2, 4, 5, 1, 3]


def test_every_core_has_its_share_of_the_spinning(monkeypatch):
    pinned = []
    monkeypatch.setattr(machine, "pin", pinned.append)
    quanta = machine.spin(0.06, [3, 5])
    assert pinned == [[3], [5]]
    assert 0.03e9 < sum(quanta) < 0.3e9


def test_cores_are_the_fast_ones_and_threads_follow(tmp_path, monkeypatch):
    mine = sorted(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert machine.like_cores(tmp_path) == [0, 1, 2, 3]
    for core, rate in enumerate((4_800_000, 5_000_000, 3_400_000, 3_400_000)):
        write(tmp_path / f"devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq", str(rate))
    assert machine.like_cores(tmp_path) == [0, 1]
    monkeypatch.undo()
    ready, done = threading.Event(), threading.Event()
    helper = threading.Thread(target=lambda: (ready.set(), done.wait()))
    helper.start()
    ready.wait()
    try:
        machine.pin(mine[:1])
        assert os.sched_getaffinity(helper.native_id) == {mine[0]}
    finally:
        machine.pin(mine)
        done.set()
        helper.join()
    assert sorted(os.sched_getaffinity(0)) == mine


def test_rest_ends_when_no_thread_runs():
    looks = iter([True, True, False, True])
    machine.rest(lambda: next(looks))
    assert next(looks)


def test_rest_ends_though_a_thread_never_does(monkeypatch):
    monkeypatch.setattr(machine, "_MOST_REST_SECONDS", 0.01)
    looks = count()
    machine.rest(lambda: next(looks) >= 0)
    assert next(looks) >= 2


def test_threads_run_by_their_state():
    with subprocess.Popen([sys.executable, "-c", "input()\nwhile True: pass"], stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: not machine.threads_run(process.pid))
            process.stdin.write(b"\n")
            process.stdin.flush()
            wait_until(lambda: machine.threads_run(process.pid))
        finally:
            process.kill()
    assert not machine.threads_run(process.pid)


def test_own_threads_run_but_for_the_one_that_asks(monkeypatch):
    end = threading.Event()
    wait_until(lambda: not machine.own_threads_run())
    busy = threading.Thread(target=lambda: [None for _ in iter(end.is_set, True)])
    busy.start()
    try:
        wait_until(machine.own_threads_run)
        monkeypatch.setattr(machine, "_PROC", Path("/none"))  # as on a host without /proc
        wait_until(machine.own_threads_run)
    finally:
        end.set()
        busy.join()
    wait_until(lambda: not machine.own_threads_run())


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_counters_count_this_process_and_the_host():
    before = counters()
    spun = spin(0.15)
    after = counters()
    assert 0 < after.own_cpu_ns - before.own_cpu_ns <= after.time_ns - before.time_ns + 1e7
    assert after.host_busy_ns >= before.host_busy_ns
    assert len(spun) > 20
    assert sum(spun) <= after.time_ns - before.time_ns
